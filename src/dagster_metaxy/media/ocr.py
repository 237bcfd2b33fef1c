"""Text in a picture, read by RapidOCR or by a reader of your own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dagster_metaxy.media import models
from dagster_metaxy.media._picture import Pixels


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text in a picture."""

    text: str
    score: float
    """How certain it is, 0 to 1."""
    polygon: tuple[float, ...]
    """x and y of its corners, in pixels from the top left corner of the picture; of text that is
    upright, the top left one first, then clockwise."""

    @property
    def left(self) -> float:
        """The least x."""
        return min(self.polygon[0::2])

    @property
    def top(self) -> float:
        """The least y."""
        return min(self.polygon[1::2])

    @property
    def right(self) -> float:
        """The greatest x."""
        return max(self.polygon[0::2])

    @property
    def bottom(self) -> float:
        """The greatest y."""
        return max(self.polygon[1::2])


class Reader(Protocol):
    """Reads what is written in a picture."""

    def __call__(self, picture: Pixels, /) -> Iterable[Text | Sequence[Any]]:
        """The lines of text in height x width x 3 bytes of red, green and blue: `Text`s, or sequences
        of text, score and x and y of each corner (`[x, y, x, y, ...]` or `[[x, y], ...]`)."""
        ...


def read(picture: Pixels, *, model: str | None = None, min_score: float = 0.5) -> list[Text]:
    """The lines of text in a picture, from top to bottom where RapidOCR reads them.

    Args:
        picture: Height x width x 3 bytes of red, green and blue.
        model: The dotted path of a `Reader`, see `models`; RapidOCR with the models inside its
            package if left out.
        min_score: What is less certain is left out.

    Raises:
        ModelError: The model is not there, or gives no text.
    """
    found = _rapid(picture) if model is None else models.own(model).call(picture)
    try:
        lines = [
            _plain(*((t.text, t.score, t.polygon) if isinstance(t, Text) else t)) for t in found
        ]
    except (TypeError, ValueError) as error:
        raise models.ModelError(
            f"the model {model} gives no lines as text, score, corners: {error}"
        ) from error
    return [line for line in lines if line.score >= min_score]


def _plain(text: Any, score: Any, polygon: Any) -> Text:
    corners = np.asarray(polygon, float).ravel()
    if corners.size < 2 or corners.size % 2:
        raise ValueError(f"{corners.size} numbers are no corners")
    return Text(str(text), float(score), tuple(corners.tolist()))


_readers = threading.local()


def _rapid(picture: Pixels) -> list[tuple[Any, Any, Any]]:
    # One of each thread: it keeps what it is at in its attributes.
    if not hasattr(_readers, "rapid"):
        _readers.rapid = _rapid_reader()
    read = _readers.rapid(np.ascontiguousarray(picture[..., ::-1]))  # blue, green, red
    return [] if not read.txts else list(zip(read.txts, read.scores, read.boxes, strict=True))


def _rapid_reader() -> Any:
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    paths = {}
    for part, name in (("Det", "det"), ("Cls", "cls"), ("Rec", "rec")):
        # Named by their paths: it downloads what it looks for by itself and does not find.
        found = sorted(folder.glob(f"*_{name}_*.onnx")) or sorted(folder.glob(f"*_{name}.onnx"))
        if not found:
            raise models.ModelError(f"the package rapidocr has no model for {name!r} in it")
        paths[f"{part}.model_path"] = str(found[0])
    threads = "EngineConfig.onnxruntime.{}_op_num_threads"
    return rapidocr.RapidOCR(
        params={
            **paths,
            threads.format("intra"): 1,
            threads.format("inter"): 1,
            "Global.text_score": 0.0,
            "Global.log_level": "critical",
        }
    )
