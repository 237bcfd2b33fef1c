"""How sharp, bright, rich in contrast and lively a video is, and how much of it is black or frozen."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture, Pixels
from dagster_metaxy.media.decoding import Video, Viewer, Which, look

SMALL = (64, 36)
"""Width and height at which every frame is looked at."""

_BLACK_PIXELS = 0.98
"""The share of its pixels that are black in a black frame, as in FFmpeg's blackdetect."""

_FROZEN_SECONDS = 1.0
"""How long a frozen picture stands still at least: where the same frame is shown two or three times,
as in most animation, nothing is frozen."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What a video looks like. Luma is 0 for black and 1 for white; means are over time."""

    sharpness: float
    """Mean of `sharpness_curve`."""
    brightness: float
    """Mean luma."""
    contrast: float
    """Standard deviation of luma within a frame, 0 to 0.5."""
    motion: float
    """Mean absolute difference of luma from one frame to the next, 0 to 1."""
    black_share: float
    """Share of time, 0 to 1, in which the frame is black."""
    frozen_share: float
    """Share of time, 0 to 1, in which the picture stands still for a second or longer."""
    brightness_curve: list[float]
    """Mean luma of the frames of each second."""
    sharpness_curve: list[float]
    """`sharpness` of the first frame of each second."""
    motion_curve: list[float]
    """`motion` of the frames of each second."""


def measure(media: Media, *, black_below: float = 0.1, frozen_below: float = 0.001) -> Quality:
    """Measure the picture of the video `media`; for the options, see `QualityMeter`.

    Raises `MediaError` if there is no picture, or a part of it can't be decoded.
    """
    return look(media, partial(QualityMeter, black_below=black_below, frozen_below=frozen_below))


def sharpness(picture: Picture) -> float:
    """Variance of the Laplacian of luma from 0 to 255, at 320 x 180 pixels whatever the size of the
    picture: some thousands where it is full of fine detail, below about 100 where it is blurred."""
    gray = picture.gray(320, 180).astype(np.int16)
    inner = gray[1:-1, 1:-1]
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float(np.var(around - 4 * inner))


class QualityMeter(Viewer[Quality]):
    """Looks at every frame at 64 x 36 pixels, and once a second at 320 x 180.

    Args:
        black_below: A frame is black where 98 % of its pixels have less luma, 0 to 1.
        frozen_below: The picture stands still while its luma differs by less from the frame with which
            that began, in the mean, 0 to 1.
    """

    def __init__(self, *, black_below: float = 0.1, frozen_below: float = 0.001) -> None:
        self._black = black_below * 255
        self._frozen = frozen_below * 255
        self._last: Pixels | None = None
        self._still: Pixels | None = None
        self._times = array("d")
        self._brightness = array("d")
        self._contrast = array("d")
        self._motion = array("d")
        self._is_black = array("b")
        self._moves = array("b")
        self._sharp: dict[int, float] = {}

    def wants(self, video: Video) -> Which:
        return Which.EVERY

    def see(self, picture: Picture, time: float) -> None:
        luma = picture.yuv(*SMALL)[0]
        self._times.append(time)
        self._brightness.append(float(luma.mean()) / 255)
        self._contrast.append(float(luma.std()) / 255)
        self._motion.append(0.0 if self._last is None else _difference(luma, self._last) / 255)
        self._is_black.append(bool(np.mean(luma < self._black) >= _BLACK_PIXELS))
        moves = self._still is None or _difference(luma, self._still) >= self._frozen
        self._moves.append(moves)
        if moves:
            self._still = luma
        self._last = luma
        if int(time) not in self._sharp:
            self._sharp[int(time)] = sharpness(picture)

    def result(self, duration: float) -> Quality:
        starts = np.asarray(self._times)
        lengths = np.diff(starts, append=max(duration, starts[-1]))
        if not lengths.any():
            lengths[:] = 1.0
        whole = float(lengths.sum())

        def mean(values: Any) -> float:
            return round(float(np.dot(np.asarray(values, float), lengths)) / whole, 6)

        moves = np.flatnonzero(np.asarray(self._moves))
        still = np.add.reduceat(lengths, moves)
        seconds = starts.astype(int)
        count = max(int(np.ceil(round(duration, 3))), int(seconds[-1]) + 1)
        brightness, motion = (
            _per_second(np.asarray(values), seconds, count)
            for values in (self._brightness, self._motion)
        )
        held = _held(brightness)
        sharp = _held(np.array([self._sharp.get(second, np.nan) for second in range(count)]))
        return Quality(
            sharpness=round(float(sharp.mean()), 3),
            brightness=mean(self._brightness),
            contrast=mean(self._contrast),
            motion=round(float(np.mean(self._motion[1:] or [0.0])), 6),
            black_share=mean(self._is_black),
            frozen_share=round(float(still[still >= _FROZEN_SECONDS].sum()) / whole, 6),
            brightness_curve=held.round(4).tolist(),
            sharpness_curve=sharp.round(2).tolist(),
            motion_curve=np.nan_to_num(motion).round(5).tolist(),
        )


def _difference(a: Pixels, b: Pixels) -> float:
    """Mean of the absolute difference."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def _per_second(
    values: npt.NDArray[np.float64], seconds: npt.NDArray[np.int_], count: int
) -> npt.NDArray[np.float64]:
    """Means of the frames of each second; not a number where none begins."""
    frames = np.bincount(seconds, minlength=count)
    sums = np.bincount(seconds, values, minlength=count)
    return np.divide(sums, frames, out=np.full(count, np.nan), where=frames > 0)


def _held(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`values`, with the last number for what is none: the frame is still shown."""
    return values[np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))]
