"""Pictures of unusual material, beside what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import media_tools as tools
import numpy as np
import pytest

from dagster_metaxy.media import frames
from dagster_metaxy.media._picture import Picture
from dagster_metaxy.media.decoding import Times, Video, Viewer, look
from dagster_metaxy.media.errors import MediaError
from dagster_metaxy.media.identify import identify

COLORS = [(255, 255, 255), (200, 30, 30), (30, 200, 30), (30, 30, 200)]
COLORS += [(128, 64, 200), (30, 30, 30), (250, 200, 20), (90, 160, 220)]
_LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue


class First(Viewer[Any]):
    """What the first picture looks like."""

    def __init__(self, form: Callable[[Picture], Any]) -> None:
        self._form = form
        self._seen: Any = None

    def wants(self, video: Video) -> Times:
        return Times([0])

    def see(self, picture: Picture, time: float) -> None:
        self._seen = self._form(picture)

    def result(self, duration: float) -> Any:
        return self._seen


def first(path: Path, form: Callable[[Picture], Any] = Picture.rgb) -> Any:
    return look(path, partial(First, form))


def bars(width: int, height: int) -> np.ndarray:
    """The colours side by side, 0 to 1."""
    colors = np.array(COLORS) / 255
    return np.broadcast_to(np.repeat(colors, width // len(COLORS), axis=0), (height, width, 3))


def coded(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> av.VideoFrame:
    """A frame in YUV 4:2:0, computed by the formulas of ITU-T H.273."""
    red, blue = _LUMA[matrix]
    y = rgb @ [red, 1 - red - blue, blue]
    u, v = (rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)
    if full:
        top = (1 << bits) - 1
        planes = [y * top, u[::2, ::2] * top + (top + 1) / 2, v[::2, ::2] * top + (top + 1) / 2]
    else:
        unit = 1 << (bits - 8)
        planes = [(16 + 219 * y) * unit]
        planes += [(128 + 224 * c[::2, ::2]) * unit for c in (u, v)]
    kind = np.uint8 if bits == 8 else np.uint16
    frame = av.VideoFrame(y.shape[1], y.shape[0], "yuv420p" if bits == 8 else "yuv420p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
        padded[:, : values.shape[1]] = np.clip(np.round(values), 0, (1 << bits) - 1)
        plane.update(padded.tobytes())
    return frame


def encode(
    target: Path,
    frame: av.VideoFrame,
    codec: str = "libx264",
    *,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    count: int = 1,
) -> Path:
    """A video of one frame, or of some that are alike."""
    with av.open(str(target), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for index in range(count):
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return target


LOSSLESS = {"qp": "0"}


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "tagged", "size"),
    [(1, True, (160, 96)), (5, True, (1280, 96)), (1, False, (1280, 96)), (5, False, (160, 96))],
)
def test_colours(
    tmp_path: Path, matrix: int, tagged: bool, size: tuple[int, int], full: bool, bits: int
) -> None:
    """As coded by the tagged matrix, or by the one that players assume by the size."""
    drawn = bars(*size)
    tags = {"color_range": 2 if full else 1} | ({"colorspace": matrix} if tagged else {})
    path = encode(tmp_path / "a.mp4", coded(drawn, matrix, full, bits), tags=tags, options=LOSSLESS)
    middle = size[0] // len(COLORS) // 2
    seen = first(path)[48, middle :: 2 * middle]
    assert np.abs(seen.astype(int) - COLORS).max() <= 3
    gray = first(path, lambda picture: picture.gray(*size))[48, middle :: 2 * middle]
    red, blue = _LUMA[matrix]
    luma = np.array(COLORS) @ [red, 1 - red - blue, blue]
    assert np.abs(gray - luma).max() <= 3


def _pq(nits: np.ndarray) -> np.ndarray:
    power = (nits / 10000) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def _hlg(nits: np.ndarray) -> np.ndarray:
    """Of a display of 1000 nits."""
    shown = nits / 1000
    luma = np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
    light = shown * luma ** (1 / 1.2 - 1)
    log = 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), log)


_TO_BT2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]


@pytest.mark.parametrize(("transfer", "curve"), [(16, _pq), (18, _hlg)])
def test_high_dynamic_range(tmp_path: Path, transfer: int, curve: Callable[..., Any]) -> None:
    """What is darker than a third of a white page looks as if it were of ordinary range; what is
    brighter grows on to white, and keeps its hue."""
    srgb = np.array([(20, 20, 20), (90, 60, 30), (20, 60, 100), (100, 20, 20)]) / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    bright = np.array([0.7, 1, 2, 4.9])[:, None] * [1, 1, 1]
    nits = 203 * np.concatenate([light, bright]) @ np.transpose(_TO_BT2020)
    values = np.repeat(np.clip(curve(np.clip(nits, 0, None)), 0, 1), 20, axis=0)
    drawn = np.broadcast_to(values, (96, 160, 3))
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    path = encode(
        tmp_path / "a.mp4",
        coded(drawn, 9, False, 10),
        "libx265",
        tags=tags,
        options={"x265-params": "lossless=1:log-level=0:bframes=0"},
        count=3,
    )
    seen = first(path)[48, 10::20].astype(int)
    assert np.abs(seen[:4] - np.round(srgb * 255)).max() <= 4
    assert (np.ptp(seen[4:], axis=1) <= 2).all()
    levels = seen[4:, 0]
    assert (np.diff(levels) > 5).all()
    assert levels[1] > 200
    assert levels[-1] >= 253


def test_wide_gamut(tmp_path: Path) -> None:
    """BT.2020 without high dynamic range: gray stays, and colours become as strong as they are."""
    srgb = np.array([(120, 120, 120), (180, 60, 60)]) / 255
    light = ((srgb + 0.055) / 1.055) ** 2.4 @ np.transpose(_TO_BT2020)
    values = np.repeat(1.055 * light ** (1 / 2.4) - 0.055, 80, axis=0)
    frame = coded(np.broadcast_to(values, (96, 160, 3)), 9, False, 10)
    tags = {"color_trc": 14, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    path = encode(tmp_path / "a.mp4", frame, tags=tags, options=LOSSLESS)
    assert np.abs(first(path)[48, [40, 120]] - srgb * 255).max() <= 4


def test_colours_that_cannot_be_converted(tmp_path: Path) -> None:
    frame = coded(bars(160, 96), 1, False, 8)
    path = encode(tmp_path / "a.mp4", frame, tags={"colorspace": 14}, options=LOSSLESS)
    with pytest.raises(MediaError, match=r"^the picture is in ICtCp colours, which cannot be"):
        frames.extract(path, tmp_path)


@pytest.mark.parametrize("size", [None, 160, 80])
@pytest.mark.parametrize("gray", [False, True])
def test_interlaced_frames_are_not_combed(tmp_path: Path, size: int | None, gray: bool) -> None:
    drawn = np.full((240, 320, 3), 60, np.uint8)
    drawn[::2, 100:200] = 220  # what moves, in one field ...
    drawn[1::2, 120:220] = 220  # ... and in the next
    frame = av.VideoFrame.from_ndarray(drawn, "rgb24").reformat(format="yuv420p")
    options = {"x264-params": "interlaced=1:tff=1", "crf": "5"}
    path = encode(tmp_path / "a.mp4", frame, options=options, count=5)
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).interlaced_frame
    width = size or 320

    def form(picture: Picture) -> Any:
        return picture.gray(width, width * 3 // 4) if gray else picture.rgb(size)

    seen = first(path, form).astype(int)
    assert seen.shape[:2] == (width * 3 // 4, width)
    assert np.abs(np.diff(seen[4:-4], axis=0)).max() < 30
    # the moving thing is there, as wide as it is
    assert (seen[30].reshape(width, -1)[:, 0] > 140).sum() == pytest.approx(
        100 * width / 320, abs=4
    )


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (3, 1000), (2, 1)])
@pytest.mark.parametrize("rotation", [0, 90])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], rotation: int) -> None:
    width, height = size
    drawn = np.full((height, width, 3), 200, np.uint8)
    drawn[: height // 2 + 1] = (200, 100, 50)
    frame = av.VideoFrame.from_ndarray(drawn, "rgb24").reformat(format="rgb24")
    path = encode(tmp_path / "a.mov", frame, "png", count=2)
    if rotation:
        path = tools.with_rotation(path, tmp_path / "turned.mov", rotation)
    seen = first(path)
    shape = (width, height) if rotation else (height, width)
    assert seen.shape == (*shape, 3)
    corner = seen[-1, 0] if rotation else seen[0, 0]
    assert np.abs(corner.astype(int) - (200, 100, 50)).max() <= 3
    assert first(path, lambda picture: picture.rgb(16)).shape[2] == 3
    assert first(path, lambda picture: picture.gray(32, 20)).shape == (20, 32)
    assert first(path, lambda picture: picture.yuv(64, 36)).shape == (3, 36, 64)


def test_what_is_transparent_is_shown_on_black(tmp_path: Path) -> None:
    drawn = np.full((32, 32, 4), 200, np.uint8)
    drawn[..., 3] = np.repeat([255, 127, 0, 255], 8)
    frame = av.VideoFrame.from_ndarray(drawn, "rgba")
    path = encode(tmp_path / "a.mov", frame, "png", count=2)
    assert first(path)[16, 4::8, 0].tolist() == [200, 100, 0, 200]


def test_one_frame(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", coded(bars(160, 96), 5, False, 8), options=LOSSLESS)
    found = identify(path)
    assert found.frame_rate is None
    assert found.duration == pytest.approx(0.04)
    assert [frame.time for frame in frames.extract(path, tmp_path)] == [0]
