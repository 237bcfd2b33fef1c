"""Text that was drawn, read; and none where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dagster_metaxy.media import frames, models, ocr, still


def sign(text: str, left: int, top: int, size: tuple[int, int] = (320, 120)) -> np.ndarray:
    """White letters on a dark picture."""
    image = Image.new("RGB", size, (20, 30, 60))
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).text((left, top), text, "white", font)
    return np.asarray(image)


@pytest.fixture
def rapid() -> None:
    pytest.importorskip("rapidocr", reason="rapidocr is not installed: uv sync --group models")


@pytest.mark.usefixtures("rapid")
def test_lines_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def download(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it downloads")

    monkeypatch.setattr(requests.Session, "request", download)
    picture = sign("Reel 42, take 7", 40, 20)
    drawn = sign("Thanks", 150, 70)
    first, second = ocr.read(np.maximum(picture, drawn))
    assert (first.text.replace(" ", ""), second.text) == ("Reel42,take7", "Thanks")
    for line, alone in ((first, picture), (second, drawn)):
        assert line.score > 0.8
        rows, columns = np.nonzero(alone[..., 0] > 100)
        place = (columns.min(), rows.min(), columns.max(), rows.max())
        assert (line.left, line.top, line.right, line.bottom) == pytest.approx(place, abs=12)
    assert len(first.polygon) == 8
    assert ocr.read(picture, min_score=1) == []


@pytest.mark.usefixtures("rapid")
def test_animals_without_text(bunny: Path, tmp_path: Path) -> None:
    (frame,) = frames.extract(bunny, tmp_path, every_seconds=9, max_size=320)
    assert ocr.read(still.rgb(tmp_path / frame.file)) == []


def reader(picture: np.ndarray) -> Any:
    return [
        ("slanted", np.float32(0.9), np.array([[10, 5], [50, 15], [48, 25], [8, 15]])),
        ocr.Text("unsure", 0.4, (0, 0, 1, 0, 1, 1, 0, 1)),
    ]


def no_reader(picture: np.ndarray) -> Any:
    return [("text", 0.9, [1, 2, 3])]


def test_a_reader_of_ones_own() -> None:
    picture = np.zeros((30, 60, 3), np.uint8)
    (line,) = ocr.read(picture, model=f"{__name__}.reader")
    assert (line.left, line.top, line.right, line.bottom) == (8, 5, 50, 25)
    assert line.polygon == (10, 5, 50, 15, 48, 25, 8, 15)
    assert len(ocr.read(picture, model=f"{__name__}.reader", min_score=0)) == 2
    with pytest.raises(
        models.ModelError, match="gives no lines as text, score, corners: 3 numbers"
    ):
        ocr.read(picture, model=f"{__name__}.no_reader")
