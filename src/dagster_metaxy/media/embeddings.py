"""Pictures as vectors, by a model of your own: an ONNX file, or a callable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dagster_metaxy.media import models
from dagster_metaxy.media._picture import Pixels

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Makes a vector of a picture.

    If it has a method `batch`, too, that is called instead, with a list of pictures, and gives a
    vector of each: an array of as many rows, or a list.
    """

    def __call__(self, picture: Pixels, /) -> npt.ArrayLike:
        """The vector of height x width x 3 bytes of red, green and blue."""
        ...


@dataclass(frozen=True, slots=True)
class Preparation:
    """What an ONNX model takes, as its authors tell."""

    size: int = 224
    """Pixels of each side."""
    fit: Literal["crop", "stretch"] = "crop"
    """What becomes of pictures that are not square: the middle is cut out, or they are distorted."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken from red, green and blue, which are 0 to 1; then they are divided by `std`."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __call__(self, picture: Pixels) -> Vectors:
        """One picture as the model takes it."""
        image = Image.fromarray(picture)
        width, height = image.size
        side = min(width, height) if self.fit == "crop" else 0
        box = (
            ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
            if side
            else (0, 0, width, height)
        )
        scaled = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        values = np.asarray(scaled, np.float32) / 255
        values = (values - np.asarray(self.mean)) / np.asarray(self.std)
        values = values[..., ::-1] if self.channels == "bgr" else values
        values = values.transpose(2, 0, 1) if self.layout == "nchw" else values
        return values.astype(np.float32)


def embed(
    pictures: Sequence[Pixels],
    *,
    model: str,
    dimension: int,
    preparation: Preparation | None = None,
    output: str | None = None,
    normalize: bool = True,
) -> Vectors:
    """The vectors of pictures, one row of each.

    Args:
        pictures: Each height x width x 3 bytes of red, green and blue.
        model: The path of an ONNX file, or the dotted path of an `Embedder`, see `models`.
        dimension: How many values a vector has.
        preparation: What an ONNX model takes.
        output: Which output of an ONNX model is the vector; the first if left out.
        normalize: Whether vectors are scaled to length 1.

    Raises:
        ModelError: The model is not there, or is not for such pictures or vectors.
        ValueError: A vector has values that are no finite numbers.
    """
    if not pictures:
        return np.empty((0, dimension), np.float32)
    if models.is_file(model):
        found = _onnx(models.session(model), pictures, preparation or Preparation(), output)
    else:
        found = _own(models.own(model), pictures)
    try:
        vectors = np.asarray(
            [np.atleast_1d(np.asarray(vector, np.float32).squeeze()) for vector in found],
            np.float32,
        )
    except (TypeError, ValueError) as error:
        raise models.ModelError(f"the model {model} gives no vectors: {error}") from error
    if vectors.shape != (len(pictures), dimension):
        shape = " x ".join(str(n) for n in vectors.shape[1:]) or "no"
        raise models.ModelError(
            f"the model {model} gives {shape} values for a picture, but the dimension is declared"
            f" as {dimension}"
            if len(vectors) == len(pictures)
            else f"the model {model} gives {len(vectors)} vectors for {len(pictures)} pictures"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("the model gives values that are no finite numbers")
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
    return vectors


def _own(model: models.OwnModel, pictures: Sequence[Pixels]) -> Iterable[Any]:
    if model.has("batch"):
        return model.call([*pictures], method="batch")
    return [model.call(picture) for picture in pictures]


def _onnx(
    session: Any, pictures: Sequence[Pixels], preparation: Preparation, output: str | None
) -> Iterable[Any]:
    outputs = [found.name for found in session.get_outputs()]
    if output is not None and output not in outputs:
        raise models.ModelError(f"the model has no output {output!r}; it has: {', '.join(outputs)}")
    taken = session.get_inputs()[0]
    prepared = np.stack([preparation(picture) for picture in pictures])
    # Where a model has one picture written into it, it gets one at a time.
    together = len(pictures) if not isinstance(taken.shape[0], int) else taken.shape[0]
    size = preparation.size
    expected = (3, size, size) if preparation.layout == "nchw" else (size, size, 3)
    fixed = taken.shape[1:]
    if len(fixed) != 3 or any(
        isinstance(f, int) and f != e for f, e in zip(fixed, expected, strict=True)
    ):
        shape = " x ".join(str(n) for n in fixed)
        raise models.ModelError(
            f"the model takes pictures of {shape}, not of {' x '.join(map(str, expected))}: set its"
            " size and layout"
        )
    if together not in (1, len(pictures)):
        raise models.ModelError(
            f"the model takes {together} pictures at a time, no more and no less"
        )
    try:
        found = [
            session.run([output or outputs[0]], {taken.name: prepared[i : i + together]})[0]
            for i in range(0, len(pictures), together)
        ]
    except Exception as error:
        said = " ".join(str(error).split())
        raise models.ModelError(f"the model does not run on pictures: {said}") from error
    return np.concatenate(found)
