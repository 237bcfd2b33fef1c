"""Faces in real clips, at places that were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagster_metaxy.media import faces, frames, models, still

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: uv sync --group models")

Box = tuple[float, float, float, float]


def pictures(clip: Path, folder: Path, every_seconds: float) -> list[np.ndarray]:
    found = frames.extract(clip, folder, every_seconds=every_seconds)
    return [still.rgb(folder / frame.file) for frame in found]


def box(face: faces.Face) -> Box:
    return face.left, face.top, face.right, face.bottom


def overlap(a: Box, b: Box) -> float:
    """The common part of two boxes, as a share of what they cover."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_a_portrait_has_one_face(portrait: Path, tmp_path: Path) -> None:
    # Seen in the pictures: the face from hairline to chin, the eyes, the mouth's corners.
    seen: list[tuple[Box, Sequence[float]]] = [
        ((270, 70, 470, 340), (323, 174, 417, 178, 365, 232, 322, 262, 405, 266)),
        ((228, 30, 360, 197), (265, 90, 328, 91, 296, 125, 265, 147, 323, 149)),
        ((283, 5, 490, 257), (338, 93, 438, 96, 385, 150, 340, 181, 430, 183)),
    ]
    shown = pictures(portrait, tmp_path, 6)
    assert len(shown) == len(seen)
    for picture, (place, points) in zip(shown, seen, strict=True):
        (face,) = faces.detect(picture)
        assert face.score > 0.8
        assert overlap(box(face), place) > 0.8
        assert face.landmarks == pytest.approx(points, abs=10)


def test_a_street_has_one_of_a_cyclist_at_five_seconds(bikes: Path, tmp_path: Path) -> None:
    found = [faces.detect(picture) for picture in pictures(bikes, tmp_path, 1)]
    assert [len(f) for f in found] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert overlap(box(found[5][0]), (416, 20, 442, 50)) > 0.7


def test_animals_have_none(bunny: Path, tmp_path: Path) -> None:
    assert not any(faces.detect(picture) for picture in pictures(bunny, tmp_path, 2))


def test_a_face_until_the_cut(phone: Path, tmp_path: Path) -> None:
    found = [len(faces.detect(picture)) for picture in pictures(phone, tmp_path, 0.6)]
    assert found == [1] * 4 + [0] * (len(found) - 4)  # the cut is at 2.4 s


def test_places_do_not_depend_on_the_size_of_the_picture(portrait: Path, tmp_path: Path) -> None:
    picture = pictures(portrait, tmp_path, 20)[0]
    (face,) = faces.detect(picture)
    (cut,) = faces.detect(picture[40:-13, 101:-5])
    moved = (cut.left + 101, cut.top + 40, cut.right + 101, cut.bottom + 40)
    assert overlap(moved, box(face)) > 0.85
    # Half of it is outside: the box ends where the picture does.
    (half,) = faces.detect(picture[:, :370])
    assert half.right == 370
    assert faces.detect(picture[:1, :1]) == []


def test_small_and_uncertain_ones_are_left_out(portrait: Path, tmp_path: Path) -> None:
    picture = pictures(portrait, tmp_path, 20)[0]
    (face,) = faces.detect(picture)
    size = min(face.right - face.left, face.bottom - face.top)
    assert faces.detect(picture, min_size=size - 1)
    assert not faces.detect(picture, min_size=size + 1)
    assert faces.detect(picture, min_score=face.score - 0.01)
    assert not faces.detect(picture, min_score=face.score + 0.01)
    assert len(faces.detect(picture, min_score=0.02)) > 1


class Corner:
    """A detector of one's own: an array as many give, and a face that is nearly out of sight."""

    def __call__(self, picture: np.ndarray) -> Any:
        return [(-5, -5, 10, 12, np.float32(0.6)), faces.Face(1, 2, 30, 40, 0.9, (1, 2))]


def words(picture: np.ndarray) -> Any:
    return ["face"]


def test_a_detector_of_ones_own() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    first, second = faces.detect(picture, model=f"{__name__}.Corner")
    assert (box(first), first.landmarks) == ((1, 2, 30, 20), (1, 2))
    assert (box(second), second.landmarks) == ((0, 0, 10, 12), None)
    assert second.score == pytest.approx(0.6)
    assert len(faces.detect(picture, model=f"{__name__}.Corner", min_score=0.7)) == 1
    with pytest.raises(models.ModelError, match=r"\.words gives no faces as left, top, right,"):
        faces.detect(picture, model=f"{__name__}.words")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(models.ModelError, match=r"there is no model .*nothing is downloaded"):
        faces.detect(picture, model=str(file))
    file.write_bytes(b"no model")
    with pytest.raises(models.ModelError, match="no model that onnxruntime can load") as caught:
        faces.detect(picture, model=str(file))
    assert "\n" not in str(caught.value)
