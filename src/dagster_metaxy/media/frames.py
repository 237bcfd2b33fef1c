"""Frames of a video at regular times, as upright JPEG files."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from dagster_metaxy.media._container import STILLS, Media, codec_name, open_media, pictures, seconds
from dagster_metaxy.media.errors import MediaError, Words, reading


@dataclass(frozen=True, slots=True)
class Frame:
    """One extracted frame."""

    index: int
    """Place on the sampling grid, from 0."""
    time: float
    """Seconds from the start of the picture stream: `index` x `every_seconds`."""
    file: str
    """Name inside the directory."""
    width: int
    """Pixels of the JPEG."""
    height: int
    size: int
    """Bytes of the JPEG."""


def extract(
    media: Media,
    directory: Path | str,
    *,
    every_seconds: float = 1.0,
    max_size: int | None = None,
    quality: int = 85,
) -> list[Frame]:
    """Write what the video `media` shows every `every_seconds`.

    Takes the frames on screen at 0, `every_seconds`, 2 x `every_seconds`, ... until the last one
    ends: a video of 5.3 s gives six at one a second. They are turned upright, and scaled down
    until the longer edge has at most `max_size` pixels. `quality` is JPEG's, 1 to 95.
    `directory` must exist; the files in it are `frame_000000.jpg`, `frame_000001.jpg`, ...

    Raises `MediaError` if there is no picture, or a part of it can't be decoded; files written
    until then stay.
    """
    if every_seconds <= 0:
        raise ValueError(f"every_seconds must be above 0, not {every_seconds}")
    frames: list[Frame] = []
    with closing(_sample(media, every_seconds)) as samples:
        for index, picture, pixel_aspect in samples:
            image = _image(picture, pixel_aspect, max_size)
            file = Path(directory, f"frame_{index:06d}.jpg")
            image.save(file, "JPEG", quality=quality)
            time = round(index * every_seconds, 6)
            size = file.stat().st_size
            frames.append(Frame(index, time, file.name, image.width, image.height, size))
    return frames


# Matroska rounds times to 1 ms: a frame it moved past a grid time by that is still taken for it.
_ROUNDING = 0.0006


def _sample(media: Media, every: float) -> Generator[tuple[int, VideoFrame, float]]:
    """For each time of the grid: its index, the frame shown then, its pixels' width by height."""
    with reading() as words, open_media(media) as container:
        stream = next(iter(pictures(container)), None)
        if stream is None:
            raise MediaError("no picture stream")
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        index = count = 0
        shown: VideoFrame | None = None
        end = 0.0
        for time, until, frame in _timed(container, stream, words):
            while shown is not None and index * every + _ROUNDING < time:
                yield index, shown, pixel_aspect
                index += 1
            shown, end = frame, until
            count += 1
        if shown is None or (count == 1 and codec_name(stream) in STILLS):
            # The one frame is cover art.
            raise MediaError(words.after("no decodable picture"))
        while index == 0 or index * every + _ROUNDING < end:
            yield index, shown, pixel_aspect
            index += 1


def _timed(
    container: InputContainer, stream: VideoStream, words: Words
) -> Iterator[tuple[float, float, VideoFrame]]:
    """Each frame with its start and end in seconds from the start of the first one."""
    interval = 1 / (float(stream.guessed_rate or 0) or 25)
    start: float | None = None
    end = 0.0
    for frame in _decode(container, stream, words):
        ticks = frame.pts if frame.pts is not None else frame.dts
        # Where a container gives a frame no time at all, it follows the one before.
        time = end + (start or 0) if ticks is None else seconds(stream, ticks)
        start = time if start is None else start
        duration = seconds(stream, frame.duration or 0) or interval
        end = time - start + duration
        yield time - start, end, frame


def _decode(container: InputContainer, stream: VideoStream, words: Words) -> Iterator[VideoFrame]:
    # One thread: more cost CPU per frame, and the caller has several videos in hand.
    stream.codec_context.thread_count = 1
    time = 0.0
    decoded = False
    for packet in container.demux(stream):
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is not None:
            time = seconds(stream, ticks - (stream.start_time or 0))
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            # A recording may begin in the middle of something; what follows must be whole.
            if not decoded:
                continue
            sentence = f"picture at {time:.2f} s can't be decoded: {error.strerror}"
            raise MediaError(words.after(sentence)) from error
        for frame in frames:
            decoded = True
            yield frame


def _image(frame: VideoFrame, pixel_aspect: float, max_size: int | None) -> Image.Image:
    """The frame with square pixels, upright, no edge longer than `max_size`."""
    width, height = frame.width * pixel_aspect, float(frame.height)
    scale = min(1.0, max_size / max(width, height)) if max_size else 1.0
    # swscale with area averaging: PyAV's own `to_image` takes ten times as long.
    pixels = frame.reformat(
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
        format="rgb24",
        interpolation="AREA",
    ).to_ndarray()
    turned = np.rot90(pixels, round(frame.rotation / 90))
    return Image.fromarray(np.ascontiguousarray(turned))
