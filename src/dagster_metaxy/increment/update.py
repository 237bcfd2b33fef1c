"""Bringing a computed feature up to date: what changed upstream is computed, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from dagster_metaxy import engines
from dagster_metaxy.declare.columns import RowShapeError
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.keys import PartitionError
from dagster_metaxy.declare.words import counted
from dagster_metaxy.engines import Engine
from dagster_metaxy.engines.processes import WorkerError
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts, Root, artifacts_of
from dagster_metaxy.increment.artifacts.base import Location
from dagster_metaxy.increment.caller import Caller, Result, Rows, results_of
from dagster_metaxy.increment.compute import (
    Compute,
    Runtime,
    SignatureError,
)
from dagster_metaxy.increment.joint import Companion, Handover, Together
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import (
    FailedSample,
    Outcome,
    UpdateError,
    sample_name,
)
from dagster_metaxy.increment.plan import Plan, Planner, Task
from dagster_metaxy.increment.progress import Progress
from dagster_metaxy.increment.quarantine import Quarantine
from dagster_metaxy.increment.remote import Remote
from dagster_metaxy.increment.selection import Ids, Scope, Selection
from dagster_metaxy.increment.store import StoreError

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl


_LOGGED = 100
"""How many failed samples are told one by one while a run goes on."""


class ComputeError(UpdateError):
    """A compute that is wrong for every sample, not for one: going on would be in vain."""


class SampleError(UpdateError):
    """A sample failed, in an update that a failed sample stops."""


@dataclass
class Chunk:
    """What is not in the store yet.

    Attributes:
        tasks: Those that are done.
        rows: Their rows.
        folders: Where their files lie.
        entries: What is remembered of these, and of failed ones.
        since: When the chunk was begun.
    """

    tasks: list[Task] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    folders: set[Location] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Update:
    """One feature, its compute, and how to run it.

    Attributes:
        feature: What is computed.
        compute: Takes a sample (the columns of the upstream) and returns a mapping of this
            feature's columns; of an expansion, an iterable of them; of an aggregation, it takes
            a list of samples.
        artifacts: Where the artifacts of all features lie: a folder, or a URL.
        workers: How many samples, or batches of them, are computed at once.
        batch_size: How many samples a compute that takes a frame gets at a time.
        hard_delete: Whether orphaned rows are removed from the store, not only marked as deleted.
        chunk_samples: What is done is written when it is this many samples ...
        chunk_rows: ... or this many rows ...
        chunk_seconds: ... or when the oldest has waited this long.
        engine: Whether computes run in threads of this process, or in processes.
        time_limit: The seconds that a sample may take, in processes; no limit if None.
        on_error: Whether a sample that fails is quarantined while the others are computed
            (`quarantine`), or the update stops (`fail`), and the next one tries it again.
        quarantine: Which samples that failed are tried again by themselves.
    """

    feature: Feature
    compute: Compute
    artifacts: Root
    workers: int = 1
    batch_size: int = 256
    hard_delete: bool = False
    chunk_samples: int = 1_000
    chunk_rows: int = 10_000
    chunk_seconds: float = 5.0
    engine: Engine = "threads"
    time_limit: float | None = None
    on_error: Literal["quarantine", "fail"] = "quarantine"
    quarantine: Quarantine = field(default_factory=Quarantine)

    def of(self, feature: Feature) -> Update:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    foresees = True

    @property
    def resource_names(self) -> set[str]:
        """The Dagster resources that the compute asks for."""
        return self.compute.resource_names

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Compute new and stale samples, delete orphaned ones, and say what was done.

        Rows are durable chunk by chunk: a killed run loses one chunk at most. A sample whose
        compute raises is named in the outcome, stops no other, and is quarantined: it is tried again
        when its input or the code version has changed, when it is asked for, or, where the error is
        transient, by the next run, after all others.

        Args:
            store: The store, closed.
            scope: Which samples.
            runtime: What the run gives to computes.

        Raises:
            ComputeError: The compute returns other columns than declared; the message names
                the sample. What was computed before is in the store.
            SampleError: A sample failed, and `on_error` is `fail`.
            StoreError: The store, or the disk of the artifacts, cannot be written; with what is in
                the store of the samples that were computed.
        """
        started = time.monotonic()
        outcome = Outcome()
        with stores.opened(store, "w"):
            stores.check_table(store, self.feature)
            if missing := self._unwritten(store):
                outcome.blocked = True
                outcome.notes.append(f"nothing to do: {', '.join(missing)} has no rows yet")
            else:
                self._run(store, scope, runtime, outcome)
        outcome.seconds = time.monotonic() - started
        return outcome

    def plan(
        self,
        store: mx.MetadataStore,
        scope: Scope | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """What a run would do, and why; nothing of it is done.

        Args:
            store: An open store.
            scope: Which samples; all if left out.
            selection: What would be asked for.

        Raises:
            UpdateError: The condition of a forced run is none.
        """
        if missing := self._unwritten(store):
            note = f"nothing to compute yet: {', '.join(missing)} has no rows"
            return Plan(self.feature, notes=[note])
        plan = self._plan(store, scope or Scope(), selection or Selection())
        plan.artifacts = self._obsolete_artifacts(store, plan)
        return plan

    def _plan(self, store: mx.MetadataStore, scope: Scope, selection: Selection) -> Plan:
        ledger = Ledger(store, self.feature)
        quarantine = None if self.on_error == "fail" else self.quarantine
        return Planner(self.feature, store, ledger, scope, selection, quarantine).plan()

    def _obsolete_artifacts(self, store: mx.MetadataStore, plan: Plan) -> list[Location]:
        """The folders of files that the samples of a plan have now, and will not have after it."""
        artifacts = artifacts_of(self.artifacts, self.feature.key)
        if not artifacts.any:
            return []
        parents = self.feature.parent_columns
        becomes = {task.ids: task.provenance for task in plan.tasks if task.stale}
        rows = stores.rows_of(store, self.feature.key, parents, becomes)
        found = artifacts.of_rows(rows, parents, becomes)
        found |= self._artifacts_of(store, artifacts, [orphan.ids for orphan in plan.orphaned])
        return sorted(found, key=lambda folder: folder.parts)

    def _artifacts_of(
        self, store: mx.MetadataStore, artifacts: Artifacts[Any], ids: Sequence[Ids]
    ) -> set[Location]:
        """The folders of all files that samples have, or had with older code."""
        if not artifacts.any:
            return set()
        parents = self.feature.parent_columns
        rows = stores.rows_of(store, self.feature.key, parents, ids, **stores.HISTORY)
        return artifacts.of_rows(rows, parents)

    def _unwritten(self, store: mx.MetadataStore) -> list[str]:
        """Upstream features that were never written."""
        return [
            key for key in self.feature.upstream if not store.has_feature(key, check_fallback=True)
        ]

    def _run(
        self, store: mx.MetadataStore, scope: Scope, runtime: Runtime, outcome: Outcome
    ) -> None:
        ledger = Ledger(store, self.feature)
        plan = self._plan(store, scope, runtime.selection)
        outcome.plan = plan
        outcome.notes.extend(plan.notes)
        for failure in plan.refused:
            outcome.fail(failure, None)
        for task in plan.tasks:
            outcome.count("stale" if task.stale else "new", task.partition)
        for task in plan.held:
            if task.failure and scope.covers(task.partition):
                outcome.hold(task.failure, task.partition)
        outcome.tell_quarantined()
        artifacts = artifacts_of(self.artifacts, self.feature.key)
        undone: list[Task] = []
        try:
            if plan.tasks:
                reasons = ", ".join(f"{count} {why}" for why, count in plan.counts.items())
                runtime.log.info(f"{self.feature.key}: {reasons}{plan.expectation}")
                together = self._together(store, scope, runtime, plan)
                caller = Caller(
                    self.feature, self.compute, artifacts, runtime, plan.schema, together
                )
                undone = self._compute(store, ledger, plan.tasks, caller, artifacts, outcome)
            elif not store.has_feature(self.feature.key):
                outcome.notes.extend(self._unseen(store))
            self._delete_orphans(store, ledger, plan, artifacts, outcome)
            self._move(store, scope, outcome)
        finally:
            artifacts.close()
        if plan.tasks:
            ledger.compact()
            stores.compact(store, self.feature.key)
        outcome.remaining = replace(plan, tasks=undone, orphaned=[])
        self._settle(store, ledger, scope, outcome.remaining, outcome)

    def _together(
        self, store: mx.MetadataStore, scope: Scope, runtime: Runtime, plan: Plan
    ) -> Together | None:
        """How tasks are computed together with what companions are about to compute from the same."""
        if self.compute.joint is None:
            return None
        (key,) = self.feature.upstream
        name = f"{self.artifacts}/{key}"
        handover = Handover(artifacts_of(self.artifacts, self.feature.key).handed)
        together = Together(self.compute.joint, name, handover)
        if all(handover.has(task.ids, task.provenance) for task in plan.tasks):
            return together
        companions = []
        for other, selection in runtime.companions:
            with suppress(UpdateError):  # its own run will say it
                tasks = other._plan(store, scope, selection).tasks
                versions = {task.ids: task.provenance for task in tasks}
                if any(task.ids in versions for task in plan.tasks):
                    folder = artifacts_of(other.artifacts, other.feature.key).handed
                    companions.append(
                        Companion(
                            other.feature.key,
                            other.compute.function,
                            versions,
                            Handover(folder),
                        )
                    )
        if companions:
            names = ", ".join(companion.key for companion in companions)
            runtime.log.info(f"{self.feature.key}: computed together with {names}")
        return replace(together, companions=companions)

    def goes_with(self, other: Update) -> bool:
        """Whether another feature may be computed from the same sample at the same time."""

        def source(update: Update) -> list[Any]:
            return [
                {name: part for name, part in dep.items() if name != "lineage"}
                for dep in update.feature.deps
            ]

        return (
            self.compute.joint is not None
            and self.compute.joint == other.compute.joint
            and self.feature.key != other.feature.key
            and source(self) == source(other)
        )

    def _unseen(self, store: mx.MetadataStore) -> Iterator[str]:
        """Notes on upstreams with rows that are all of another version than the one known here."""
        for upstream in self.feature.upstream:
            current = stores.read(store, upstream)
            history = stores.read(store, upstream, with_feature_history=True)
            if current is None or history is None or history.is_empty():
                continue
            if current.is_empty():
                yield (
                    f"{upstream} has {counted(history.height, 'sample', 'samples')}, but none of the feature version that"
                    " is declared here: run it, or, where it is produced elsewhere, push its"
                    " definition (`mx push`)"
                )

    def _compute(
        self,
        store: mx.MetadataStore,
        ledger: Ledger,
        tasks: Sequence[Task],
        caller: Caller,
        artifacts: Artifacts[Any],
        outcome: Outcome,
    ) -> list[Task]:
        """Compute and write; gives the tasks that failed."""
        log = caller.runtime.log
        work = Remote(caller) if self.engine == "processes" else caller
        size = self.batch_size if self.compute.is_batch else 1
        units = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        progress = Progress(self.feature.key, len(tasks), caller.runtime)
        chunk = Chunk()
        undone: list[Task] = []
        chunks = 0
        try:
            while units:
                alone: list[Sequence[Task]] = []
                with closing(self._results(units, work, caller)) as results:
                    for unit, answer in results:
                        if isinstance(answer, Exception) and len(unit) > 1:
                            # Which of them it was, only trying each can tell.
                            alone += [[task] for task in unit]
                            continue
                        for task, result in zip(unit, results_of(answer, log), strict=True):
                            progress.count(failed=result.rows is None)
                            undone += self._keep(task, result, chunk, outcome, log)
                        if chunk.entries and self._is_full(chunk):
                            ready, chunk = chunk, Chunk()
                            self._write(store, ledger, ready, artifacts, outcome)
                            chunks += 1
                            if chunks % stores.SMALL_FILES == 0:
                                stores.compact(store, self.feature.key)
                                ledger.compact()
                        progress.tell()
                units = alone
            ready, chunk = chunk, Chunk()
            self._write(store, ledger, ready, artifacts, outcome)
        except BaseException as error:
            # A compute is wrong, the run is interrupted, a disk is full: finished work is kept where
            # it can be, and what went wrong first is what is told.
            try:
                self._write(store, ledger, chunk, artifacts, outcome)
            except Exception as second:
                log.warning(str(second))
            if isinstance(error, StoreError):
                raise error.of_run(outcome.kept, outcome.costs.samples - outcome.kept) from error
            if isinstance(error, WorkerError):
                raise ComputeError(f"{self.feature.key}: {error}") from error
            raise
        return undone

    def _results(
        self,
        units: Sequence[Sequence[Task]],
        work: Callable[[Sequence[Task]], Any],
        caller: Caller,
    ) -> Generator[tuple[Sequence[Task], Any], None, None]:
        """What `work` gives for each unit, or the error of the worker; nothing of no unit while
        none is ready."""
        # One that computes for its companions, too, may take as long as all of them.
        share = 1 + len(together.companions) if (together := caller.together) else 1
        limit = None if self.time_limit is None else self.time_limit * share
        results = engines.run(
            self.engine,
            units,
            work,
            workers=self.workers,
            time_limit=None if limit is None else lambda unit: limit * len(unit),
        )
        with closing(results):
            for result in results:
                yield ((), []) if result is None else result

    def _is_full(self, chunk: Chunk) -> bool:
        return (
            len(chunk.entries) >= self.chunk_samples
            or len(chunk.rows) >= self.chunk_rows
            or time.monotonic() - chunk.since >= self.chunk_seconds
        )

    def _keep(
        self, task: Task, result: Result, chunk: Chunk, outcome: Outcome, log: Any
    ) -> list[Task]:
        """Add what a task gave to a chunk; gives the task if it failed.

        Raises:
            UpdateError: It failed, and that is no matter of one sample, or `on_error` is `fail`.
        """
        if result.rows is None:
            failure = self._failed(task, result.error, outcome, log)
            chunk.entries.append(self._entry(task, result, failure))
            if self.on_error == "fail":
                raise SampleError(f"{self.feature.key}: {failure}") from result.error
            return [replace(task, failure=failure)]
        chunk.tasks.append(task)
        chunk.rows.extend(result.rows)
        if result.folder is not None:
            chunk.folders.add(result.folder)
        chunk.entries.append(self._entry(task, result, None))
        outcome.cost(self.feature.named(task.ids), result.cost)
        outcome.wrote(result.files)
        return []

    def _failed(
        self, task: Task, error: Exception | None, outcome: Outcome, log: Any
    ) -> FailedSample:
        """Take note of a sample that failed.

        Raises:
            UpdateError: The error is no matter of one sample.
        """
        if isinstance(error, RowShapeError | SignatureError):
            named = sample_name(self.feature.named(task.ids))
            raise ComputeError(f"{self.feature.key}, sample {named}: {error}") from error
        if isinstance(error, UpdateError):
            raise error
        if stores.is_full_disk(error):  # of which the sample is innocent
            named = sample_name(self.feature.named(task.ids))
            raise StoreError(f"{self.feature.key}, sample {named}: {error}") from error
        assert error is not None
        before = task.failure.attempts if task.failure else 0
        failure = replace(FailedSample.of(self.feature.named(task.ids), error), attempts=before + 1)
        # Where it was raised is the same for most: once is enough.
        shown = error if outcome.is_first(failure) else None
        outcome.fail(failure, task.partition)
        if outcome.total.failed <= _LOGGED:  # each line is an event that Dagster keeps
            log.warning(f"{self.feature.key}: {failure}", exc_info=shown)
        return failure

    def _entry(self, task: Task, result: Result, failure: FailedSample | None) -> Entry:
        return Entry(
            task.ids,
            task.provenance,
            None if result.rows is None else len(result.rows),
            task.input,
            self.feature.code_versions,
            failure,
            result.cost,
            result.files,
        )

    def _write(
        self,
        store: mx.MetadataStore,
        ledger: Ledger,
        chunk: Chunk,
        artifacts: Artifacts[Any],
        outcome: Outcome,
    ) -> None:
        """Make a chunk durable: all rows of a sample in one commit, and then what is remembered."""
        if not chunk.entries:
            return
        feature = self.feature
        becomes = {task.ids: task.provenance for task in chunk.tasks}
        retired: set[Location] = set()
        # What is replaced matters where children or files may be left over. Children, also those
        # that another run has written since the plan: of two that differ, they would mix.
        replaced = [t.ids for t in chunk.tasks if feature.expansion or (t.stale and artifacts.any)]
        if replaced:
            rows = list(stores.rows_of(store, feature.key, feature.parent_columns, replaced))
            if artifacts.any:
                retired = artifacts.of_rows(rows, feature.parent_columns, becomes) - chunk.folders
            if feature.expansion:
                self._delete_children(store, chunk, rows, replaced)
        if chunk.rows:
            stores.append(store, feature.key, stores.typed(feature, chunk.rows))
            outcome.written += len(chunk.rows)
        outcome.kept += len(chunk.tasks)
        ledger.write(chunk.entries)
        # Only what the replaced rows named: another run may have published the next version, and
        # rows of older feature versions come back when code is reverted.
        self._retire(artifacts, retired, outcome)

    def _retire(
        self, artifacts: Artifacts[Any], folders: Collection[Location], outcome: Outcome
    ) -> None:
        """Remove files that no row names any more; those that stay are garbage, and stop no run."""
        try:
            artifacts.retire(folders)
        except StoreError as error:
            note = "files of replaced or orphaned rows are left for metaxy_collect"
            if not any(known.startswith(note) for known in outcome.notes):
                outcome.notes.append(f"{note}: {error}")

    def _delete_children(
        self,
        store: mx.MetadataStore,
        chunk: Chunk,
        rows: Sequence[Mapping[str, Any]],
        replaced: Sequence[Ids],
    ) -> None:
        """Delete the children of parents that have some which they will not have any more.

        Before the new ones are written: from then on the parent counts as done, and what it no
        longer has would live for ever. And all of them: with some left by a kill, the parent would
        count as done as soon as its input is again what it was.
        """
        feature = self.feature
        key, ids, parents = feature.key, feature.id_columns, feature.parent_columns
        # Of older code, too: a child that no newer row, not even a deleted one, tells of is taken
        # downstream for one that is still to be computed.
        older = stores.rows_of(store, key, parents, replaced, with_feature_history=True)
        new = {_values(row, ids) for row in chunk.rows}
        obsolete = {
            _values(row, parents) for row in (*rows, *older) if _values(row, ids) not in new
        }
        stores.delete(store, key, parents, obsolete, hard=self.hard_delete, older="unseen")

    def _delete_orphans(
        self,
        store: mx.MetadataStore,
        ledger: Ledger,
        plan: Plan,
        artifacts: Artifacts[Any],
        outcome: Outcome,
    ) -> None:
        if not plan.orphaned:
            return
        for orphan in plan.orphaned:
            outcome.count("orphaned", orphan.partition)
        gone = [orphan.ids for orphan in plan.orphaned]
        folders = self._artifacts_of(store, artifacts, gone)
        # Rows first: a sample that comes back after a kill in between would be taken for done, without
        # its files. Files without rows are garbage, which is collected.
        stores.delete(
            store,
            self.feature.key,
            self.feature.parent_columns,
            gone,
            hard=self.hard_delete,
            older="deleted",
        )
        ledger.delete(gone)
        # Not what another run has published since, of which it is about to write the row.
        self._retire(artifacts, folders, outcome)

    def _move(self, store: mx.MetadataStore, scope: Scope, outcome: Outcome) -> None:
        """Rewrite the rows of samples that are in another partition now than when they were computed:
        the columns that say so make nothing stale."""
        parents = self.feature.parent_columns
        further = [c for c in dict.fromkeys(scope.columns) if c not in parents]
        if not further or not store.has_feature(self.feature.key):
            return
        there = store.read(self.feature.key).collect_schema().names()
        own = [c for c in (*parents, *further) if c in there]
        rows = stores.read(
            store, self.feature.key, columns=list(dict.fromkeys((*self.feature.id_columns, *own)))
        )
        samples = rows.select(own).unique() if rows is not None else None
        now = None if samples is None else self._parents(store, samples, further)
        if samples is None or now is None:
            return
        told: dict[Ids, Mapping[str, Any]] = {}
        several: set[Ids] = set()  # groups that are in no single partition
        for row in now.iter_rows(named=True):
            ids, values = _values(row, parents), {c: row[c] for c in further}
            if told.setdefault(ids, values) != values:
                several.add(ids)
        moved: set[Ids] = set()
        for row in samples.iter_rows(named=True):
            ids = _values(row, parents)
            values = told.get(ids)
            if values is None or ids in several or all(row.get(c) == values[c] for c in further):
                continue
            before = scope.key({**dict.fromkeys(further), **row})
            after = scope.key({**row, **values})
            if scope.covers(before) or scope.covers(after):
                moved.add(ids)
                outcome.touch(key for key in (before, after) if scope.covers(key))
        if not moved:
            return
        rewritten = [
            {**dict.fromkeys(self.feature.columns), **row, **told[_values(row, parents)]}
            for row in stores.rows_of(store, self.feature.key, parents, moved)
        ]
        stores.append(store, self.feature.key, stores.typed(self.feature, rewritten))
        outcome.written += len(rewritten)
        outcome.notes.append(
            f"{counted(len(moved), 'sample has', 'samples have')} other values in {', '.join(further)}, by which partitions are"
            " found: their rows say so now, and nothing is computed"
        )

    def _settle(
        self,
        store: mx.MetadataStore,
        ledger: Ledger,
        scope: Scope,
        plan: Plan,
        outcome: Outcome,
    ) -> None:
        """Find the partitions in which nothing is left to do."""
        if scope.key_of is None:
            return
        keys = set()
        outside: list[str] = []
        for sample in self._settled(store, ledger, scope):
            try:
                keys.add(scope.key_of(sample))
            except PartitionError as error:
                outside.append(str(error))
        pending = {*(task.partition for task in plan.pending), *plan.unknown.values()}
        outcome.settle([key for key in keys - pending if scope.covers(key)])
        if outside and scope.keys is None:
            outcome.notes.append(
                f"{counted(len(outside), 'sample belongs', 'samples belong')} to no partition, so that only runs over all compute"
                f" them: {outside[0]}"
            )

    def _settled(
        self, store: mx.MetadataStore, ledger: Ledger, scope: Scope
    ) -> Iterator[Mapping[str, Any]]:
        """What partitions are found by: of all samples with rows, and of those that have none."""
        columns = list(scope.columns or self.feature.parent_columns)
        if len(self.feature.deps) == 1 and (upstream := self._upstream(store, columns)) is not None:
            # Of some of its samples no row may be made: they are filtered out, and done.
            yield from upstream.unique().iter_rows(named=True)
            return
        frames: list[pl.DataFrame | None] = []
        if store.has_feature(self.feature.key):
            ids = self.feature.id_columns
            there = store.read(self.feature.key).collect_schema().names()
            own = [c for c in dict.fromkeys((*ids, *columns)) if c in there]
            rows = stores.read(store, self.feature.key, columns=own)
            # Rows from before the columns were declared do not have them; upstream does.
            if rows is not None and not set(columns) <= set(there):
                parents = rows.select(self.feature.parent_columns).unique()
                rows = self._parents(store, parents, columns)
            frames.append(rows)
        if self.feature.expansion and (childless := ledger.childless()) is not None:
            frames.append(self._parents(store, childless, columns))
        for frame in frames:
            if frame is not None:
                yield from frame.select(columns).unique().iter_rows(named=True)

    def _upstream(self, store: mx.MetadataStore, columns: Sequence[str]) -> pl.DataFrame | None:
        """Some columns of the samples of the only upstream, as they are named here, if it has them."""
        (dep,) = self.feature.deps
        names = {new: old for old, new in (dep.get("rename") or {}).items()}
        wanted = {c: names.get(c, c) for c in columns}
        if not set(wanted.values()) <= set(store.read(dep["feature"]).collect_schema().names()):
            return None
        rows = stores.read(store, dep["feature"])
        return None if rows is None else rows.select(**wanted)

    def _parents(
        self, store: mx.MetadataStore, samples: pl.DataFrame, columns: Sequence[str]
    ) -> pl.DataFrame | None:
        """Some columns of samples, which have them themselves or upstream."""
        parents = self.feature.parent_columns
        if samples.is_empty():
            return None
        if set(columns) <= set(parents):
            return samples
        for dep in self.feature.deps:
            names = {new: old for old, new in (dep.get("rename") or {}).items()}
            wanted = {c: names.get(c, c) for c in (*parents, *columns)}
            there = store.read(dep["feature"]).collect_schema().names()
            if not set(wanted.values()) <= set(there):
                continue
            rows = stores.read(store, dep["feature"])
            if rows is not None:
                rows = rows.select(**wanted)
                ids = samples.select(parents).cast({c: rows.schema[c] for c in parents})  # type: ignore[arg-type]
                return rows.join(ids, on=list(parents), how="semi")
        return None


def _values(row: Mapping[str, Any], columns: Sequence[str]) -> Ids:
    return tuple(row[c] for c in columns)
