"""Frames of a video as upright image files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count as counting
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture, Pixels
from dagster_metaxy.media.decoding import Times, Video, Viewer, Which, look, midpoints
from dagster_metaxy.media.errors import MediaError

Format = Literal["jpeg", "png", "webp"]

_ENDINGS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_POSTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One extracted frame."""

    index: int
    """Among those taken, from 0."""
    time: float
    """Seconds from the start of the picture stream: for which it was taken, on a grid of times, else
    its own."""
    file: str
    """Name inside the directory."""
    width: int
    """Pixels of the file."""
    height: int
    size: int
    """Bytes of the file."""


def extract(media: Media, directory: Path | str, **options: Any) -> list[Frame]:
    """Write frames of the video `media` to a directory; for the options, see `FrameTaker`.

    Raises `MediaError` if there is no picture, or a part of it can't be decoded; files written
    until then stay.
    """
    return look(media, partial(FrameTaker, directory, **options))


def poster(media: Media, *, max_size: int | None = None) -> Pixels:
    """The frame at a quarter of the video `media`, but at most 5 s after its start, so that no more of
    a long one is read; height x width x 3, upright. The first one is often black.

    Raises `MediaError` if there is no picture, or it can't be decoded.
    """
    return look(media, partial(_Poster, max_size))


class _Poster(Viewer[Pixels]):
    def __init__(self, max_size: int | None) -> None:
        self._max_size = max_size

    def wants(self, video: Video) -> Times:
        return Times([min(video.measure() / 4, _POSTER_SECONDS)], past_end=True)

    def see(self, picture: Picture, time: float) -> None:
        self._pixels = picture.rgb(self._max_size)

    def result(self, duration: float) -> Pixels:
        return self._pixels


class FrameTaker(Viewer[list[Frame]]):
    """Writes frames to a directory, which must exist, as `frame_000000.jpg`, `frame_000001.jpg`, ...

    They are turned upright, and scaled down until the longer edge has at most `max_size` pixels.
    At most one of these says which frames; without any, it is one a second:

    Args:
        directory: Where the files go.
        every_seconds: What is on screen at 0, `every_seconds`, 2 x `every_seconds`, ... until the
            last frame ends: a video of 5.3 s gives six at one a second.
        every_nth: The frames number 0, n, 2 x n, ...
        count: What is on screen in the middle of each of `count` parts of equal length; a video of
            fewer frames gives some of them several times.
        keyframes: Those that are coded without any other.
        max_size: Pixels; None keeps the size.
        format: Of the files.
        quality: Of JPEG and WebP, 1 to 95.

    Raises:
        ValueError: Several say which frames, or one is not above 0.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        every_seconds: float | None = None,
        every_nth: int | None = None,
        count: int | None = None,
        keyframes: bool = False,
        max_size: int | None = None,
        format: Format = "jpeg",
        quality: int = 85,
    ) -> None:
        given = {"every_seconds": every_seconds, "every_nth": every_nth, "count": count}
        for name, value in given.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if keyframes + sum(value is not None for value in given.values()) > 1:
            raise ValueError("give one of every_seconds, every_nth, count and keyframes")
        self._directory = directory
        self._every = every_seconds or 1.0
        self._nth = every_nth
        self._count = count
        self._keyframes = keyframes
        self._max_size = max_size
        self._format = format
        self._quality = quality
        self._seen = 0
        self._frames: list[Frame] = []

    def wants(self, video: Video) -> Which | Times:
        if self._keyframes:
            return Which.KEYFRAMES
        if self._nth:
            return Which.EVERY
        if self._count:
            return midpoints(video, self._count)
        return Times(index * self._every for index in counting())

    def see(self, picture: Picture, time: float) -> None:
        self._seen += 1
        if self._nth and (self._seen - 1) % self._nth:
            return
        index = len(self._frames)
        image = Image.fromarray(picture.rgb(self._max_size))
        file = Path(self._directory, f"frame_{index:06d}.{_ENDINGS[self._format]}")
        options = {} if self._format == "png" else {"quality": self._quality}
        try:
            image.save(file, self._format, **options)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk
            size = f"{image.width} x {image.height}"
            raise MediaError(f"{size} pixels can't be written as {self._format}") from error
        size = file.stat().st_size
        self._frames.append(
            Frame(index, round(time, 6), file.name, image.width, image.height, size)
        )

    def result(self, duration: float) -> list[Frame]:
        return self._frames
