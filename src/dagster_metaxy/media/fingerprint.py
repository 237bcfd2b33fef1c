"""By what videos are known as nearly the same, whatever their encoding and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture, Pixels
from dagster_metaxy.media.decoding import Times, Video, Viewer, look, midpoints

FRAMES = 8
"""How many frames of a video are hashed."""

_SIDE = 32
_SMALL = 120
"""Pixels of the longer edge of a frame that is written."""
_BLOCK = 1 << 21
"""Pairs that are compared at once: 16 MB for each frame's hash."""


def _cosines() -> npt.NDArray[np.float64]:
    """The eight lowest frequencies of the discrete cosine transform (type II), a row each."""
    frequency, place = np.mgrid[0:8, 0:_SIDE]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))


_COSINES = _cosines()

_BITS = np.unpackbits(
    np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1
).sum(axis=1, dtype=np.uint8)
"""How many bits are set in each number of 16 bits."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Perceptual hashes of frames at fixed shares of the length."""

    hashes: list[str]
    """16 hexadecimal digits for each of `FRAMES` frames."""
    duration: float
    """Seconds of the picture."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two videos that are nearly the same, by their places in what was given."""

    first: int
    second: int
    distance: float
    """Bits, of 64, in which their hashes differ in the mean."""


def take(media: Media, file: Path | str | None = None) -> Fingerprint:
    """The fingerprint of the video `media`; see `Fingerprinter`.

    Raises `MediaError` if there is no picture, or what is looked at of it can't be decoded.
    """
    return look(media, partial(Fingerprinter, file))


def perceptual_hash(gray: Pixels) -> int:
    """64 bits of a gray picture of 32 x 32 pixels (pHash): which of its lowest frequencies are above
    their median."""
    frequencies = _COSINES @ gray.astype(np.float64) @ _COSINES.T
    # Rounded, so that a picture without any detail gives zeros, not noise.
    frequencies = frequencies.round(3)
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Fingerprinter(Viewer[Fingerprint]):
    """Hashes frames in the middles of parts of equal length, upright.

    Args:
        file: Where every other one of them is written, small, side by side, as a JPEG; nowhere if
            left out.
    """

    def __init__(self, file: Path | str | None = None) -> None:
        self._file = file
        self._small: list[Pixels] = []
        self._hashes: list[str] = []
        self._duration = 0.0

    def wants(self, video: Video) -> Times:
        self._duration = video.measure()
        return midpoints(video, FRAMES)

    def see(self, picture: Picture, time: float) -> None:
        self._hashes.append(f"{perceptual_hash(picture.gray(_SIDE, _SIDE)):016x}")
        if self._file is not None and len(self._hashes) % 2:
            self._small.append(picture.rgb(_SMALL))

    def result(self, duration: float) -> Fingerprint:
        if self._file is not None:
            # Where a video changes its size, so do they.
            heights, widths, _ = zip(*(small.shape for small in self._small), strict=True)
            strip = Image.new("RGB", (sum(widths), max(heights)))
            for index, small in enumerate(self._small):
                strip.paste(Image.fromarray(small), (sum(widths[:index]), 0))
            strip.save(self._file, "JPEG", quality=75)
        return Fingerprint(self._hashes, round(self._duration or duration, 3))


def near(fingerprints: Sequence[Sequence[str]], max_distance: float) -> Iterator[Pair]:
    """All pairs of fingerprints up to a distance, in the order of their places.

    Args:
        fingerprints: The hashes of each video; equally many.
        max_distance: Bits, of 64, in which hashes differ in the mean.
    """
    if not fingerprints:
        return
    hashes = np.array([[int(text, 16) for text in texts] for texts in fingerprints], np.uint64)
    total = len(hashes)
    step = max(1, _BLOCK // total)
    for start in range(0, total, step):
        block = hashes[start : start + step]
        others = hashes[start:]
        bits = np.zeros((len(block), len(others)), np.uint16)
        for frame in range(hashes.shape[1]):
            bits += _ones(block[:, None, frame] ^ others[None, :, frame])
        found = np.triu(bits <= max_distance * hashes.shape[1], k=1)
        for first, second in np.argwhere(found).tolist():
            distance = float(bits[first, second]) / hashes.shape[1]
            yield Pair(start + first, start + second, round(distance, 3))


def _ones(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """How many bits are set in each; numpy 2 alone has `bitwise_count`."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    quarters = np.ascontiguousarray(values).view(np.uint16).reshape(*values.shape, 4)
    return _BITS[quarters].sum(axis=-1, dtype=np.uint8)
