"""Bringing a computed feature up to date: what changed upstream is computed, and nothing else."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import RowShapeError, check_row
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.engines import local
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts
from dagster_metaxy.increment.outcome import FailedSample, Outcome, UpdateError

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl

Sample = Mapping[str, Any]


class ComputeError(UpdateError):
    """A compute that is wrong for every sample, not for one: going on would be in vain."""


@dataclass(frozen=True)
class Scope:
    """Which samples an update is about, and how they are counted.

    Attributes:
        key_of: The partition key of a sample; None where the feature is not partitioned.
        keys: Only samples of these partitions; None for all.
    """

    key_of: Callable[[Sample], str] | None = None
    keys: Collection[str] | None = None

    def key(self, sample: Sample) -> str | None:
        """The partition key of a sample, if it has one."""
        return self.key_of(sample) if self.key_of else None

    def covers(self, key: str | None) -> bool:
        """Whether samples with this partition key are to be brought up to date."""
        return self.keys is None or key in self.keys


@dataclass(frozen=True)
class Task:
    """One upstream sample to compute.

    Attributes:
        sample: The columns that the compute sees.
        ids: Values of the parent columns.
        partition: The partition key, if any.
        stale: Whether rows of an older version are there.
        provenance: The version that the rows will have.
        provenance_by_field: The same, field by field.
    """

    sample: Sample
    ids: tuple[Any, ...]
    partition: str | None
    stale: bool
    provenance: str
    provenance_by_field: Mapping[str, str]


@dataclass
class Chunk:
    """Computed rows that are not in the store yet."""

    tasks: list[Task] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Update:
    """One feature, its compute, and how to run it.

    Attributes:
        feature: What is computed.
        compute: Takes a sample (the columns of the upstream) and returns a mapping of this
            feature's columns; with `feature.expansion`, an iterable of them; with artifact
            columns, takes a second argument, the folder to write files into.
        artifacts: The folder for the artifacts of all features, where the feature has any.
        workers: How many samples are computed at once, in threads.
        chunk_rows: Rows are written when there are this many ...
        chunk_seconds: ... or when the oldest has waited this long.
    """

    feature: Feature
    compute: Callable[..., Any]
    artifacts: Path | None = None
    workers: int = 1
    chunk_rows: int = 1_000
    chunk_seconds: float = 5.0

    def of(self, feature: Feature) -> Update:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    def run(self, store: mx.MetadataStore, scope: Scope, log: logging.Logger | Any) -> Outcome:
        """Compute new and stale samples, delete orphaned ones, and say what was done.

        Rows are durable chunk by chunk: a killed run loses one chunk at most. A sample whose
        compute raises is named in the outcome and stops no other.

        Args:
            store: The store, closed.
            scope: Which samples.
            log: Gets progress and failures.

        Raises:
            ComputeError: The compute returns other columns than declared; the message names
                the sample. What was computed before is in the store.
        """
        started = time.monotonic()
        outcome = Outcome()
        with store.open("w"):
            missing = [
                k for k in self.feature.upstream if not store.has_feature(k, check_fallback=True)
            ]
            if missing:
                outcome.notes.append(f"nothing to do: {', '.join(missing)} has no rows yet")
            else:
                self._run(store, scope, log, outcome)
                stores.compact(store, self.feature.key)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _run(self, store: mx.MetadataStore, scope: Scope, log: Any, outcome: Outcome) -> None:
        increment = store.resolve_update(self.feature.key).to_polars()
        tasks = list(self._tasks(increment, scope, outcome))
        for task in tasks:
            outcome.count("stale" if task.stale else "new", task.partition)
        if tasks:
            log.info(
                f"{self.feature.key}: {outcome.total.new} new and {outcome.total.stale} stale samples"
            )
        with ExitStack() as stack:
            artifacts = folder = None
            if self.feature.artifact_columns:
                assert self.artifacts is not None
                artifacts = Artifacts(self.artifacts, self.feature.key)
                folder = stack.enter_context(artifacts.workspace())
            self._compute(store, tasks, artifacts, folder, log, outcome)
            self._delete_orphans(store, increment.orphaned, scope, artifacts, outcome)
        self._settle(store, scope, outcome)

    def _tasks(
        self, increment: mx.PolarsIncrement, scope: Scope, outcome: Outcome
    ) -> Iterator[Task]:
        parents = self.feature.parent_columns
        for frame, stale in ((increment.new, False), (increment.stale, True)):
            for row in frame.iter_rows(named=True):
                sample = {c: v for c, v in row.items() if not stores.is_system(c)}
                ids = tuple(sample[c] for c in parents)
                if any(value is None for value in ids):
                    # Metaxy takes a null id, and then finds it neither new nor done.
                    outcome.fail(
                        FailedSample(
                            dict(zip(parents, ids, strict=True)), "NullId", "an id column is null"
                        ),
                        None,
                    )
                    continue
                partition = scope.key(sample)
                if scope.covers(partition):
                    yield Task(
                        sample=sample,
                        ids=ids,
                        partition=partition,
                        stale=stale,
                        provenance=row[stores.PROVENANCE],
                        provenance_by_field=row[stores.PROVENANCE_BY_FIELD],
                    )

    def _compute(
        self,
        store: mx.MetadataStore,
        tasks: Sequence[Task],
        artifacts: Artifacts | None,
        folder: Path | None,
        log: Any,
        outcome: Outcome,
    ) -> None:
        def work(task: Task) -> list[dict[str, Any]]:
            return self._rows(task, artifacts, folder)

        chunk = Chunk()
        done = 0
        try:
            for task, result in local.run(tasks, work, workers=self.workers):
                done += 1
                if isinstance(result, RowShapeError):
                    named = FailedSample(self._name(task), "", "").name
                    raise ComputeError(f"{self.feature.key}, sample {named}: {result}") from result
                if isinstance(result, Exception):
                    failure = FailedSample(self._name(task), type(result).__name__, str(result))
                    outcome.fail(failure, task.partition)
                    log.warning(f"{self.feature.key}: {failure}")
                    continue
                chunk.tasks.append(task)
                chunk.rows.extend(result)
                waited = time.monotonic() - chunk.since
                if len(chunk.rows) >= self.chunk_rows or waited >= self.chunk_seconds:
                    self._write(store, chunk, artifacts, outcome)
                    log.info(f"{self.feature.key}: {done} of {len(tasks)} samples done")
                    chunk = Chunk()
        finally:
            # Also where a compute is wrong or the run is interrupted: finished work is kept.
            if chunk.tasks:
                self._write(store, chunk, artifacts, outcome)

    def _name(self, task: Task) -> dict[str, Any]:
        return dict(zip(self.feature.parent_columns, task.ids, strict=True))

    def _rows(
        self, task: Task, artifacts: Artifacts | None, folder: Path | None
    ) -> list[dict[str, Any]]:
        unfinished = None
        arguments: list[Any] = [task.sample]
        if folder is not None:
            unfinished = Path(tempfile.mkdtemp(dir=folder))
            arguments.append(unfinished)
        returned = self.compute(*arguments)
        ids = {c: task.sample[c] for c in self.feature.parent_columns}
        rows = []
        for row in returned if self.feature.expansion else [returned]:
            checked = check_row(
                self.feature.columns, {**ids, **row} if isinstance(row, Mapping) else row
            )
            if differing := [c for c in ids if checked[c] != ids[c]]:
                raise RowShapeError(
                    f"the compute returned {checked[differing[0]]!r} as {differing[0]!r}, which"
                    " names another sample"
                )
            checked[stores.PROVENANCE] = task.provenance
            checked[stores.PROVENANCE_BY_FIELD] = task.provenance_by_field
            rows.append(checked)
        if self.feature.expansion:
            if not rows:
                raise ValueError("the compute returned no rows for this sample")
            self._check_unique(rows)
        if artifacts is not None and unfinished is not None:
            published = artifacts.publish(unfinished, task.ids, task.provenance)
            for row in rows:
                for column in self.feature.artifact_columns:
                    if row[column] is not None:
                        row[column] = os.fspath(published / row[column])
        return rows

    def _check_unique(self, rows: Sequence[Mapping[str, Any]]) -> None:
        seen = set()
        for row in rows:
            ids = tuple(row[c] for c in self.feature.id_columns)
            if ids in seen:
                named = FailedSample(
                    dict(zip(self.feature.id_columns, ids, strict=True)), "", ""
                ).name
                raise ValueError(f"the compute returned two rows for {named}")
            seen.add(ids)

    def _frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        import polars as pl

        # Typed by the declaration, never by the values: a column that is all null in one chunk
        # and typed in the next kills writers, and Delta refuses it.
        fields = [field["key"] for field in self.feature.fields]
        schema = {
            **{name: column.dtype for name, column in self.feature.columns.items()},
            stores.PROVENANCE: pl.String(),
            stores.PROVENANCE_BY_FIELD: pl.Struct({key: pl.String() for key in fields}),
        }
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _write(
        self,
        store: mx.MetadataStore,
        chunk: Chunk,
        artifacts: Artifacts | None,
        outcome: Outcome,
    ) -> None:
        """Make a chunk durable: all rows of a sample in one commit, then what they replace goes."""
        feature = self.feature
        obsolete: set[tuple[Any, ...]] = set()
        if feature.expansion and (stale := [task.ids for task in chunk.tasks if task.stale]):
            former = stores.rows_of(store, feature.key, feature.expansion, stale)
            obsolete = {tuple(row[c] for c in feature.id_columns) for row in former}
            obsolete -= {tuple(row[c] for c in feature.id_columns) for row in chunk.rows}
        stores.append(store, feature.key, self._frame(chunk.rows))
        outcome.written += len(chunk.rows)
        if obsolete:
            # Left alive, children that a parent no longer has keep it stale for ever.
            stores.delete(store, feature.key, feature.id_columns, obsolete)
        if artifacts is not None:
            for task in chunk.tasks:
                artifacts.retire(task.ids, keep=task.provenance)

    def _delete_orphans(
        self,
        store: mx.MetadataStore,
        orphaned: pl.DataFrame,
        scope: Scope,
        artifacts: Artifacts | None,
        outcome: Outcome,
    ) -> None:
        if orphaned.is_empty():
            return
        parents = self.feature.parent_columns
        kept: set[tuple[Any, ...]] = set()
        for upstream in self.feature.upstream:
            kept |= stores.stranded(store, upstream, parents)
        gone = {}
        for row in orphaned.iter_rows(named=True):
            ids = tuple(row[c] for c in parents)
            partition = scope.key(row)
            if ids not in kept and scope.covers(partition):
                gone[ids] = partition
        if unsure := len(set(orphaned.select(parents).rows()) & kept):
            outcome.notes.append(
                f"{unsure} samples look orphaned only because an upstream feature has not run since"
                " its code version changed; they are kept"
            )
        if gone:
            stores.delete(store, self.feature.key, parents, gone)
            for ids, partition in gone.items():
                outcome.count("orphaned", partition)
                if artifacts is not None:
                    artifacts.remove(ids)

    def _settle(self, store: mx.MetadataStore, scope: Scope, outcome: Outcome) -> None:
        """Find the partitions in which nothing is left to do."""
        if scope.key_of is None:
            return
        for upstream in self.feature.upstream[:1]:
            samples = stores.read(store, upstream)
            if samples is None:
                continue
            keys = {scope.key(row) for row in samples.iter_rows(named=True)}
            outcome.up_to_date |= {
                key
                for key in keys
                if key is not None
                and scope.covers(key)
                and not (key in outcome.partitions and outcome.partitions[key].failed)
            }
