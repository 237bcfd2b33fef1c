"""Videos at a glance."""

from __future__ import annotations

from pathlib import Path

import media_tools as tools
import numpy as np
import pytest
from PIL import Image

from dagster_metaxy.media import contact_sheet
from dagster_metaxy.media.contact_sheet import ContactSheet


def test_frames_stand_in_their_places(bikes: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.jpg"
    assert contact_sheet.make(bikes, file, columns=3, rows=2, width=960) == ContactSheet(
        960, 272, 6
    )
    sheet = tools.jpeg(file).astype(int)
    assert sheet.shape == (272, 960, 3)
    pictures = tools.decoded(bikes)
    for index in range(6):
        at = (index + 0.5) * 10 / 6
        shown = [pixels for time, pixels in pictures if time <= at + 1e-3][-1]
        small = np.asarray(Image.fromarray(shown).resize((320, 136), Image.Resampling.BOX))
        y, x = index // 3 * 136, index % 3 * 320
        cell = sheet[y : y + 136, x : x + 320]
        # Without the time, which is below.
        assert np.abs(cell[:100] - small[:100]).mean() < 5
        # The time: white on black, in a corner that is neither in the film.
        label = cell[-12:, :30]
        assert label.min() < 30
        assert label.max() > 200
        assert np.abs(label - small[-12:, :30]).mean() > 20


@pytest.mark.parametrize(
    ("frames", "size"), [(1, (160, 96)), (3, (480, 96)), (6, (640, 192)), (40, (640, 384))]
)
def test_a_video_of_fewer_frames(frames: int, size: tuple[int, int], tmp_path: Path) -> None:
    clip = tools.clip(tmp_path / "short.mp4", frames=frames)
    found = contact_sheet.make(clip, tmp_path / "sheet.jpg")
    assert found == ContactSheet(*size, min(frames, 16))
    with Image.open(tmp_path / "sheet.jpg") as image:
        assert image.size == size


def test_upright(bikes: Path, tmp_path: Path) -> None:
    turned = tools.with_rotation(bikes, tmp_path / "turned.mp4", 90)
    found = contact_sheet.make(turned, tmp_path / "sheet.jpg", columns=4, rows=1, width=400)
    assert found == ContactSheet(400, 235, 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (59.99, "0:59.9"), (3599.7, "59:59.7"), (3600, "1:00:00.0"), (8.3, "0:08.3")],
)
def test_times(seconds: float, text: str) -> None:
    assert contact_sheet._clock(seconds) == text
