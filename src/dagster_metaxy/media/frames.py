"""Frames of a video as upright JPEG files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from PIL import Image

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture
from dagster_metaxy.media.decoding import Times, Video, Viewer, look


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
    taker = partial(
        FrameTaker, directory, every_seconds=every_seconds, max_size=max_size, quality=quality
    )
    return look(media, taker)


class FrameTaker(Viewer[list[Frame]]):
    """Writes frames to a directory; see `extract`."""

    def __init__(
        self,
        directory: Path | str,
        *,
        every_seconds: float = 1.0,
        max_size: int | None = None,
        quality: int = 85,
    ) -> None:
        if every_seconds <= 0:
            raise ValueError(f"every_seconds must be above 0, not {every_seconds}")
        self._directory = directory
        self._every = every_seconds
        self._max_size = max_size
        self._quality = quality
        self._frames: list[Frame] = []

    def wants(self, video: Video) -> Times:
        return Times(index * self._every for index in count())

    def see(self, picture: Picture, time: float) -> None:
        index = len(self._frames)
        image = Image.fromarray(picture.rgb(self._max_size))
        file = Path(self._directory, f"frame_{index:06d}.jpg")
        image.save(file, "JPEG", quality=self._quality)
        size = file.stat().st_size
        self._frames.append(
            Frame(index, round(time, 6), file.name, image.width, image.height, size)
        )

    def result(self, duration: float) -> list[Frame]:
        return self._frames
