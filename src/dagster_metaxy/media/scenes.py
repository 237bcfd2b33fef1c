"""Where a video is cut."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import partial

import numpy as np

from dagster_metaxy.media._container import Media
from dagster_metaxy.media._picture import Picture, Pixels
from dagster_metaxy.media.decoding import Video, Viewer, Which, look
from dagster_metaxy.media.quality import SMALL

_AROUND = 2
"""How many differences before and after one it is compared with."""

_STILL = 2.0
"""What these count as at least, of 255: where nothing moves, any change would be many times as much."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What lies between two cuts."""

    index: int
    """From 0."""
    start: float
    """Seconds from the start of the picture."""
    end: float
    """Where the next scene begins, or the picture ends."""
    start_frame: int
    """Number of its first frame, from 0."""
    score: float | None
    """Of the cut that begins it: how many times as much the picture changes as around it. None for the
    first scene."""


def detect(media: Media, *, threshold: float = 3.0, min_scene_seconds: float = 0.6) -> list[Scene]:
    """The scenes of the video `media`, at least one; for the options, see `SceneDetector`.

    Raises `MediaError` if there is no picture, or a part of it can't be decoded.
    """
    detector = partial(SceneDetector, threshold=threshold, min_scene_seconds=min_scene_seconds)
    return look(media, detector)


class SceneDetector(Viewer[list[Scene]]):
    """Finds cuts: frames that differ from the one before by far more than those around them do.

    What moves fast differs much, but so it does for several frames; this is the idea of PySceneDetect's
    AdaptiveDetector. Frames are looked at in colour, at 64 x 36 pixels. Fades and dissolves change
    little from frame to frame, and are not found.

    Args:
        threshold: How many times the mean difference of two frames before and two after it that of a
            cut is at least.
        min_scene_seconds: How long a scene lasts at least before it is cut.
    """

    def __init__(self, *, threshold: float = 3.0, min_scene_seconds: float = 0.6) -> None:
        self._threshold = threshold
        self._min_seconds = min_scene_seconds
        self._last: Pixels | None = None
        self._times = array("d")
        self._differences = array("d")

    def wants(self, video: Video) -> Which:
        return Which.EVERY

    def see(self, picture: Picture, time: float) -> None:
        pixels = picture.yuv(*SMALL)
        self._times.append(time)
        if self._last is not None:
            self._differences.append(float(np.abs(pixels.astype(np.int16) - self._last).mean()))
        self._last = pixels

    def result(self, duration: float) -> list[Scene]:
        starts: list[tuple[int, float, float | None]] = [(0, self._times[0], None)]
        # The first difference is that of frame 1 to frame 0.
        for frame, score in enumerate(_scores(np.asarray(self._differences)), 1):
            time = self._times[frame]
            if score >= self._threshold and time - starts[-1][1] >= self._min_seconds - 1e-6:
                starts.append((frame, time, round(float(score), 3)))
        ends = [*(time for _, time, _ in starts[1:]), max(duration, self._times[-1])]
        return [
            Scene(index, round(start, 6), round(end, 6), frame, score)
            for index, ((frame, start, score), end) in enumerate(zip(starts, ends, strict=True))
        ]


def _scores(differences: np.ndarray) -> np.ndarray:
    """Of each difference, how many times that of its neighbours it is; 0 where they are not all there."""
    scores = np.zeros(len(differences))
    size = 2 * _AROUND + 1
    if len(differences) >= size:
        windows = np.lib.stride_tricks.sliding_window_view(differences, size)
        own = windows[:, _AROUND]
        around = (windows.sum(axis=1) - own) / (2 * _AROUND)
        scores[_AROUND:-_AROUND] = own / np.maximum(around, _STILL)
    return scores
