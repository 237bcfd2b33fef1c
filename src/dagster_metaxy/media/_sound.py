"""The sound of a media file, decoded and resampled, piece by piece, for every module that hears."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from dagster_metaxy.media._container import Media, decoder, demux, open_media, seconds
from dagster_metaxy.media.errors import MediaError, Words, reading

SPEECH_RATE = 16_000
"""Samples per second that models of speech take."""


def resampled(
    media: Media, *, format: str, layout: str | None, rate: int, track: int = 0
) -> Generator[tuple[float, AudioFrame]]:
    """The sound of an audio track, with the time at which each piece begins.

    Args:
        media: The file.
        format: Of the samples, as FFmpeg calls it (`s16`, `flt` ...).
        layout: Of the channels; as the sound begins if None.
        rate: Samples per second.
        track: Index of the audio track, from 0.

    Yields:
        Seconds from the start of the file, and samples.

    Raises:
        MediaError: There is no such track, or a part of it can't be decoded. A track without any
            decodable sound yields nothing.
    """
    with reading() as words, open_media(media) as container:
        stream = _track(container, track)
        begin = (container.start_time or 0) / 1_000_000
        end = 0.0
        shape: tuple[str, str, int] | None = None
        resampler: AudioResampler | None = None
        decoder = Decoder(stream, words)
        for frame in (f for packet in demux(container, stream) for f in decoder.frames(packet)):
            time = end if frame.time is None else max(0.0, frame.time - begin)
            if shape != (now := (frame.format.name, frame.layout.name, frame.sample_rate)):
                # Broadcasts change from stereo to 5.1 and back; a resampler can't.
                if resampler is not None:
                    yield from ((end, piece) for piece in resampler.resample(None))
                layout = layout or frame.layout.name
                resampler = AudioResampler(format, layout, rate)
                shape = now
            assert resampler is not None
            yield from ((time, piece) for piece in resampler.resample(frame))
            end = time + frame.samples / frame.sample_rate
        if resampler is not None:
            yield from ((end, piece) for piece in resampler.resample(None))


def _track(container: InputContainer, index: int) -> AudioStream:
    tracks = container.streams.audio
    if not tracks:
        raise MediaError("no audio stream")
    if index >= len(tracks):
        raise MediaError(
            f"no audio track {index}: it has {len(tracks)}, the first of which is track 0"
        )
    return tracks[index]


class Decoder:
    """Decodes the packets of an audio track."""

    def __init__(self, stream: AudioStream, words: Words) -> None:
        decoder(stream)
        self._stream = stream
        self._words = words
        self._time = 0.0
        self._decoded = False
        self._failed: MediaError | None = None

    def frames(self, packet: Packet) -> Iterator[AudioFrame]:
        """The frames of a packet.

        Raises:
            MediaError: An earlier one could not be decoded.
        """
        if packet.pts is not None:
            self._time = seconds(self._stream, packet.pts - (self._stream.start_time or 0))
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            sentence = f"sound at {self._time:.2f} s can't be decoded: {error.strerror}"
            self._failed = MediaError(self._words.after(sentence)) if self._decoded else None
            return
        for frame in frames:
            # Between good frames it is damage. At either end it is none: recordings begin in
            # the middle of something, and MP3 files end in tags that look like packets.
            if self._failed is not None:
                raise self._failed
            self._decoded = True
            yield frame


def packed(frame: AudioFrame) -> bytes:
    """The samples of a frame whose format is a packed one."""
    # The plane may be longer than its samples.
    size = frame.samples * frame.format.bytes * frame.layout.nb_channels
    return bytes(frame.planes[0])[:size]


class Clock:
    """When which sample of a sound sounds, also where some of the sound is missing."""

    _TOLERANCE = 0.1

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._positions: list[int] = []
        self._times: list[float] = []

    def note(self, position: int, time: float) -> None:
        """Take note of the time in seconds at which a sample sounds, in ascending order."""
        if not self._times or abs(self.time(position) - time) > self._TOLERANCE:
            self._positions.append(position)
            self._times.append(time)

    def time(self, position: float) -> float:
        """The seconds from the start of the file at which a sample sounds."""
        index = max(0, bisect_right(self._positions, position) - 1)
        return self._times[index] + (position - self._positions[index]) / self._rate


def speech_samples(media: Media, clock: Clock, track: int = 0) -> Generator[np.ndarray]:
    """The sound as models of speech take it: one channel of float32, 16,000 a second.

    Args:
        media: The file.
        clock: Takes note of when it sounds.
        track: Index of the audio track, from 0.

    Raises:
        MediaError: There is no such track, or a part of it can't be decoded, or all of it.
    """
    position = 0
    for time, frame in resampled(media, format="flt", layout="mono", rate=SPEECH_RATE, track=track):
        clock.note(position, time)
        samples = np.frombuffer(packed(frame), np.float32)
        position += len(samples)
        yield samples
    if not position:
        raise MediaError("no decodable sound")
