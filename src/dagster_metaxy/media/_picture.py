"""One decoded frame, in the forms in which it is looked at; each is made once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

Pixels = npt.NDArray[np.uint8]


class Picture:
    """A frame of a video.

    Attributes:
        time: Seconds from the start of the picture at which it begins to be shown.
        is_key: Whether it is decoded without any other.
    """

    def __init__(self, frame: VideoFrame, time: float, pixel_aspect: float = 1.0) -> None:
        self.time = time
        self.is_key = bool(frame.key_frame)
        self._frame = frame
        self._pixel_aspect = pixel_aspect
        self._made: dict[tuple[int | None, int | None, str], Pixels] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        width, height = round(self._frame.width * self._pixel_aspect), self._frame.height
        return (height, width) if self._frame.rotation % 180 else (width, height)

    def rgb(self, max_size: int | None = None) -> Pixels:
        """Height x width x 3, upright, with square pixels, and no edge longer than `max_size`; smaller
        ones are not enlarged."""
        frame = self._frame
        width, height = frame.width * self._pixel_aspect, float(frame.height)
        scale = min(1.0, max_size / max(width, height)) if max_size else 1.0
        return self._form(
            max(1, round(width * scale)), max(1, round(height * scale)), "rgb24", "AREA"
        )

    def gray(self, width: int, height: int) -> Pixels:
        """Height x width, of brightness (0 black, 255 white), upright, scaled to this size whatever its
        shape, and whatever size it comes from: each pixel is the mean of those it stands for."""
        if self._frame.rotation % 180:
            width, height = height, width
        return self._form(width, height, "gray", "AREA")

    def yuv(self, width: int, height: int) -> Pixels:
        """3 x height x width, brightness from 0 (black) to 255 (white), not turned upright, scaled to this
        size whatever its shape; fast."""
        return self._form(width, height, "yuv444p", "FAST_BILINEAR", upright=False)

    def _form(
        self, width: int, height: int, kind: str, interpolation: str, *, upright: bool = True
    ) -> Pixels:
        key = (width, height, kind)
        if (made := self._made.get(key)) is None:
            # swscale with area averaging: PyAV's own `to_image` takes ten times as long.
            made = np.asarray(
                self._frame.reformat(
                    width=width,
                    height=height,
                    format=kind,
                    interpolation=interpolation,
                    dst_color_range=ColorRange.JPEG,
                ).to_ndarray(),
                np.uint8,
            )
            if upright:
                made = np.ascontiguousarray(np.rot90(made, round(self._frame.rotation / 90)))
            self._made[key] = made
        return made
