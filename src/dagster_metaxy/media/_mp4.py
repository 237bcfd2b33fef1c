"""The streams of an MP4 file that is made of parts of another one: copied, or encoded anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.codec.context import Flags
from av.packet import Packet
from av.video.frame import VideoFrame

_AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
_AAC_SAMPLES = 1024
_GAP = 0.02
"""Seconds by which the times of sound may be off before it counts as a gap."""

_AAC_CHANNELS = {1: "mono", 2: "stereo", 6: "5.1"}


class Output:
    """One stream of a clip."""

    is_picture = False
    is_copy = False

    def add(self, what: Any, time: float) -> Iterator[Packet]:
        """The packets that a piece becomes.

        Args:
            what: The piece.
            time: Its seconds from the start of the picture.
        """
        raise NotImplementedError

    def rest(self) -> Iterator[Packet]:
        """The packets that come at the end."""
        return iter(())


class Copied(Output):
    """Packets of the source as they are.

    Args:
        file: The file that is written.
        stream: The stream of the source.
        begin: When the clip begins, as the source counts time.
    """

    is_copy = True

    def __init__(self, file: Any, stream: Any, begin: float) -> None:
        self.is_picture = stream.type == "video"
        # Opaque: without it PyAV looks for an encoder that has the decoder's name.
        self._stream = file.add_stream_from_template(stream, opaque=True)
        self._stream.metadata.update(_told(stream))
        self._waiting: list[Packet] = []
        rate = self.is_picture and stream.guessed_rate
        self._length = round(1 / (rate * stream.time_base)) if rate else 0
        self._begin = round(begin / float(stream.time_base))

    def add(self, what: Packet, time: float) -> Iterator[Packet]:
        packet = what
        if not self.is_picture:  # two clips may get the same one
            packet = Packet(bytes(what))
            packet.time_base = what.time_base
            packet.pts, packet.dts = what.pts, what.dts
            packet.duration = what.duration
            packet.is_keyframe = True
        packet.pts = None if packet.pts is None else packet.pts - self._begin
        packet.dts = None if packet.dts is None else packet.dts - self._begin
        # Without it the last frame would have no length, and some players would not show it.
        packet.duration = packet.duration or self._length
        packet.stream = self._stream
        self._waiting.append(packet)
        if packet.dts is not None:
            yield from self.rest()

    def rest(self) -> Iterator[Packet]:
        """Those that have waited: of the first ones, Matroska does not say when they are decoded."""
        at = None
        for packet in reversed(self._waiting):
            if packet.dts is None:
                packet.dts = packet.pts if at is None else at - max(1, packet.duration or 0)
            at = packet.dts
        yield from self._waiting
        self._waiting.clear()


def _told(stream: Any) -> dict[str, str]:
    return {name: stream.metadata[name] for name in ("language",) if name in stream.metadata}


class EncodedPicture(Output):
    """Frames as H.264, of the size, depth, colours and rotation that they had.

    Args:
        file: The file that is written.
        stream: The stream of the source.
        look: Its first frame.
        start: Of the clip, in seconds.
        end: When its last frame ends.
        crf: Of x264.
        preset: Of x264.
    """

    is_picture = True

    def __init__(
        self,
        file: Any,
        stream: Any,
        look: VideoFrame,
        start: float,
        end: float,
        *,
        crf: int,
        preset: str,
    ) -> None:
        options = {"crf": str(crf), "preset": preset}
        rate = Fraction(stream.guessed_rate or 25).limit_denominator(1001)
        self._stream = file.add_stream("libx264", rate=rate, options=options)
        self._start = start
        self._end = end
        context = self._stream.codec_context
        context.thread_count = 1
        # 4:2:0 has no odd sizes.
        context.width, context.height = max(2, look.width & ~1), max(2, look.height & ~1)
        deep = any(component.bits > 8 for component in look.format.components)
        context.pix_fmt = "yuv420p10le" if deep else "yuv420p"
        base = Fraction(stream.time_base)
        self._base = base if base >= Fraction(1, 1_000_000) else Fraction(1, 90_000)
        context.time_base = self._base
        if stream.sample_aspect_ratio:
            context.sample_aspect_ratio = Fraction(stream.sample_aspect_ratio)
        if look.interlaced_frame:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        is_rgb = look.format.is_rgb
        context.color_range = 1 if is_rgb else look.color_range
        context.colorspace = 1 if is_rgb else look.colorspace
        context.color_primaries = look.color_primaries
        context.color_trc = look.color_trc
        if look.rotation:
            self._stream.set_display_rotation(look.rotation)
        self._waiting: tuple[int, VideoFrame] | None = None
        self._lengths: dict[int, int] = {}

    def add(self, what: VideoFrame, time: float) -> Iterator[Packet]:
        at = max(0, round((time - self._start) / self._base))
        if self._waiting is not None:
            if at <= self._waiting[0]:
                return
            yield from self._encoded(at)
        self._waiting = at, what

    def rest(self) -> Iterator[Packet]:
        if self._waiting is not None:
            yield from self._encoded(round((self._end - self._start) / self._base))
        yield from self._finished(self._stream.encode(None))

    def _encoded(self, until: int) -> Iterator[Packet]:
        assert self._waiting is not None
        at, frame = self._waiting
        context = self._stream.codec_context
        made = frame.reformat(
            width=context.width,
            height=context.height,
            format=context.pix_fmt,
            dst_colorspace="itu709" if frame.format.is_rgb else None,
            interpolation="BICUBIC",
            dst_color_range=context.color_range or None,
        )
        made.time_base, made.pts, made.pict_type = self._base, at, 0
        self._lengths[at] = max(1, until - at)
        self._waiting = None
        yield from self._finished(self._stream.encode(made))

    def _finished(self, packets: Sequence[Packet]) -> Iterator[Packet]:
        for packet in packets:
            # The muxer would give the last one the length of the one before.
            if packet.pts is not None and packet.time_base == self._base:
                packet.duration = self._lengths.pop(packet.pts, packet.duration)
            yield packet


class EncodedSound(Output):
    """Sound as AAC, to the sample where it was.

    Args:
        file: The file that is written.
        stream: The stream of the source.
        start: Of the clip, in seconds.
        end: Of the clip.
    """

    def __init__(self, file: Any, stream: Any, start: float, end: float) -> None:
        rate = stream.rate if stream.rate in _AAC_RATES else 48_000
        layout = _AAC_CHANNELS.get(stream.layout.nb_channels, "stereo")
        self._stream = file.add_stream("aac", rate=rate, layout=layout)
        self._stream.codec_context.thread_count = 1
        self._stream.metadata.update(_told(stream))
        self._rate = rate
        self._layout = layout
        self._start = start
        self._samples = round((end - start) * rate)
        self._resampler: AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self._end = 0.0
        """When the sound ends that the resampler was given."""
        self._position = 0
        """Where in the clip its next sample is."""
        self._kept = np.zeros((self._stream.layout.nb_channels, 0), np.float32)
        self._encoded = 0

    def add(self, what: AudioFrame, time: float) -> Iterator[Packet]:
        shape = (what.format.name, what.layout.name, what.sample_rate)
        if shape != self._shape or abs(time - self._end) > _GAP:
            yield from self._flushed()
            self._resampler = AudioResampler("fltp", self._layout, self._rate)
            self._shape = shape
            self._position = round((time - self._start) * self._rate)
        assert self._resampler is not None
        self._end = time + what.samples / what.sample_rate
        what.pts = None  # it is counted here
        yield from self._placed(self._resampler.resample(what))

    def rest(self) -> Iterator[Packet]:
        yield from self._flushed()
        yield from self._full(1)
        yield from self._stream.encode(None)

    def _flushed(self) -> Iterator[Packet]:
        if self._resampler is not None:
            yield from self._placed(self._resampler.resample(None))

    def _placed(self, frames: Sequence[AudioFrame]) -> Iterator[Packet]:
        """Add sound at its place: silence where there is none, nothing where there is some."""
        for frame in frames:
            sound = frame.to_ndarray().astype(np.float32, copy=False)
            have = self._encoded + self._kept.shape[1]
            start, self._position = self._position, self._position + sound.shape[1]
            sound = sound[:, max(0, have - start) : max(0, self._samples - start)]
            if not sound.shape[1]:
                continue
            for at in range(have, start, self._rate):
                silence = np.zeros((len(sound), min(self._rate, start - at)), np.float32)
                yield from self._more(silence)
            yield from self._more(sound)

    def _more(self, sound: np.ndarray) -> Iterator[Packet]:
        self._kept = np.concatenate([self._kept, sound], axis=1)
        yield from self._full()

    def _full(self, least: int = _AAC_SAMPLES) -> Iterator[Packet]:
        """What the encoder gives for all that is of the length which it takes."""
        while self._kept.shape[1] >= least:
            part, self._kept = self._kept[:, :_AAC_SAMPLES], self._kept[:, _AAC_SAMPLES:]
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", self._layout)
            frame.sample_rate = self._rate
            frame.time_base, frame.pts = Fraction(1, self._rate), self._encoded
            self._encoded += part.shape[1]
            yield from self._stream.encode(frame)
