"""A video at a glance: a grid of its frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture
from dagster_metaxy.media.decoding import Times, Video, Viewer, look, midpoints

_QUALITY = 85


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """The file of a grid of frames."""

    width: int
    """Pixels of the file."""
    height: int
    frames: int
    """How many are on it."""


def make(
    media: Media, file: Path | str, *, columns: int = 4, rows: int = 4, width: int = 1280
) -> ContactSheet:
    """Write a grid of frames of the video `media`; see `ContactSheetMaker`.

    Raises `MediaError` if there is no picture, or what is looked at of it can't be decoded.
    """
    maker = partial(ContactSheetMaker, file, columns=columns, rows=rows, width=width)
    return look(media, maker)


class ContactSheetMaker(Viewer[ContactSheet]):
    """Writes a grid of frames, evenly spaced, with their times on them, as a JPEG.

    A video of fewer frames has each of them on it once. Frames are upright, and not enlarged.

    Args:
        file: Where it goes.
        columns: Frames beside each other.
        rows: Frames below each other.
        width: Pixels of a whole row; it may be less by what `columns` does not divide.
    """

    def __init__(
        self, file: Path | str, *, columns: int = 4, rows: int = 4, width: int = 1280
    ) -> None:
        self._file = file
        self._columns = columns
        self._count = columns * rows
        self._cell = max(1, width // columns)
        self._last = -1.0
        self._images: list[Image.Image] = []

    def wants(self, video: Video) -> Times:
        return midpoints(video, self._count)

    def see(self, picture: Picture, time: float) -> None:
        if picture.time == self._last:
            return
        self._last = picture.time
        width, height = picture.shape
        longest = max(1, round(self._cell * max(1.0, height / width)))
        image = Image.fromarray(picture.rgb(longest))
        if self._images and image.size != self._images[0].size:
            # The size of the picture changes in some recordings.
            image = image.resize(self._images[0].size)
        _write(image, _clock(picture.time))
        self._images.append(image)

    def result(self, duration: float) -> ContactSheet:
        count = len(self._images)
        width, height = self._images[0].size
        across = min(count, self._columns)
        sheet = Image.new("RGB", (width * across, height * -(-count // across)))
        for index, image in enumerate(self._images):
            sheet.paste(image, (index % across * width, index // across * height))
        sheet.save(self._file, "JPEG", quality=_QUALITY)
        return ContactSheet(sheet.width, sheet.height, count)


def _write(image: Image.Image, text: str) -> None:
    """Put a text into the lower left corner, white on black."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, image.width // 20))
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    corner = (0, image.height - bottom - 4)
    draw.rectangle((*corner, right + 6, image.height), fill="black")
    draw.text((3, corner[1] + 1), text, font=font, fill="white")


def _clock(time: float) -> str:
    """Hours, if there are any, minutes, seconds and tenths, which are not rounded up."""
    tenths = int(time * 10 + 1e-6)
    minutes, seconds = divmod(tenths // 10, 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{shown}:{seconds:02}.{tenths % 10}"
