"""Calling a compute in a worker: what it gets, what it may give, and how its rows are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import RowShapeError, check_row
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.engines.processes import TaskError
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts
from dagster_metaxy.increment.artifacts.base import Location, files_in
from dagster_metaxy.increment.compute import (
    Compute,
    ComputeContext,
    Runtime,
    SignatureError,
    moved,
    rows_by_ids,
)
from dagster_metaxy.increment.joint import Together, called
from dagster_metaxy.increment.outcome import ArtifactFile, Cost, Meter, UpdateError, sample_name
from dagster_metaxy.increment.plan import Task

if TYPE_CHECKING:
    import polars as pl

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """What calling the compute for a task gave.

    Attributes:
        rows: The rows, checked; None where it failed.
        error: What went wrong.
        cost: What it took.
        files: The artifacts.
        folder: Where they lie.
    """

    rows: Rows | None = None
    error: Exception | None = None
    cost: Cost = field(default_factory=Cost)
    files: Sequence[ArtifactFile] = ()
    folder: Location | None = None


def results_of(answer: Any, log: Any) -> list[Result]:
    """The results in a worker's answer; what was logged in another process is logged here."""
    if isinstance(answer, Exception):
        seconds = answer.seconds if isinstance(answer, TaskError) else 0.0
        return [Result(error=answer, cost=Cost(seconds))]
    if isinstance(answer, tuple):
        answer, records = answer
        for level, message in records:
            log.log(level, message)
    return answer


@dataclass(frozen=True)
class Caller:
    """Calls a compute for one task, or for a batch of them, in a worker.

    Attributes:
        feature: What is computed.
        compute: What computes it.
        artifacts: Where its files go.
        runtime: What the run gives to computes.
        schema: Of the columns that computes see.
        together: How it is called with its companions; None where it is called by itself.
    """

    feature: Feature
    compute: Compute
    artifacts: Artifacts[Any]
    runtime: Runtime
    schema: Mapping[str, pl.DataType]
    together: Together | None = None

    def __call__(self, tasks: Sequence[Task]) -> list[Result]:
        """The rows of each task, or what went wrong with it."""
        if not self.compute.is_batch:
            return [self._one(task) for task in tasks]
        meter = Meter()
        try:
            rows = self._batch(tasks)
        except Exception as error:
            if len(tasks) == 1 or isinstance(error, SignatureError | UpdateError):
                return [Result(error=error, cost=meter.cost(len(tasks))) for _ in tasks]
            # Which of them it was, only trying each can tell.
            return [result for task in tasks for result in self([task])]
        cost = meter.cost(len(tasks))
        return [
            Result(error=r, cost=cost) if isinstance(r, Exception) else Result(r, cost=cost)
            for r in rows
        ]

    def _one(self, task: Task) -> Result:
        meter = Meter()
        try:
            rows, files, folder, elsewhere = self._computed(task)
            cost = meter.cost(files=files) + elsewhere
            return Result(rows, cost=cost, files=files, folder=folder)
        except Exception as error:
            return Result(error=error, cost=meter.cost())

    def _called(self, task: Task) -> tuple[Any, Path | None, Cost]:
        """What the compute returned for a task, the folder of its files, and what was spent on it, or
        by it, for others."""

        def alone() -> tuple[Any, Path | None]:
            context = ComputeContext(self.runtime, self.artifacts.unfinished)
            argument = task.samples if self.feature.aggregates else task.samples[0]
            returned = called(self.compute(argument, self.runtime, context))
            return returned, context.used_folder

        if self.together is None:
            return *alone(), Cost()
        context = ComputeContext(self.runtime, self.artifacts.unfinished)
        return self.together(task, self.compute.function, self.runtime, alone, context)

    def _computed(self, task: Task) -> tuple[Rows, Sequence[ArtifactFile], Location | None, Cost]:
        """The rows of a task, its artifacts, where they lie, and what was spent elsewhere on it."""
        feature = self.feature
        returned, unfinished, elsewhere = self._called(task)
        if feature.expansion:
            if isinstance(returned, Mapping) or not isinstance(returned, Iterable):
                raise RowShapeError(
                    f"the compute returned {type(returned).__name__}, not an iterable of mappings"
                )
            returned = [*returned]
        else:
            returned = [returned]
        rows = self._checked(task, returned)
        files: Sequence[ArtifactFile] = ()
        published = None
        if unfinished is not None and rows:
            files = files_in(unfinished)
            published = self.artifacts.publish(unfinished, task.ids, task.provenance)
            place = partial(self.artifacts.file, published)
            rows = [
                {name: moved(value, unfinished, place) for name, value in row.items()}
                for row in rows
            ]
        return rows, files, published, elsewhere

    def _batch(self, tasks: Sequence[Task]) -> list[Rows | Exception]:
        import polars as pl

        feature = self.feature
        samples = [sample for task in tasks for sample in task.samples]
        returned = self.compute(
            pl.DataFrame(samples, schema=self.schema, orient="row"), self.runtime, None
        )
        by_ids = rows_by_ids(returned, feature.parent_columns, [task.ids for task in tasks])
        results: list[Rows | Exception] = []
        for task in tasks:
            rows = by_ids[task.ids]
            try:
                if not feature.expansion and len(rows) != 1:
                    raise ValueError(f"the compute returned {len(rows)} rows for this sample")
                results.append(self._checked(task, rows))
            except Exception as error:
                results.append(error)
        return results

    def _checked(self, task: Task, returned: Sequence[Any]) -> Rows:
        feature = self.feature
        ids = feature.named(task.ids)
        given = {**task.told_by, **ids}
        given = check_row({name: feature.columns[name] for name in given}, given)
        rows = []
        for row in returned:
            checked = check_row(
                feature.columns, {**given, **row} if isinstance(row, Mapping) else row
            )
            if differing := [c for c in given if checked[c] != given[c]]:
                name = differing[0]
                raise RowShapeError(
                    f"the compute returned {checked[name]!r} as {name!r}, which names another "
                    + ("sample" if name in ids else f"partition than the sample's, {given[name]!r}")
                )
            checked[stores.PROVENANCE] = task.provenance
            checked[stores.PROVENANCE_BY_FIELD] = task.provenance_by_field
            rows.append(checked)
        if feature.expansion:
            self._check_children(rows)
        return rows

    def _check_children(self, rows: Rows) -> None:
        columns = self.feature.id_columns
        seen = set()
        for row in rows:
            ids = tuple(row[c] for c in columns)
            if ids in seen:
                named = sample_name(dict(zip(columns, ids, strict=True)))
                raise ValueError(f"the compute returned two rows for {named}")
            seen.add(ids)
