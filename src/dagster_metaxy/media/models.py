"""Models that look at pictures: what they are named by, and one of each in a process.

A model is a file, which runs in onnxruntime on the CPU with one thread, since workers run side by
side; or an object of your own, by its dotted path (`my_project.models.Detector`): a callable, or a
class, of which one instance is made in each process. What it is called with and gives is told where
it is used. It is called by one thread at a time. Let a class load what is heavy when it is made,
not when its module is imported. The attribute `version` of it, if it has one, is a part of what its
results are versioned by: another value makes them stale.

Nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import onnxruntime

_T = TypeVar("_T")
_lock = threading.RLock()
_made: dict[Hashable, Any] = {}


class ModelError(Exception):
    """A model that can't be used; the message is one sentence that says why."""


def once(key: Hashable, make: Callable[[], _T]) -> _T:
    """What `make` gives, made once in this process for a key."""
    with _lock:
        if key not in _made:
            _made[key] = make()
        return _made[key]


def is_file(model: str) -> bool:
    """Whether a model is named by a path of a file, not by a dotted path."""
    return "/" in model or "\\" in model or model.endswith(".onnx")


def identity(model: str) -> str:
    """What a model is versioned by: the content of its file, or its dotted path and `version`.

    Raises:
        ModelError: It is not there.
    """
    if is_file(model):
        return _digest(*_status(model))
    version = getattr(_imported(model), "version", None)
    return model if version is None else f"{model}@{version}"


def _status(file: str) -> tuple[str, int, int]:
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"there is no model {file}: nothing is downloaded, put the file there")
    found = path.stat()
    return str(path.absolute()), found.st_size, found.st_mtime_ns


@lru_cache
def _digest(file: str, size: int, modified: int) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with Path(file).open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def session(file: str) -> onnxruntime.InferenceSession:
    """The model in an ONNX file, ready to run in any thread.

    Raises:
        ModelError: It is not there, or is no model.
    """
    return once(_status(file), lambda: _session(file))


def _session(file: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        said = " ".join(str(error).split())
        raise ModelError(f"{file} is no model that onnxruntime can load: {said}") from error


class OwnModel:
    """A model that is named by its dotted path; calls wait for each other.

    Raises:
        ModelError: It is not there, or can't be made.
    """

    def __init__(self, model: str) -> None:
        found = _imported(model)
        try:
            self._model = found() if isinstance(found, type) else found
        except Exception as error:
            raise ModelError(
                f"the model {model} can't be made: {type(error).__name__}: {error}"
            ) from error
        self._calls = threading.Lock()

    def call(self, *arguments: Any, method: str = "__call__") -> Any:
        """What it, or a method of it, gives."""
        with self._calls:
            return getattr(self._model, method)(*arguments)

    def has(self, method: str) -> bool:
        """Whether it has a method."""
        return callable(getattr(self._model, method, None))


def own(model: str) -> OwnModel:
    """The one that a dotted path names.

    Raises:
        ModelError: It is not there, or can't be made.
    """
    # By what is found, too: modules are loaded again.
    return once((model, _imported(model)), lambda: OwnModel(model))


def _imported(model: str) -> Any:
    module, _, name = model.rpartition(".")
    if not module:
        raise ModelError(
            f"{model!r} names no model: write the path of an ONNX file, or 'package.module.name'"
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise ModelError(
            f"the model {model} can't be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise ModelError(
            f"{module} has no model {name!r}" if found is None else f"{model} can't be called"
        )
    return found
