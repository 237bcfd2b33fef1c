"""One frame that stands for a video."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture, Pixels
from dagster_metaxy.media.decoding import Times, Video, Viewer, look, midpoints
from dagster_metaxy.media.quality import sharpness

_TRIED = 8


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The file of a frame."""

    time: float
    """Seconds from the start of the picture."""
    width: int
    """Pixels of the file."""
    height: int


def make(
    media: Media, file: Path | str, *, max_size: int | None = 640, quality: int = 85
) -> Thumbnail:
    """Write a frame of the video `media`; see `ThumbnailTaker`.

    Raises `MediaError` if there is no picture, or what is looked at of it can't be decoded.
    """
    return look(media, partial(ThumbnailTaker, file, max_size=max_size, quality=quality))


class ThumbnailTaker(Viewer[Thumbnail]):
    """Writes the best of eight frames, evenly spaced, as an upright JPEG.

    The best is that with the highest product of sharpness and contrast: neither black nor blurred, if
    there is another.

    Args:
        file: Where it goes.
        max_size: Pixels of the longer edge at most; None keeps the size.
        quality: JPEG's, 1 to 95.
    """

    def __init__(self, file: Path | str, *, max_size: int | None = 640, quality: int = 85) -> None:
        self._file = file
        self._max_size = max_size
        self._quality = quality
        self._best: tuple[float, float, Pixels] | None = None

    def wants(self, video: Video) -> Times:
        return midpoints(video, _TRIED)

    def see(self, picture: Picture, time: float) -> None:
        score = sharpness(picture) * float(picture.gray(320, 180).std())
        if self._best is None or score > self._best[0]:
            self._best = score, picture.time, picture.rgb(self._max_size)

    def result(self, duration: float) -> Thumbnail:
        assert self._best is not None, "a video that is decoded has a frame"
        _, time, pixels = self._best
        Image.fromarray(pixels).save(self._file, "JPEG", quality=self._quality)
        height, width, _ = pixels.shape
        return Thumbnail(round(time, 6), width, height)
