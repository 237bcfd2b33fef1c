"""Who a media file is: its properties, and a version of its picture and of its sound.

The versions are hashes of demuxed packets in a canonical form. They change when what is seen or
heard can change, and survive what cannot change it: another container, another name, tags, cover
art, the order of streams.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import add, sub
from pathlib import Path

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from dagster_metaxy.media._container import (
    STILLS,
    Media,
    codec_name,
    decoder,
    known_streams,
    open_media,
    pictures,
    seconds,
)
from dagster_metaxy.media._payload import AacPayload, NalPayload, Payload, digest
from dagster_metaxy.media.errors import MediaError, Words, reading

NONE = "none"
"""The version of a picture or sound that a file does not have."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The properties and versions of one media file; None where it has no such stream.

    Properties of the picture are those of the first picture stream that is no cover art,
    properties of the sound those of the first audio track.
    """

    container: str
    """Such as `mp4`, `mov`, `matroska` (also WebM), `mpegts`, `avi`, `wav`."""
    duration: float
    """Seconds."""
    width: int | None
    """Pixels as stored, before rotation."""
    height: int | None
    rotation: int | None
    """Degrees to turn the stored picture counter-clockwise for display: 0, 90, 180 or 270."""
    frame_rate: float | None
    """Frames per second: the nominal rate where the packets keep it, else their mean rate; None
    for a single frame."""
    video_codec: str | None
    audio_codec: str | None
    audio_rate: int | None
    """Samples per second."""
    audio_channels: int | None
    video: str
    """Version of the picture: 32 hexadecimal digits, or `none`."""
    audio: str
    """Version of the sound, all tracks in any order: 32 hexadecimal digits, or `none`."""


def identify(media: Media) -> Identity:
    """Identify the media file `media` in one pass of demuxing.

    Raises `MediaError` for a file that can't be read, that holds neither picture nor sound, or
    that was cut off: its packets end before the duration it declares, or one of them is not
    whole. Formats that declare nothing (MPEG-TS, MP3, WAV) don't show that they were cut off.
    """
    if isinstance(media, Path | str):
        try:
            with reading(listen=False) as words:
                return _in_one_pass(media, words)
        except MediaError as error:
            if not isinstance(error.__cause__, av.error.FFmpegError | None):
                raise
    # Why one is refused is in FFmpeg's log. To listen to it takes a tenth of the time that a file of
    # this machine does, and is nothing beside reading a remote one, which is not read again.
    with reading() as words:
        return _in_one_pass(media, words)


def _in_one_pass(media: Media, words: Words) -> Identity:
    with open_media(media, parse=False) as container:
        shown = {stream.index: _Picture(stream) for stream in pictures(container)}
        heard = {stream.index: _Sound(stream) for stream in container.streams.audio}
        tracks = {s.index: _Track(s) for s in container.streams} | shown | heard
        with known_streams():
            for packet in container.demux():
                if packet.size:
                    tracks[packet.stream_index].add(packet)

        videos = [track for track in shown.values() if track.times and not track.is_cover]
        audios = [track for track in heard.values() if track.times]
        if not videos and not audios:
            raise MediaError(words.after("neither picture nor sound"))
        every = [track for track in tracks.values() if track.times]
        _check_whole(container, [*videos, *audios], every, words)
        return _identity(container, videos[0] if videos else None, audios)


def _identity(
    container: InputContainer, picture: _Picture | None, sounds: list[_Sound]
) -> Identity:
    kind = container.format.name.split(",")[0]
    # QuickTime's brand, or none at all as before there were brands; every other brand is MPEG-4's.
    if kind == "mov" and container.metadata.get("major_brand", "qt  ") != "qt  ":
        kind = "mp4"
    # Of other formats FFmpeg may only have guessed the duration, from the bit rate.
    if container.format.name in _DECLARING and container.duration:
        duration = container.duration / 1_000_000
    else:
        used: list[_Track] = [*([picture] if picture else []), *sounds]
        duration = max(t.end for t in used) - min(t.start for t in used)
    sound = sounds[0] if sounds else None
    # None where FFmpeg does not know the codec.
    shape = picture.stream.codec_context if picture else None
    heard = sound.stream.codec_context if sound else None
    return Identity(
        container=kind,
        duration=round(duration, 6),
        width=shape.width if shape else None,
        height=shape.height if shape else None,
        rotation=picture.rotation if picture else None,
        frame_rate=picture.frame_rate if picture else None,
        video_codec=picture.codec if picture else None,
        audio_codec=sound.codec if sound else None,
        audio_rate=heard.sample_rate if heard else None,
        audio_channels=heard.layout.nb_channels if heard else None,
        video=picture.version if picture else NONE,
        audio=digest(*sorted(track.version for track in sounds)) if sounds else NONE,
    )


class _Track:
    """What is gathered about one stream, packet by packet."""

    def __init__(self, stream: Stream, payload: Payload | None = None) -> None:
        self.times = array("q")
        """Of each packet: when it is shown, or decoded where the container says no more."""
        self._durations = array("q")
        self.incomplete: float | None = None
        """Seconds of a packet that the demuxer could not read to its end."""
        self._stream = stream
        self._payload = payload or Payload()
        # Bound once, as they are called for every packet.
        self._add_time = self.times.append
        self._add_duration = self._durations.append
        self._update = self._payload.update if payload else None

    def add(self, packet: Packet) -> None:
        # Done for every packet, this is most of what identifying adds to demuxing.
        time = packet.pts
        if time is None:
            time = packet.dts
            if time is None:
                time = self.times[-1] + self._durations[-1] if self.times else 0
        self._add_time(time)
        self._add_duration(packet.duration or 0)
        if packet.is_corrupt:
            self.incomplete = seconds(self._stream, time)
        if self._update is not None:
            self._update(packet)

    @cached_property
    def sorted_times(self) -> list[int]:
        """Of all packets, once they are added."""
        return sorted(self.times)

    @property
    def start(self) -> float:
        return seconds(self._stream, self.sorted_times[0])

    @property
    def end(self) -> float:
        return seconds(self._stream, max(map(add, self.times, self._durations)))

    @property
    def declared_end(self) -> float | None:
        """By the stream's own header."""
        duration = self._stream.duration
        return duration and seconds(self._stream, (self._stream.start_time or 0) + duration)

    @property
    def largest_gap(self) -> float:
        """From the start of one packet to that of the next."""
        times = self.sorted_times
        return seconds(self._stream, max(map(sub, times[1:], times), default=0))


class _Picture(_Track):
    PATIENCE = 100
    """Packets to decode at most in search of a first frame."""

    def __init__(self, stream: VideoStream) -> None:
        self.codec = codec_name(stream)
        super().__init__(
            stream,
            NalPayload(self.codec, stream.codec_context.extradata or b"")
            if self.codec in ("h264", "hevc")
            else Payload(),
        )
        self.stream = stream
        self.rotation = 0
        # PyAV shows rotation on decoded frames only, so the first one is decoded.
        self._patience = self.PATIENCE if stream.codec_context is not None else 0
        if self._patience:
            decoder(stream)
        else:
            self.add = super().add  # type: ignore[method-assign]

    def add(self, packet: Packet) -> None:
        super().add(packet)
        self._patience -= 1
        # That the first packets can't be decoded is no reason to refuse a file.
        with suppress(av.error.FFmpegError):
            for frame in packet.decode():
                self.rotation = round(frame.rotation / 90) * 90 % 360
                self._patience = 0
                break
        if not self._patience:
            self.add = super().add  # type: ignore[method-assign]

    @property
    def is_cover(self) -> bool:
        """Cover art that its container does not mark as such."""
        return self.codec in STILLS and len(self.times) == 1

    @property
    def mean_rate(self) -> float | None:
        """Frames per second; None for a single frame."""
        # AVI keeps no times of showing, and those that FFmpeg makes up are wrong at the ends.
        first, last = (1, len(self.times) - 2) if len(self.times) > 3 else (0, len(self.times) - 1)
        span = seconds(self.stream, self.sorted_times[last] - self.sorted_times[first])
        return (last - first) / span if span else None

    @property
    def frame_rate(self) -> float | None:
        nominal, mean = float(self.stream.guessed_rate or 0), self.mean_rate
        if mean is None:
            return None
        return nominal if abs(nominal - mean) <= mean / 100 else round(mean, 3)

    @property
    def version(self) -> str:
        pace = "" if self.mean_rate is None else str(_pace(self.mean_rate, len(self.times)))
        return digest(self.codec, self._payload.hexdigest(), str(self.rotation), pace)


class _Sound(_Track):
    def __init__(self, stream: AudioStream) -> None:
        self.codec = codec_name(stream)
        # AAC with a description of itself in the header of its track has none in its packets.
        framed = self.codec == "aac" and not stream.codec_context.extradata
        super().__init__(stream, AacPayload() if framed else Payload())
        self.stream = stream

    @property
    def version(self) -> str:
        parts = [self.codec, self._payload.hexdigest()]
        if self.codec.startswith("pcm_"):
            # Bare samples don't say how fast they are played, or on which channel.
            parts += [str(self.stream.sample_rate), str(self.stream.layout.nb_channels)]
        return digest(*parts)


# Retiming a picture leaves its payload as it was, so the version holds the pace. It must survive
# remuxing, which leaves neither timestamps (Matroska rounds to 1 ms, AVI keeps no times of
# showing) nor FFmpeg's rates as they were, and a duration rounded to 0.1 s would stand on the edge
# for many a 24 fps clip. Hence the mean rate, on a grid: of 0.3 fps, as no usual rate is near an
# edge between its cells (23.976, 24, 25, 29.97, 30, 50, 59.94, 60, ...). In short clips 1 ms
# weighs more than that: the rate first becomes the usual one that explains the timestamps, if one
# does; those of NTSC are 0.1 % below the whole ones, with which they share a cell.
_GRID = 0.3
_USUAL = (7.5, 10, 12, 12.5, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)


def _pace(rate: float, packets: int) -> int:
    span = (packets - 1) / rate
    usual = min(_USUAL, key=lambda u: abs(u - rate))
    if abs(usual / rate - 1) <= 0.0015 + 0.0015 / span:
        rate = usual
    return round(rate / _GRID)


_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
_DECLARING = {_MOV, _MATROSKA, "flac"}
"""Formats whose duration is told by the file. FFmpeg guesses those of others, from the bit rate."""
_FRAMED = {_MOV, _MATROSKA, "avi", "flv"}
"""Formats that say how long each packet is, so that an incomplete one means a cut file.
MPEG-TS is cut anywhere by nature; a WAV that was written to a pipe always ends in a short packet.
"""


def _check_whole(
    container: InputContainer, media: list[_Track], every: list[_Track], words: Words
) -> None:
    """Refuse a file that was cut off, judging by `media`, and by `every` track where need be."""
    name = container.format.name
    ends: list[tuple[list[_Track], float, float]] = []
    if name in _DECLARING:
        ends = [([t], t.end, t.declared_end) for t in media if t.declared_end]
        if not ends and container.duration:
            # Any stream may be the one that lasts as long as the file, even subtitles.
            ends = [(every, max(track.end for track in every), container.duration / 1_000_000)]
    for tracks, end, declared in ends:
        missing = declared - end
        if missing > max(0.5, declared / 100) and missing > max(t.largest_gap for t in tracks):
            sentence = f"truncated: packets end at {end:.2f} s of the {declared:.2f} s declared"
            raise MediaError(words.after(sentence, name))
    for track in media:
        if name in _FRAMED and track.incomplete is not None:
            sentence = f"truncated: incomplete packet at {track.incomplete:.2f} s"
            raise MediaError(words.after(sentence, name))
