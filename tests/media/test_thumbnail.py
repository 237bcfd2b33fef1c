"""The frame that stands for a video."""

from __future__ import annotations

from pathlib import Path

import media_tools as tools
import numpy as np
import pytest
from PIL import Image, ImageFilter

from dagster_metaxy.media import thumbnail
from dagster_metaxy.media.errors import MediaError


def test_neither_black_nor_blurred(bunny: Path, tmp_path: Path) -> None:
    sharp = Image.fromarray(tools.decoded(bunny)[0][1]).resize((320, 180))
    blurred = np.asarray(sharp.filter(ImageFilter.GaussianBlur(6)))

    def draw(index: int, width: int, height: int) -> np.ndarray:
        """Black, but for something blurred, and half a second of something sharp."""
        if 40 <= index < 53:
            return np.asarray(sharp)
        return blurred if index >= 60 else np.zeros((height, width, 3), np.uint8)

    clip = tools.clip(tmp_path / "clip.mp4", frames=100, width=320, height=180, draw=draw)
    found = thumbnail.make(clip, tmp_path / "out.jpg")
    assert 1.6 <= found.time < 2.12
    assert (found.width, found.height) == (320, 180)
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (320, 180))
    assert np.abs(tools.jpeg(tmp_path / "out.jpg").astype(int) - np.asarray(sharp)).mean() < 6


def test_it_is_the_frame_of_its_time(bikes: Path, tmp_path: Path) -> None:
    found = thumbnail.make(bikes, tmp_path / "out.jpg", max_size=None, quality=95)
    right = next(pixels for time, pixels in tools.decoded(bikes) if abs(time - found.time) < 1e-3)
    assert np.abs(tools.jpeg(tmp_path / "out.jpg").astype(int) - right).mean() < 3


def test_size_and_rotation(bikes: Path, tmp_path: Path) -> None:
    turned = tools.with_rotation(bikes, tmp_path / "turned.mp4", 90)
    found = thumbnail.make(turned, tmp_path / "out.jpg", max_size=160)
    assert (found.width, found.height) == (68, 160)


@pytest.mark.parametrize("frames", [1, 3])
def test_nothing_but_black(frames: int, tmp_path: Path) -> None:
    clip = tools.clip(
        tmp_path / "black.mp4", frames=frames, draw=lambda i, w, h: np.zeros((h, w, 3), np.uint8)
    )
    assert thumbnail.make(clip, tmp_path / "out.jpg").time == 0


def test_no_picture(dub: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no picture stream"):
        thumbnail.make(dub, tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()
