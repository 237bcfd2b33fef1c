"""Calling a compute: what goes in by its lineage, its signature and its parameters' names."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.selection import Sample, Selection

JointCall = Callable[["Sample", Sequence[tuple[Callable[..., Any], "ComputeContext"]]], list[Any]]
"""Calls the functions of several computes for one sample at once: gives what each returned, or the
exception it raised, in their order, and raises what concerns them all."""


class SignatureError(TypeError):
    """A compute that cannot be called the way its feature is declared."""


def tell_nobody(progress: Mapping[str, Any]) -> None:
    """What is told of progress where nobody listens."""


@dataclass(frozen=True)
class Runtime:
    """What a run gives to the computes in it.

    Attributes:
        log: A logger.
        run_id: The id of the Dagster run; kept beside every row.
        partition_keys: The partitions that the run is about; empty where it is about all.
        resources: Dagster resources by name, for the parameters of computes.
        selection: What the run was asked to do beside, or less than, what is new or stale.
        companions: Other updates of this run that may be computed together with this one, each with
            its selection.
        tell: Called now and then with how far the update is, by name: `done`, `total`, `failed`,
            `samples_per_second`, `seconds_left`.
    """

    log: Any
    run_id: str = ""
    partition_keys: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    companions: Sequence[tuple[Any, Selection]] = ()
    tell: Callable[[Mapping[str, Any]], None] = tell_nobody


class ComputeContext:
    """What a compute may ask for by naming a parameter `context`.

    Attributes:
        log: Dagster's logger.
        run_id: The id of the Dagster run.
        partition_keys: The partitions that the run is about; empty where it is about all.
    """

    def __init__(self, runtime: Runtime, make_folder: Callable[[], Path]) -> None:
        self.log = runtime.log
        self.run_id = runtime.run_id
        self.partition_keys = runtime.partition_keys
        self._make_folder = make_folder
        self._folder: Path | None = None

    @property
    def artifacts(self) -> Path:
        """An empty folder for the files of this sample.

        Name the files in the rows by their paths in it: the folder is moved to its place, or its
        files are uploaded, before the rows are written, and the rows get the paths, or the URLs,
        that hold then. A sample that fails leaves no file.
        """
        if self._folder is None:
            self._folder = self._make_folder()
        return self._folder

    def artifact(self, name: str) -> Path:
        """The path of a file to write for this sample, in `artifacts`.

        Args:
            name: A file name, or a path of several folders below `artifacts`, which are made.

        Raises:
            ValueError: The name leads out of the folder.
        """
        path = self.artifacts / name
        if not name or path == self.artifacts or ".." in path.relative_to(self.artifacts).parts:
            raise ValueError(f"{name!r} is no name of a file below the sample's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def used_folder(self) -> Path | None:
        """The folder, if the compute asked for it."""
        return self._folder


@dataclass(frozen=True)
class Compute:
    """A user's or a step's function, and how it is called.

    The first parameter is the sample, or the list of samples of one group where the feature
    aggregates; annotated as `pl.DataFrame`, it is all samples of a batch. Further parameters are
    found by name: `context`, a constant of `params`, else a Dagster resource. A class is
    instantiated once per worker, and its `__call__` is the function.

    Attributes:
        function: The function or class.
        params: Constants for parameters.
        lists: Whether it takes no sample, but gives all there are: that of a root feature.
        joint: How it is called together with others that have the same; None where it is not.
    """

    function: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    lists: bool = False
    joint: JointCall | None = None
    _local: threading.local = field(default_factory=threading.local, compare=False, repr=False)

    @cached_property
    def _target(self) -> Callable[..., Any]:
        if isinstance(self.function, type):
            return self.function.__call__
        return self.function

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        try:
            parameters = list(inspect.signature(self._target).parameters.values())
        except (TypeError, ValueError):  # built in: no signature to look at
            sample = inspect.Parameter("sample", inspect.Parameter.POSITIONAL_ONLY)
            return [] if self.lists else [sample]
        return parameters[1:] if isinstance(self.function, type) else parameters

    @property
    def _named(self) -> list[inspect.Parameter]:
        """The parameters that are found by name."""
        return self._parameters if self.lists else self._parameters[1:]

    @cached_property
    def is_batch(self) -> bool:
        """Whether it takes a frame of samples, not one."""
        parameters = self._parameters
        if not parameters or self.lists:
            return False
        try:
            annotation = get_type_hints(self._target).get(parameters[0].name)
        except Exception:
            annotation = parameters[0].annotation
        name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        return name.rpartition(".")[2] == "DataFrame"

    @cached_property
    def takes_context(self) -> bool:
        """Whether it asks for the context."""
        return any(p.name == "context" for p in self._named)

    @cached_property
    def resource_names(self) -> set[str]:
        """The Dagster resources that it asks for."""
        return {
            p.name
            for p in self._named
            if p.name != "context"
            and p.name not in self.params
            and p.default is inspect.Parameter.empty
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # What else it holds is of this process.
        return type(self), (self.function, self.params, self.lists, self.joint)

    def check_sendable(self) -> None:
        """Refuse a function that other processes cannot import.

        Raises:
            SignatureError: With what is wrong.
        """
        name = getattr(self.function, "__qualname__", None) or repr(self.function)
        if getattr(self.function, "__module__", None) == "__main__":
            wrong = f"{name} is defined in the script that runs, which other processes do not have"
        else:
            try:
                pickle.dumps(self.function)
                return
            except Exception as error:
                wrong = f"{name} cannot be sent to a process ({error})"
        raise SignatureError(
            f"{wrong}: name a function or class at the top level of a module, or use `engine:"
            " threads`"
        )

    def prepare(self) -> None:
        """Make the instance of a class, of this worker.

        Raises:
            UpdateError: It cannot be made, which is no matter of one sample.
        """
        if isinstance(self.function, type) and not hasattr(self._local, "instance"):
            try:
                self._local.instance = self.function()
            except Exception as error:
                raise UpdateError(
                    f"{self.function.__qualname__} cannot be made: {type(error).__name__}: {error}"
                ) from error

    def check(self, *, takes_many: bool = False, gives_many: bool = False) -> None:
        """Refuse a signature that cannot be called, or that says it is for another lineage.

        Args:
            takes_many: Whether the feature aggregates: it is called with a list of samples.
            gives_many: Whether the feature expands: it returns an iterable of rows.

        Raises:
            SignatureError: With what is wrong.
        """
        if isinstance(self.function, type) and not any(
            "__call__" in vars(base) for base in self.function.__mro__
        ):
            raise SignatureError("is a class without __call__")
        parameters = self._parameters
        if not self.lists and (
            not parameters or parameters[0].kind == inspect.Parameter.KEYWORD_ONLY
        ):
            raise SignatureError("takes no sample: its first parameter is what it computes from")
        if self.lists and parameters and parameters[0].name in ("sample", "samples"):
            raise SignatureError(
                f"takes {parameters[0].name!r}, but the feature has no deps to take samples from: name"
                " its upstream in deps, or, if it is a root feature, take no sample and return all"
                " there are"
            )
        if unnamed := [
            p.name for p in self._named if p.kind == p.POSITIONAL_ONLY and p.default is p.empty
        ]:
            raise SignatureError(
                f"takes {unnamed[0]!r} by its position: it is called with"
                f" {'none' if self.lists else 'one'} argument, and further parameters are filled in by"
                " their names"
            )
        names = {p.name for p in self._named}
        takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
        if not takes_any and (unknown := sorted(set(self.params) - names)):
            raise SignatureError(
                f"has no parameter {unknown[0]!r}, which params sets; it has:"
                f" {', '.join(sorted(names)) or 'none beside the sample'}"
            )
        if self.is_batch and "context" in names:
            raise SignatureError("takes a batch, which has no context of one sample")
        if inspect.iscoroutinefunction(self._target) or inspect.isasyncgenfunction(self._target):
            raise SignatureError("is async; a compute is a plain function, run in a thread")
        if not self.is_batch and not self.lists:
            self._check_lineage(parameters[0].name, takes_many, gives_many)

    def _check_lineage(self, first: str, takes_many: bool, gives_many: bool) -> None:
        """Refuse what annotations, or a `yield`, say of another lineage; what says nothing passes."""
        try:
            hints = get_type_hints(self._target)
        except Exception:  # names that are there for type checkers only
            hints = {}
        takes, gives = _is_many(hints.get(first)), _is_many(hints.get("return"))
        if inspect.isgeneratorfunction(self._target):
            gives = True
        if takes is not None and takes != takes_many:
            raise SignatureError(
                f"takes one sample ({first}), but is called with a list of samples: the feature"
                " aggregates (`lineage: aggregation`)"
                if takes_many
                else f"takes many samples ({first}), but is called with one, a mapping: write"
                " `lineage: aggregation` in `deps` for all samples of a group"
            )
        if gives is not None and gives != gives_many:
            raise SignatureError(
                "returns one row, but the feature expands (`lineage: expansion`): it returns an"
                " iterable of mappings"
                if gives_many
                else "returns many rows, but the feature has one for each sample: write `lineage:"
                " {type: expansion, on: [...]}` in `deps` for many"
            )

    def __call__(self, argument: Any, runtime: Runtime, context: ComputeContext | None) -> Any:
        """Call it with a sample, a group or a frame; one that lists takes none of these."""
        function = self.function
        if isinstance(function, type):
            # Models are loaded there: once per worker, not once per sample.
            self.prepare()
            function = self._local.instance
        named = {name: runtime.resources[name] for name in self.resource_names}
        named.update(self.params)
        if context is not None and self.takes_context:
            named["context"] = context
        try:
            return function(**named) if self.lists else function(argument, **named)
        except SystemExit as error:  # of a library that takes itself for a program
            raise RuntimeError(f"the compute called sys.exit({error.code!r})") from error


def _is_many(annotation: Any) -> bool | None:
    """Whether an annotation is of many mappings, or of one; None where it says neither."""
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type) or issubclass(kind, str | bytes):
        return None
    if issubclass(kind, Mapping):
        return False
    return True if issubclass(kind, Iterable) and not hasattr(kind, "columns") else None


def moved(value: Any, unfinished: Path, place: Callable[[Path], str]) -> Any:
    """A value of a row, which names its place after publication if it is a file in the folder.

    Args:
        value: The value.
        unfinished: The folder.
        place: What a file is named by then, by its path below the folder.
    """
    if isinstance(value, os.PathLike | str):
        try:
            relative = Path(value).relative_to(unfinished)
        except ValueError:
            return value
        return place(relative)
    if isinstance(value, list | tuple):
        return [moved(item, unfinished, place) for item in value]
    return value


def rows_by_ids(
    returned: Any, columns: Sequence[str], ids: Iterable[tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows of a returned frame, by the ids of the samples they were computed from.

    Raises:
        SignatureError: It is no frame, lacks an id column, or names a sample that was not in the
            batch.
    """
    import polars as pl

    if not isinstance(returned, pl.DataFrame):
        raise SignatureError(f"a batch gives a pl.DataFrame, not {type(returned).__name__}")
    if missing := [c for c in columns if c not in returned.columns]:
        raise SignatureError(f"the frame that was returned has no id column {missing[0]!r}")
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {key: [] for key in ids}
    for row in returned.iter_rows(named=True):
        key = tuple(row[c] for c in columns)
        if key not in found:
            raise SignatureError(f"the frame that was returned names {key}, which was not asked")
        found[key].append(row)
    return found
