"""What is measured of the picture, compared with FFmpeg's filters and with numpy on other decodings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import av
import media_tools as tools
import numpy as np
import pytest
from PIL import Image, ImageFilter

from dagster_metaxy.media import quality
from dagster_metaxy.media.errors import MediaError


def story(index: int, width: int, height: int) -> np.ndarray:
    """Two seconds each, at 25 a second: moving, black, frozen, moving."""
    if 50 <= index < 100:
        return np.zeros((height, width, 3), np.uint8)
    still = min(index, 100) if index < 150 else index
    return np.roll(tools.picture(5, width, height), still * 3, axis=1)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    return tools.clip(folder / "story.mp4", frames=200, draw=story)


def test_black_and_frozen_parts(told: Path) -> None:
    found = quality.measure(told)
    assert found.black_share == pytest.approx(0.25, abs=0.006)
    # Black does not move either.
    assert found.frozen_share == pytest.approx(0.5, abs=0.02)
    assert quality.measure(told, black_below=0.0).black_share == 0
    assert quality.measure(told, frozen_below=0.0).frozen_share == 0
    assert len(found.brightness_curve) == len(found.sharpness_curve) == 8
    assert found.brightness_curve[2:4] == pytest.approx([0, 0], abs=0.01)
    assert found.motion_curve[3] == found.motion_curve[5] == pytest.approx(0, abs=1e-3)
    assert min(found.motion_curve[i] for i in (0, 1, 6, 7)) > 0.01
    assert found.sharpness_curve[2] < 1 < found.sharpness_curve[0]


def test_as_ffmpeg_finds_them(told: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg")
    filters = "blackdetect=d=0.04:pic_th=0.98:pix_th=0.1,freezedetect=n=0.001:d=1"
    command = ["ffmpeg", "-hide_banner", "-i", str(told), "-vf", filters, "-f", "null", "-"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    black = sum(map(float, re.findall(r"black_duration:([\d.]+)", log)))
    frozen = sum(map(float, re.findall(r"freeze_duration: ([\d.]+)", log)))
    found = quality.measure(told)
    assert black > 1
    assert frozen > 3
    assert found.black_share * 8 == pytest.approx(black, abs=0.09)
    assert found.frozen_share * 8 == pytest.approx(frozen, abs=0.09)


def test_animation_on_twos_is_not_frozen(tmp_path: Path) -> None:
    clip = tools.clip(
        tmp_path / "twos.mp4", frames=75, draw=lambda i, w, h: story(i // 6 % 50, w, h)
    )
    assert quality.measure(clip).frozen_share == 0


def test_a_picture_that_is_shown_for_long_is_frozen(made) -> None:
    found = quality.measure(made("slides"))
    assert found.frozen_share > 0.99
    assert len(found.brightness_curve) == len(found.motion_curve) == 31
    assert len(set(found.brightness_curve[:10])) == 1
    assert [i for i, motion in enumerate(found.motion_curve) if motion] == [10, 20, 30]


def test_brightness_and_contrast_of_a_real_clip(bunny: Path) -> None:
    found = quality.measure(bunny)
    luma = []
    with av.open(str(bunny)) as container:
        for frame in container.decode(video=0):
            plane = frame.to_ndarray()[: frame.height : 4, ::4].astype(np.float32)
            luma.append(np.clip((plane - 16) / 219, 0, 1))
    assert found.brightness == pytest.approx(np.mean(luma), abs=0.01)
    # Less fine detail at 64 x 36.
    assert found.contrast == pytest.approx(np.mean([frame.std() for frame in luma]), rel=0.05)
    assert found.brightness_curve[2] == pytest.approx(np.mean(luma[50:75]), abs=0.01)


def test_full_and_limited_range_are_told_apart(tmp_path: Path) -> None:
    found = []
    for name, pixels in (("tv", "yuv420p"), ("pc", "yuvj420p")):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 96, pixels
            for i in range(5):
                frame = av.VideoFrame.from_ndarray(tools.picture(i), "rgb24")
                file.mux(stream.encode(frame.reformat(format=pixels)))
            file.mux(stream.encode())
        found.append(quality.measure(tmp_path / f"{name}.mp4"))
    assert found[0].brightness == pytest.approx(found[1].brightness, abs=0.01)
    assert found[0].contrast == pytest.approx(found[1].contrast, abs=0.01)


def test_sharpness(bunny: Path, tmp_path: Path) -> None:
    pixels = tools.decoded(bunny)[0][1]

    def of(image: Image.Image, size: tuple[int, int]) -> float:
        drawn = np.asarray(image.resize(size, Image.Resampling.BOX))
        clip = tools.clip(
            tmp_path / "still.mp4",
            frames=1,
            width=size[0],
            height=size[1],
            draw=lambda *_: drawn,
            options={"crf": "10"},
        )
        return quality.measure(clip).sharpness

    image = Image.fromarray(pixels)
    sharp = of(image, (1280, 720))
    by_pillow = image.convert("L").resize((320, 180), Image.Resampling.BOX)
    kernel = ImageFilter.Kernel((3, 3), [0, 1, 0, 1, -4, 1, 0, 1, 0], scale=8, offset=128)
    laplacian = np.asarray(by_pillow.filter(kernel), float)[1:-1, 1:-1] * 8
    assert sharp == pytest.approx(laplacian.var(), rel=0.1)
    # Whatever the size.
    assert of(image, (640, 360)) == pytest.approx(sharp, rel=0.1)
    blurred = [of(image.filter(ImageFilter.GaussianBlur(r)), (1280, 720)) for r in (3, 8, 20)]
    assert sharp / 4 > blurred[0] > 2 * blurred[1] > 4 * blurred[2]


def test_one_frame_and_none(dub: Path, tmp_path: Path) -> None:
    found = quality.measure(tools.clip(tmp_path / "one.mp4", frames=1))
    assert (found.motion, found.black_share, len(found.motion_curve)) == (0, 0, 1)
    with pytest.raises(MediaError, match="no picture stream"):
        quality.measure(dub)
