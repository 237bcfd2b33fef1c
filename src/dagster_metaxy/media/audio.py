"""The sound of a media file, as one channel of plain samples in a WAV file."""

from __future__ import annotations

import wave
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av.error
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from dagster_metaxy.media._container import Media, open_media, seconds
from dagster_metaxy.media.errors import MediaError, Words, reading


@dataclass(frozen=True, slots=True)
class Sound:
    """An extracted sound."""

    start: float
    """Seconds from the start of the file at which the sound begins, 0 for most files."""
    duration: float
    """Seconds."""
    rate: int
    """Samples per second."""
    samples: int
    size: int
    """Bytes of the WAV file."""


def extract(media: Media, target: Path | str, *, rate: int = 16000) -> Sound:
    """Write the first audio track of the file `media` to `target`.

    `target` becomes a WAV file of 16-bit samples in one channel, `rate` a second.

    Raises `MediaError` if there is no audio track, or a part of it can't be decoded; what was
    written until then stays.
    """
    with closing(_resampled(media, rate)) as pieces:
        # Not opened before there is sound: a file without any leaves none behind.
        first = next(pieces, None)
        if first is None:
            raise MediaError("no decodable sound")
        start, data = first
        with Path(target).open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframesraw(data)
            samples = len(data) // 2
            for _, data in pieces:
                file.writeframesraw(data)
                samples += len(data) // 2
    return Sound(start, samples / rate, rate, samples, Path(target).stat().st_size)


def _resampled(media: Media, rate: int) -> Generator[tuple[float, bytes]]:
    """16-bit samples in one channel, piece by piece, with the time at which the sound begins."""
    with reading() as words, open_media(media) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError("no audio stream")
        begin = (container.start_time or 0) / 1_000_000
        start: float | None = None
        shape: tuple[str, str, int] | None = None
        resampler = AudioResampler("s16", "mono", rate)
        decoder = Decoder(stream, words)
        frames = (f for packet in container.demux(stream) for f in decoder.frames(packet))
        for frame in frames:
            if start is None:
                start = max(0.0, (frame.time or 0.0) - begin)
            if shape != (now := (frame.format.name, frame.layout.name, frame.sample_rate)):
                # Broadcasts change from stereo to 5.1 and back; a resampler can't.
                if shape is not None:
                    yield from ((start, _bytes(piece)) for piece in resampler.resample(None))
                    resampler = AudioResampler("s16", "mono", rate)
                shape = now
            yield from ((start, _bytes(piece)) for piece in resampler.resample(frame))
        if start is not None:
            yield from ((start, _bytes(piece)) for piece in resampler.resample(None))


class Decoder:
    """Decodes the packets of an audio track."""

    def __init__(self, stream: AudioStream, words: Words) -> None:
        stream.codec_context.thread_count = 1
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


def _bytes(frame: AudioFrame) -> bytes:
    # The plane may be longer than its samples.
    return bytes(frame.planes[0])[: 2 * frame.samples]
