"""What models are named by, and that there is one of each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from dagster_metaxy.media import models


class Slow:
    """A model that takes a while to make, and that two threads must not call at once."""

    version = 3
    made: ClassVar[list[int]] = []

    def __init__(self) -> None:
        time.sleep(0.05)
        self.made.append(threading.get_ident())
        self.busy = False

    def __call__(self, value: int) -> int:
        assert not self.busy
        self.busy = True
        time.sleep(0.01)
        self.busy = False
        return value + 1


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no GPU")


NUMBER = 3


def test_one_for_all_threads_called_by_one_at_a_time() -> None:
    with ThreadPoolExecutor(8) as pool:
        name = f"{__name__}.Slow"
        assert list(pool.map(lambda i: models.own(name).call(i), range(8))) == [*range(1, 9)]
    assert len(Slow.made) == 1


def test_a_file_is_known_by_its_content_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    before = models.identity(str(one))
    assert models.identity(str(other)) == before
    one.write_bytes(b"others")
    assert models.identity(str(one)) != before


def test_an_object_is_known_by_its_path_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.identity(f"{__name__}.Slow") == f"{__name__}.Slow@3"
    monkeypatch.setattr(Slow, "version", "4")
    assert models.identity(f"{__name__}.Slow") == f"{__name__}.Slow@4"
    assert models.identity(f"{__name__}.Broken") == f"{__name__}.Broken"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("Detector", "'Detector' names no model: write the path of an ONNX file, or"),
        ("nowhere.Detector", "nowhere.Detector can't be imported: ModuleNotFoundError"),
        (f"{__name__}.Missing", "has no model 'Missing'"),
        (f"{__name__}.NUMBER", r"NUMBER can't be called"),
        (f"{__name__}.Broken", r"Broken can't be made: RuntimeError: no GPU"),
    ],
)
def test_what_is_no_model(model: str, sentence: str) -> None:
    with pytest.raises(models.ModelError, match=sentence):
        models.own(model)
