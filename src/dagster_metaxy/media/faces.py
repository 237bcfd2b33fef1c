"""Faces in a picture, found by CenterFace or by a detector of your own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dagster_metaxy.media import models
from dagster_metaxy.media._picture import Pixels

CENTERFACE = Path(__file__).parent / "weights" / "centerface.onnx"
"""The model that is used where none is named; see `weights/README.md`."""

_STRIDE = 32  # sides are multiples of it
_CELL = 4  # pixels of a side for which the model tells one score
_OVERLAP = 0.3  # two boxes of which more is common are of one face


@dataclass(frozen=True, slots=True)
class Face:
    """A face, in pixels from the top left corner of the picture."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    """How certain it is, 0 to 1."""
    landmarks: tuple[float, ...] | None = None
    """x and y of the eye at the left of the picture, the other eye, the tip of the nose, and the
    corners of the mouth, again the left one first; a detector of your own may give others, or none."""


class Detector(Protocol):
    """Finds faces in a picture."""

    def __call__(self, picture: Pixels, /) -> Iterable[Face | Sequence[Any]]:
        """The faces in height x width x 3 bytes of red, green and blue: `Face`s, or sequences of
        left, top, right, bottom, score and, if known, a sequence of landmarks."""
        ...


def detect(
    picture: Pixels, *, model: str | None = None, min_score: float = 0.5, min_size: float = 0
) -> list[Face]:
    """The faces in a picture, the most certain first.

    Args:
        picture: Height x width x 3 bytes of red, green and blue.
        model: The path of an ONNX file with another CenterFace, or the dotted path of a `Detector`,
            see `models`; the CenterFace of this package if left out.
        min_score: Those that are less certain are left out.
        min_size: Those whose shorter side has fewer pixels are left out.

    Raises:
        ModelError: The model is not there, or is no such model.
    """
    if model is None or models.is_file(model):
        found = _centerface(models.session(model or str(CENTERFACE)), picture, min_score)
    else:
        found = _checked(models.own(model).call(picture), model)
    height, width = picture.shape[:2]
    faces = [_clipped(face, width, height) for face in found if face.score >= min_score]
    faces = [f for f in faces if min(f.right - f.left, f.bottom - f.top) >= max(min_size, 1)]
    return sorted(faces, key=lambda face: -face.score)


def _checked(found: Any, model: str) -> list[Face]:
    try:
        faces = [face if isinstance(face, Face) else Face(*face) for face in found]
        return [_plain(face) for face in faces]
    except (TypeError, ValueError) as error:
        raise models.ModelError(
            f"the model {model} gives no faces as left, top, right, bottom, score: {error}"
        ) from error


def _plain(face: Face) -> Face:
    """The same with plain numbers, whatever kinds a detector gives."""
    points = None if face.landmarks is None else tuple(float(v) for v in face.landmarks)
    left, top, right, bottom, score = (
        float(v) for v in (face.left, face.top, face.right, face.bottom, face.score)
    )
    return Face(left, top, right, bottom, score, points)


def _clipped(face: Face, width: int, height: int) -> Face:
    left, right = (min(max(x, 0.0), float(width)) for x in (face.left, face.right))
    top, bottom = (min(max(y, 0.0), float(height)) for y in (face.top, face.bottom))
    return replace(face, left=left, top=top, right=right, bottom=bottom)


def _centerface(session: Any, picture: Pixels, min_score: float) -> list[Face]:
    height, width = picture.shape[:2]
    # Black at the right and below, not scaled: nothing is distorted.
    padded = np.zeros((1, 3, -(-height // _STRIDE) * _STRIDE, -(-width // _STRIDE) * _STRIDE), "f4")
    padded[0, :, :height, :width] = picture.transpose(2, 0, 1)
    outputs = session.run(None, {session.get_inputs()[0].name: padded})
    if [output.shape[1] for output in outputs] != [1, 2, 2, 10]:
        raise models.ModelError(
            "the model is no CenterFace: it does not give scores, sizes, offsets and landmarks"
        )
    heat, log_sizes, offsets, points = (output[0] for output in outputs)
    rows, columns = np.nonzero(heat[0] >= min_score)
    scores = heat[0, rows, columns]
    heights, widths = np.exp(log_sizes[:, rows, columns]) * _CELL
    y = (rows + offsets[0, rows, columns] + 0.5) * _CELL
    x = (columns + offsets[1, rows, columns] + 0.5) * _CELL
    left, top = x - widths / 2, y - heights / 2
    boxes = np.stack([left, top, left + widths, top + heights], axis=1)
    # Of each point, first down, then to the right, in shares of the box.
    down = points[0::2, rows, columns] * heights + top
    across = points[1::2, rows, columns] * widths + left
    landmarks = np.stack([across.T, down.T], axis=-1).reshape(-1, 10)
    kept = _distinct(boxes, scores)
    return [
        _plain(Face(box[0], box[1], box[2], box[3], score, tuple(points)))
        for box, score, points in zip(boxes[kept], scores[kept], landmarks[kept], strict=True)
    ]


def _distinct(boxes: npt.NDArray[Any], scores: npt.NDArray[Any]) -> list[int]:
    """Those boxes that no more certain one overlaps."""
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-scores):
        common = np.minimum(boxes[kept, 2:], boxes[i, 2:]) - np.maximum(
            boxes[kept, :2], boxes[i, :2]
        )
        shared = np.clip(common, 0, None).prod(axis=1)
        if not (shared > _OVERLAP * (areas[kept] + areas[i] - shared)).any():
            kept.append(int(i))
    return kept
