"""Bringing a computed feature up to date: what changed upstream is computed, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import RowShapeError, check_row
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import PartitionError
from dagster_metaxy.engines import local
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts import Artifacts
from dagster_metaxy.increment.compute import (
    Compute,
    ComputeContext,
    Runtime,
    Sample,
    SignatureError,
    moved,
    rows_by_ids,
)
from dagster_metaxy.increment.outcome import (
    FailedSample,
    Outcome,
    Pending,
    UpdateError,
    sample_name,
)

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl


class ComputeError(UpdateError):
    """A compute that is wrong for every sample, not for one: going on would be in vain."""


@dataclass(frozen=True)
class Scope:
    """Which samples an update is about, and how they are counted.

    Attributes:
        key_of: The partition key of a sample; None where the feature is not partitioned.
        keys: Only samples of these partitions; None for all.
        follows_path: Whether the key is found in a path that ids were made from.
        columns: The columns of a sample that the key is found by.
    """

    key_of: Callable[[Sample], str] | None = None
    keys: Collection[str] | None = None
    follows_path: bool = False
    columns: Sequence[str] = ()

    def key(self, sample: Sample) -> str | None:
        """The partition key of a sample; none where it belongs to no partition."""
        try:
            return self.key_of(sample) if self.key_of else None
        except PartitionError:
            return None

    def covers(self, key: str | None) -> bool:
        """Whether samples with this partition key are to be brought up to date."""
        return self.keys is None or key in self.keys


@dataclass(frozen=True)
class Task:
    """What one call of a compute is about: a sample, or the samples of one group.

    Attributes:
        samples: The columns that the compute sees; several only where the feature aggregates.
        ids: Values of the parent columns.
        partition: The partition key, if any.
        told_by: The columns that the partition is found by, which are columns of the rows, too.
        stale: Whether rows of an older version are there.
        provenance: The version that the rows will have.
        provenance_by_field: The same, field by field.
    """

    samples: Sequence[Sample]
    ids: tuple[Any, ...]
    partition: str | None
    told_by: Mapping[str, Any]
    stale: bool
    provenance: str
    provenance_by_field: Mapping[str, str]


Rows = list[dict[str, Any]]


@dataclass
class Chunk:
    """Computed rows that are not in the store yet."""

    tasks: list[Task] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Update:
    """One feature, its compute, and how to run it.

    Attributes:
        feature: What is computed.
        compute: Takes a sample (the columns of the upstream) and returns a mapping of this
            feature's columns; of an expansion, an iterable of them; of an aggregation, it takes
            a list of samples.
        artifacts: The folder for the artifacts of all features.
        workers: How many samples, or batches of them, are computed at once, in threads.
        batch_size: How many samples a compute that takes a frame gets at a time.
        hard_delete: Whether orphaned rows are removed from the store, not only marked as deleted.
        chunk_rows: Rows are written when there are this many ...
        chunk_seconds: ... or when the oldest has waited this long.
    """

    feature: Feature
    compute: Compute
    artifacts: Path
    workers: int = 1
    batch_size: int = 256
    hard_delete: bool = False
    chunk_rows: int = 10_000
    chunk_seconds: float = 5.0

    def of(self, feature: Feature) -> Update:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    @property
    def resource_names(self) -> set[str]:
        """The Dagster resources that the compute asks for."""
        return self.compute.resource_names

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Compute new and stale samples, delete orphaned ones, and say what was done.

        Rows are durable chunk by chunk: a killed run loses one chunk at most. A sample whose
        compute raises is named in the outcome and stops no other.

        Args:
            store: The store, closed.
            scope: Which samples.
            runtime: What the run gives to computes.

        Raises:
            ComputeError: The compute returns other columns than declared; the message names
                the sample. What was computed before is in the store.
        """
        started = time.monotonic()
        outcome = Outcome()
        with store.open("w"):
            stores.check_table(store, self.feature)
            if missing := self._unwritten(store):
                outcome.blocked = True
                outcome.notes.append(f"nothing to do: {', '.join(missing)} has no rows yet")
            else:
                self._run(store, scope, runtime, outcome)
                stores.compact(store, self.feature.key)
        outcome.seconds = time.monotonic() - started
        return outcome

    def pending(self, store: mx.MetadataStore, scope: Scope | None = None) -> Pending:
        """What a run would find to do.

        Args:
            store: An open store.
            scope: Where partitions are asked for: how they are found.
        """
        import polars as pl

        if missing := self._unwritten(store):
            return Pending(notes=[f"nothing to compute yet: {', '.join(missing)} has no rows"])
        increment = store.resolve_update(self.feature.key).to_polars()
        parents = self.feature.parent_columns
        known = self._known(store, increment.new)
        # Null ids are computed by no run; the upstream's check names them.
        new, stale = (
            set(frame.select(parents).drop_nulls().rows())
            for frame in (increment.new, increment.stale)
        )
        orphaned, kept = self._orphaned(store, increment, known)
        unknown: set[tuple[Any, ...]] = set()
        notes = []
        for dep in self.feature.deps:
            waiting = stores.stranded(store, dep["feature"], parents, dep.get("rename"))
            if waiting:
                unknown |= waiting
                notes.append(
                    f"{len(waiting)} sample{'' if len(waiting) == 1 else 's'} cannot be told:"
                    f" {dep['feature']} has not run since its code version changed. Run it, or, where"
                    " it is produced elsewhere, push its definition (`mx push`)"
                )
        found = (new - known, stale | (new & known), orphaned - kept, unknown)
        told_by: dict[tuple[Any, ...], Sample] = {}
        if scope is not None:
            told_by.update(self._stored(store, scope, orphaned | unknown))
            for row in pl.concat(
                [f.select({*parents, *scope.columns}) for f in (increment.new, increment.stale)]
            ).iter_rows(named=True):
                told_by[tuple(row[c] for c in parents)] = row
        return Pending(
            *(
                [
                    {**told_by.get(ids, {}), **dict(zip(parents, ids, strict=True))}
                    for ids in sorted(some, key=str)
                ]
                for some in found
            ),
            notes=notes,
        )

    def _unwritten(self, store: mx.MetadataStore) -> list[str]:
        """Upstream features that were never written."""
        return [
            key for key in self.feature.upstream if not store.has_feature(key, check_fallback=True)
        ]

    def _run(
        self, store: mx.MetadataStore, scope: Scope, runtime: Runtime, outcome: Outcome
    ) -> None:
        increment = store.resolve_update(self.feature.key).to_polars()
        if unseen := [c for c in scope.columns if c not in increment.new.columns]:
            seen = [c for c in increment.new.columns if not stores.is_system(c)]
            raise UpdateError(
                f"{self.feature.key}: partition_by names {unseen[0]!r}, which is no column of the"
                f" upstream samples; they have: {', '.join(seen)}"
            )
        known = self._known(store, increment.new)
        tasks = list(self._tasks(increment, known, scope, outcome))
        for task in tasks:
            outcome.count("stale" if task.stale else "new", task.partition)
        artifacts = Artifacts(self.artifacts, self.feature.key)
        if tasks:
            runtime.log.info(
                f"{self.feature.key}: {outcome.total.new} new and {outcome.total.stale} stale samples"
            )
            schema = {c: t for c, t in increment.new.schema.items() if not stores.is_system(c)}
            try:
                caller = _Caller(self, artifacts, runtime, schema)
                self._compute(store, tasks, caller, artifacts, outcome)
            finally:
                artifacts.close()
        elif not store.has_feature(self.feature.key):
            outcome.notes.extend(self._unseen(store))
        self._delete_orphans(store, increment, known, scope, artifacts, outcome)
        self._settle(store, scope, outcome)

    def _unseen(self, store: mx.MetadataStore) -> Iterator[str]:
        """Notes on upstreams with rows that are all of another version than the one known here."""
        for upstream in self.feature.upstream:
            current = stores.read(store, upstream)
            history = stores.read(store, upstream, with_feature_history=True)
            if current is None or history is None or history.is_empty():
                continue
            if current.is_empty():
                yield (
                    f"{upstream} has {history.height} samples, but none of the feature version that"
                    " is declared here: run it, or, where it is produced elsewhere, push its"
                    " definition (`mx push`)"
                )

    def _known(self, store: mx.MetadataStore, new: pl.DataFrame) -> set[tuple[Any, ...]]:
        """Ids that Metaxy calls new, though there are rows of them of an older feature version."""
        if new.is_empty():
            return set()
        columns = list(self.feature.parent_columns)
        rows = stores.read(store, self.feature.key, with_feature_history=True)
        return set() if rows is None else set(rows.select(columns).rows())

    def _tasks(
        self,
        increment: mx.PolarsIncrement,
        known: set[tuple[Any, ...]],
        scope: Scope,
        outcome: Outcome,
    ) -> Iterator[Task]:
        parents = self.feature.parent_columns
        for frame, stale in ((increment.new, False), (increment.stale, True)):
            # Of an aggregation, the increment holds a row per upstream sample.
            groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
            for row in frame.iter_rows(named=True):
                groups.setdefault(tuple(row[c] for c in parents), []).append(row)
            for ids, rows in groups.items():
                if any(value is None for value in ids):
                    # Metaxy takes a null id, and then finds it neither new nor done.
                    outcome.fail(
                        FailedSample(
                            dict(zip(parents, ids, strict=True)), "NullId", "an id column is null"
                        ),
                        None,
                    )
                    continue
                samples = [
                    {c: v for c, v in row.items() if not stores.is_system(c)} for row in rows
                ]
                told_by = {c: samples[0][c] for c in scope.columns}
                if several := _differing(samples, told_by):
                    if scope.keys is None:
                        outcome.fail(
                            FailedSample(
                                dict(zip(parents, ids, strict=True)), "PartitionError", several
                            ),
                            None,
                        )
                    continue
                partition = scope.key(samples[0])
                if scope.covers(partition):
                    yield Task(
                        samples=samples,
                        ids=ids,
                        partition=partition,
                        told_by=told_by,
                        stale=stale or ids in known,
                        provenance=rows[0][stores.PROVENANCE],
                        provenance_by_field=rows[0][stores.PROVENANCE_BY_FIELD],
                    )

    def _compute(
        self,
        store: mx.MetadataStore,
        tasks: Sequence[Task],
        caller: _Caller,
        artifacts: Artifacts,
        outcome: Outcome,
    ) -> None:
        log = caller.runtime.log
        size = self.batch_size if self.compute.is_batch else 1
        units = (tasks[start : start + size] for start in range(0, len(tasks), size))
        chunk = Chunk()
        done = 0
        try:
            for unit, results in local.run(units, caller, workers=self.workers):
                if isinstance(results, Exception):
                    raise results
                for task, result in zip(unit, results, strict=True):
                    done += 1
                    if isinstance(result, RowShapeError | SignatureError):
                        named = sample_name(self.name(task))
                        raise ComputeError(
                            f"{self.feature.key}, sample {named}: {result}"
                        ) from result
                    if isinstance(result, UpdateError):
                        raise result
                    if isinstance(result, Exception):
                        failure = FailedSample.of(self.name(task), result)
                        # Where it was raised is the same for most: once is enough.
                        shown = result if outcome.is_first(failure) else None
                        outcome.fail(failure, task.partition)
                        log.warning(f"{self.feature.key}: {failure}", exc_info=shown)
                        continue
                    chunk.tasks.append(task)
                    chunk.rows.extend(result)
                waited = time.monotonic() - chunk.since
                if chunk.tasks and (
                    len(chunk.rows) >= self.chunk_rows or waited >= self.chunk_seconds
                ):
                    full, chunk = chunk, Chunk()
                    self._write(store, full, artifacts, outcome)
                    log.info(f"{self.feature.key}: {done} of {len(tasks)} samples done")
        finally:
            # Also where a compute is wrong or the run is interrupted: finished work is kept.
            if chunk.tasks:
                self._write(store, chunk, artifacts, outcome)

    def name(self, task: Task) -> dict[str, Any]:
        """The ids of a task, by column."""
        return dict(zip(self.feature.parent_columns, task.ids, strict=True))

    def _write(
        self,
        store: mx.MetadataStore,
        chunk: Chunk,
        artifacts: Artifacts,
        outcome: Outcome,
    ) -> None:
        """Make a chunk durable: all rows of a sample in one commit."""
        feature = self.feature
        new = {tuple(row[c] for c in feature.id_columns) for row in chunk.rows}
        obsolete: set[tuple[Any, ...]] = set()
        retired: set[tuple[tuple[Any, ...], str]] = set()
        stale = [task.ids for task in chunk.tasks if task.stale]
        # What is replaced matters where children or files may be left over.
        if stale and (feature.expansion or artifacts.any):
            for row in stores.rows_of(store, feature.key, feature.parent_columns, stale):
                ids = tuple(row[c] for c in feature.id_columns)
                if ids not in new:
                    obsolete.add(ids)
                parent = tuple(row[c] for c in feature.parent_columns)
                retired.add((parent, row[stores.PROVENANCE]))
        if obsolete:
            # Before the new ones: from then on the parent counts as done, and what it no longer
            # has would live for ever.
            stores.delete(store, feature.key, feature.id_columns, obsolete, hard=self.hard_delete)
        stores.append(store, feature.key, stores.typed(feature, chunk.rows))
        outcome.written += len(chunk.rows)
        # Only what the replaced rows named: another run may have published the next version, and
        # rows of older feature versions come back when code is reverted.
        for parent, version in retired - {(task.ids, task.provenance) for task in chunk.tasks}:
            artifacts.retire(parent, version)

    def _delete_orphans(
        self,
        store: mx.MetadataStore,
        increment: mx.PolarsIncrement,
        known: set[tuple[Any, ...]],
        scope: Scope,
        artifacts: Artifacts,
        outcome: Outcome,
    ) -> None:
        parents = self.feature.parent_columns
        orphaned, kept = self._orphaned(store, increment, known)
        stored = self._stored(store, scope, orphaned)
        gone = {}
        for ids in orphaned - kept:
            further = stored.get(ids, dict.fromkeys(scope.columns))
            partition = scope.key({**further, **dict(zip(parents, ids, strict=True))})
            if scope.covers(partition):
                gone[ids] = partition
        if unsure := len(orphaned & kept):
            outcome.notes.append(
                f"{unsure} samples look orphaned only because an upstream feature has not run since"
                " its code version changed; they are kept"
            )
        if gone:
            # Files first: rows without files are still orphaned in the next run, files without
            # rows are nobody's.
            for ids, partition in gone.items():
                artifacts.remove(ids)
                outcome.count("orphaned", partition)
            stores.delete(
                store,
                self.feature.key,
                parents,
                gone,
                hard=self.hard_delete,
                older=bool(known),
            )

    def _orphaned(
        self, store: mx.MetadataStore, increment: mx.PolarsIncrement, known: set[tuple[Any, ...]]
    ) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
        """Ids of samples that look orphaned, and ids that are upstream all the same, unseen."""
        parents = self.feature.parent_columns
        orphaned = set(increment.orphaned.select(parents).rows())
        if known:
            # Samples that went while the code version changed have rows of the older one only.
            rows = stores.read(store, self.feature.key)
            current = set(rows.select(parents).rows()) if rows is not None else set()
            orphaned |= known - current - set(increment.new.select(parents).rows())
        kept: set[tuple[Any, ...]] = set()
        for dep in self.feature.deps if orphaned else ():
            kept |= stores.stranded(store, dep["feature"], parents, dep.get("rename"))
        return orphaned, kept

    def _stored(
        self, store: mx.MetadataStore, scope: Scope, orphaned: set[tuple[Any, ...]]
    ) -> Mapping[tuple[Any, ...], Sample]:
        """By the ids of orphaned samples, the columns that their partitions are found by, where
        these are other ones than the ids."""
        parents = self.feature.parent_columns
        further = [c for c in dict.fromkeys(scope.columns) if c not in parents]
        read = further and orphaned
        rows = stores.read(store, self.feature.key, with_feature_history=True) if read else None
        if rows is None:
            return {}
        found = {}
        # Rows from before the columns were declared do not have them.
        kept = [c for c in (*parents, *further) if c in rows.columns]
        for row in rows.select(kept).iter_rows(named=True):
            if (ids := tuple(row[c] for c in parents)) in orphaned:
                found[ids] = {c: row.get(c) for c in further}
        return found

    def _settle(self, store: mx.MetadataStore, scope: Scope, outcome: Outcome) -> None:
        """Find the partitions in which nothing is left to do."""
        if scope.key_of is None:
            return
        samples = self._samples(store, scope)
        if samples is None:
            return
        keys = set()
        outside: list[str] = []
        for row in samples.iter_rows(named=True):
            try:
                keys.add(scope.key_of(row))
            except PartitionError as error:
                outside.append(str(error))
        outcome.settle([key for key in keys if scope.covers(key)])
        if outside and scope.keys is None:
            outcome.notes.append(
                f"{len(outside)} samples belong to no partition, so that only runs over all compute"
                f" them: {outside[0]}"
            )

    def _samples(self, store: mx.MetadataStore, scope: Scope) -> pl.DataFrame | None:
        """The samples that there are, with the columns that partitions are found by."""
        # The first upstream that has the columns, since of some of its samples no row may be made.
        for dep in self.feature.deps:
            samples = stores.read(store, dep["feature"])
            if samples is not None:
                samples = samples.rename(dict(dep.get("rename") or {}))
                if set(scope.columns) <= set(samples.columns):
                    return samples
        return stores.read(store, self.feature.key)


def _differing(samples: Sequence[Sample], told_by: Mapping[str, Any]) -> str | None:
    """Why a group of samples belongs to no single partition; None if it does."""
    for column, value in told_by.items():
        if any(sample[column] != value for sample in samples):
            values = sorted({str(sample[column]) for sample in samples})
            shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            return f"its samples differ in {column!r}, by which partitions are found: {shown}"
    return None


@dataclass(frozen=True)
class _Caller:
    """Calls the compute of an update for one task, or for a batch of them, in a worker."""

    update: Update
    artifacts: Artifacts
    runtime: Runtime
    schema: Mapping[str, pl.DataType]

    def __call__(self, tasks: Sequence[Task]) -> list[Rows | Exception]:
        """The rows of each task, or what went wrong with it."""
        if not self.update.compute.is_batch:
            return [self._guarded(self._one, task) for task in tasks]
        try:
            return self._batch(tasks)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
            # Which of them it was, only trying each can tell.
            return [result for task in tasks for result in self([task])]

    def _guarded(self, call: Callable[..., Rows], *arguments: Any) -> Rows | Exception:
        try:
            return call(*arguments)
        except Exception as error:
            return error

    def _one(self, task: Task) -> Rows:
        feature = self.update.feature
        context = ComputeContext(self.runtime, self.artifacts.unfinished)
        argument = task.samples if feature.aggregates else task.samples[0]
        returned = self.update.compute(argument, self.runtime, context)
        if feature.expansion:
            if isinstance(returned, Mapping) or not isinstance(returned, Iterable):
                raise RowShapeError(
                    f"the compute returned {type(returned).__name__}, not an iterable of mappings"
                )
            returned = list(returned)
        else:
            returned = [returned]
        rows = self._checked(task, returned)
        if (unfinished := context.used_folder) is not None:
            published = self.artifacts.publish(unfinished, task.ids, task.provenance)
            rows = [
                {name: moved(value, unfinished, published) for name, value in row.items()}
                for row in rows
            ]
        return rows

    def _batch(self, tasks: Sequence[Task]) -> list[Rows | Exception]:
        import polars as pl

        feature = self.update.feature
        samples = [sample for task in tasks for sample in task.samples]
        returned = self.update.compute(
            pl.DataFrame(samples, schema=self.schema, orient="row"), self.runtime, None
        )
        by_ids = rows_by_ids(returned, feature.parent_columns, [task.ids for task in tasks])
        results = []
        for task in tasks:
            rows = by_ids[task.ids]
            if not feature.expansion and len(rows) != 1:
                results.append(ValueError(f"the compute returned {len(rows)} rows for this sample"))
            else:
                results.append(self._guarded(self._checked, task, rows))
        return results

    def _checked(self, task: Task, returned: Sequence[Any]) -> Rows:
        feature = self.update.feature
        ids = self.update.name(task)
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
        if not rows:
            raise ValueError("the compute returned no rows for this sample")
        columns = self.update.feature.id_columns
        seen = set()
        for row in rows:
            ids = tuple(row[c] for c in columns)
            if ids in seen:
                named = sample_name(dict(zip(columns, ids, strict=True)))
                raise ValueError(f"the compute returned two rows for {named}")
            seen.add(ids)
