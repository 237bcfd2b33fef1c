"""One decoded frame, in the forms in which it is looked at; each is made once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from dagster_metaxy.media import _colors
from dagster_metaxy.media.errors import MediaError

Pixels = npt.NDArray[np.uint8]

_UNSPECIFIED = 2
_NOT_CONVERTED = {8: "YCgCo", 14: "ICtCp", 15: "IPT (Dolby Vision)"}
"""Ways to code colours, as ITU-T H.273 numbers them, that swscale does not know."""


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
        self._whole: tuple[bool, Any] | None = None
        self._made: dict[tuple[int | None, int | None, str], Pixels] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height in square pixels, upright."""
        width, height = round(self._frame.width * self._pixel_aspect), self._frame.height
        return (height, width) if self._frame.rotation % 180 else (width, height)

    def rgb(self, max_size: int | None = None) -> Pixels:
        """Height x width x 3, upright, with square pixels, and no edge longer than `max_size`; smaller
        ones are not enlarged. As an ordinary display (sRGB) shows it on black: high dynamic range and
        wide gamut are mapped to what that can show, and interlaced frames are not combed.

        Raises:
            MediaError: It is coded in colours that cannot be converted.
        """
        frame = self._frame
        width, height = frame.width * self._pixel_aspect, float(frame.height)
        scale = min(1.0, max_size / max(width, height)) if max_size else 1.0
        return self._form(
            max(1, round(width * scale)), max(1, round(height * scale)), "rgb24", "AREA"
        )

    def gray(self, width: int, height: int) -> Pixels:
        """Height x width, of brightness (0 black, 255 white) as it is coded, upright, scaled to this size
        whatever its shape, and whatever size it comes from: each pixel is the mean of those it stands
        for. Interlaced frames are not combed."""
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
            frame = self._frame
            if upright and frame.interlaced_frame:
                frame = self._progressive(height)
            if kind == "rgb24":
                made = self._as_srgb(frame, width, height, interpolation)
            else:
                made = self._scaled(frame, width, height, "yuv444p", interpolation)
                # Not swscale's own gray, which is that of BT.601 for all.
                made = made[0] if kind == "gray" else made
            if upright:
                made = np.ascontiguousarray(np.rot90(made, round(self._frame.rotation / 90)))
            self._made[key] = made
        return made

    def _as_srgb(self, frame: VideoFrame, width: int, height: int, interpolation: str) -> Pixels:
        if not frame.format.is_rgb and (name := _NOT_CONVERTED.get(frame.colorspace)):
            raise MediaError(f"the picture is in {name} colours, which cannot be converted")
        if _colors.is_other(frame.color_trc, frame.color_primaries):
            deep = self._scaled(frame, width, height, "rgb48le", interpolation)
            return _colors.to_srgb(deep, frame.color_trc, frame.color_primaries)
        if any(component.is_alpha for component in frame.format.components):
            clear = self._scaled(frame, width, height, "rgba", interpolation)
            return np.round(clear[..., :3] * (clear[..., 3:] / np.float32(255))).astype(np.uint8)
        return self._scaled(frame, width, height, "rgb24", interpolation)

    def _scaled(
        self, frame: VideoFrame, width: int, height: int, kind: str, interpolation: str
    ) -> npt.NDArray[Any]:
        # Of brightness and colour differences, none is changed.
        matrix = None if kind == "yuv444p" else self._assumed_matrix
        try:
            # swscale with area averaging: PyAV's own `to_image` takes ten times as long.
            return frame.reformat(
                width=width,
                height=height,
                format=kind,
                src_colorspace=matrix,
                interpolation=interpolation,
                dst_color_range=ColorRange.JPEG,
            ).to_ndarray()
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise MediaError(
                f"the picture at {self.time:.2f} s, {frame.width} x {frame.height} pixels of"
                f" {frame.format.name}, can't be converted: {error}"
            ) from error

    @property
    def _assumed_matrix(self) -> int | None:
        """How the colours are coded where the file does not say, as players assume."""
        frame = self._frame
        if frame.colorspace != _UNSPECIFIED or frame.format.is_rgb:
            return None
        if _colors.is_other(frame.color_trc, frame.color_primaries):
            return Colorspace.BT2020
        is_large = frame.width >= 1280 or frame.height > 576
        return Colorspace.ITU709 if is_large else Colorspace.ITU601

    def _progressive(self, height: int) -> VideoFrame:
        """The frame without its second field, where that is enough; else, with one made up."""
        if self._whole is None or self._whole[0] != (2 * height > self._frame.height):
            fine = 2 * height > self._frame.height
            graph = Graph()
            graph.threads = 1  # the caller has several videos in hand
            frame = self._frame
            nodes = [
                graph.add_buffer(
                    width=frame.width,
                    height=frame.height,
                    format=frame.format,
                    time_base=frame.time_base or Fraction(1, 1000),
                ),
                graph.add("estdif", "mode=frame:deint=all") if fine else graph.add("field", "top"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*nodes).configure()
            graph.push(frame)
            graph.push(None)
            self._whole = fine, graph.pull()
        return self._whole[1]
