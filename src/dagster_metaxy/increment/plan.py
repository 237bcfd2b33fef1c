"""Deciding what an update of a feature does, and why, before anything is computed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.conditions import ConditionError, parsed
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import FailedSample, UpdateError, sample_name
from dagster_metaxy.increment.selection import Ids, Sample, Scope, Selection

if TYPE_CHECKING:
    import metaxy as mx
    import polars as pl


NEW = "new"
CHANGED = "input changed"
CODE = "code version"
RECOMPUTED = "upstream recomputed"
UNEXPLAINED = "input or code changed"
RETRY = "retry"
FORCED = "forced"
ORPHANED = "orphaned"

_ORDER = (NEW, CODE, CHANGED, RECOMPUTED, UNEXPLAINED, FORCED, RETRY)
"""Samples that were never computed come first, what has failed before comes last."""


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
        input: The versions of the input, by upstream feature.
        attempts: How often this version has failed.
        why: The reason for computing it.
        detail: The same, in particular.
    """

    samples: Sequence[Sample]
    ids: Ids
    partition: str | None
    told_by: Mapping[str, Any]
    stale: bool
    provenance: str
    provenance_by_field: Mapping[str, str]
    input: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    why: str = NEW
    detail: str = ""


@dataclass(frozen=True)
class Orphan:
    """A sample that is deleted.

    Attributes:
        ids: Values of the parent columns.
        partition: The partition key, if any.
        detail: Which parent vanished.
    """

    ids: Ids
    partition: str | None
    detail: str


@dataclass
class Plan:
    """What an update does, sample by sample; nothing of it is done.

    Attributes:
        feature: The feature.
        tasks: What is computed, in this order.
        refused: Samples that cannot be computed as they are.
        orphaned: Samples that are deleted.
        uncertain: Samples that look orphaned, while an upstream has not run since its code changed.
        left: Partitions with samples that a selection leaves out.
        seconds: What computing takes by the cost of earlier samples; None where there are none.
        schema: Of the columns that computes see.
        notes: Sentences that the reader should see.
    """

    feature: Feature
    tasks: list[Task] = field(default_factory=list)
    refused: list[FailedSample] = field(default_factory=list)
    orphaned: list[Orphan] = field(default_factory=list)
    uncertain: int = 0
    left: set[str] = field(default_factory=set)
    seconds: float | None = None
    schema: Mapping[str, pl.DataType] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of samples by reason."""
        found = Counter(task.why for task in self.tasks)
        found[ORPHANED] = len(self.orphaned)
        return {why: found[why] for why in (*_ORDER, ORPHANED) if found[why]}

    def name(self, ids: Ids) -> str:
        """The name of a sample."""
        return sample_name(dict(zip(self.feature.parent_columns, ids, strict=True)))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Name, reason and detail of each sample that is in it."""
        for task in self.tasks:
            yield self.name(task.ids), task.why, task.detail
        for orphan in self.orphaned:
            yield self.name(orphan.ids), ORPHANED, orphan.detail


@dataclass(frozen=True)
class Planner:
    """Decides what an update of a computed feature does.

    Attributes:
        feature: The feature.
        store: An open store, in which all upstream features were written.
        ledger: What is remembered of its samples.
        scope: Which samples.
        selection: What was asked for.
    """

    feature: Feature
    store: mx.MetadataStore
    ledger: Ledger
    scope: Scope = field(default_factory=Scope)
    selection: Selection = field(default_factory=Selection)

    def plan(self) -> Plan:
        """What there is to do, and why.

        Raises:
            UpdateError: The condition of a forced run is none; partitions are found by a column that
                samples do not have.
        """
        plan = Plan(self.feature)
        increment = self.store.resolve_update(self.feature.key).to_polars()
        plan.schema = {c: t for c, t in increment.new.schema.items() if not stores.is_system(c)}
        if unseen := [c for c in self.scope.columns if c not in plan.schema]:
            raise UpdateError(
                f"{self.feature.key}: partition_by names {unseen[0]!r}, which is no column of the"
                f" upstream samples; they have: {', '.join(plan.schema)}"
            )
        frames = [(increment.new, False), (increment.stale, False)]
        if self.selection.force:
            frames.append((self._forced(plan.schema), True))
        known = self._known(increment.new)
        stale = set(increment.stale.select(self.feature.parent_columns).rows())
        found: dict[Ids, Task] = {}
        for frame, forced in frames:
            for task in self._tasks(frame, plan):
                if task.ids not in found:
                    why = FORCED if forced else NEW
                    older = forced or task.ids in known or task.ids in stale
                    found[task.ids] = replace(task, stale=older, why=why)
        self._explain(found, plan)
        self._select(plan)
        if not self.selection.only:
            self._orphans(increment, plan)
        return plan

    def _forced(self, schema: Iterable[str]) -> pl.DataFrame:
        """The samples that a forced run computes, up to date or not."""
        import narwhals as nw

        increment = self.store.resolve_update(self.feature.key, skip_comparison=True)
        frame = increment.to_polars().new
        if isinstance(self.selection.force, str):
            condition = parsed(self.selection.force)
            try:
                frame = nw.from_native(frame).filter(condition).to_native()
            except nw.exceptions.ColumnNotFoundError as error:
                raise ConditionError(
                    f"{self.feature.key}: the filter {self.selection.force!r} asks for a column that"
                    f" samples do not have; they have: {', '.join(schema)}"
                ) from error
        return frame

    def _known(self, new: pl.DataFrame) -> set[Ids]:
        """Ids that Metaxy calls new, though there are rows of them of an older feature version."""
        columns = self.feature.parent_columns
        ids = set(new.select(columns).rows())
        if not ids:
            return set()
        if len(ids) <= stores.IDS_PER_FILTER:
            rows = stores.rows_of(
                self.store, self.feature.key, columns, ids, with_feature_history=True
            )
            return {tuple(row[c] for c in columns) for row in rows}
        frame = stores.read(self.store, self.feature.key, with_feature_history=True)
        return set() if frame is None else set(frame.select(columns).rows())

    def _tasks(self, frame: pl.DataFrame, plan: Plan) -> Iterator[Task]:
        parents = self.feature.parent_columns
        # Of an aggregation, the increment holds a row per upstream sample.
        groups: dict[Ids, list[Mapping[str, Any]]] = {}
        for row in frame.iter_rows(named=True):
            groups.setdefault(tuple(row[c] for c in parents), []).append(row)
        for ids, rows in groups.items():
            named = dict(zip(parents, ids, strict=True))
            if None in ids:
                # Metaxy takes a null id, and then finds it neither new nor done.
                plan.refused.append(FailedSample(named, "NullId", "an id column is null"))
                continue
            samples = [{c: v for c, v in row.items() if not stores.is_system(c)} for row in rows]
            told_by = {c: samples[0][c] for c in self.scope.columns}
            if several := _differing(samples, told_by):
                if self.scope.keys is None:
                    plan.refused.append(FailedSample(named, "PartitionError", several))
                continue
            yield Task(
                samples=samples,
                ids=ids,
                partition=self.scope.key(samples[0]),
                told_by=told_by,
                stale=False,
                provenance=rows[0][stores.PROVENANCE],
                provenance_by_field=rows[0][stores.PROVENANCE_BY_FIELD],
            )

    def _explain(self, found: Mapping[Ids, Task], plan: Plan) -> None:
        """Add to the plan what is to be computed, with the reasons."""
        if not found:
            return
        entries = self.ledger.read(found)
        inputs = self._inputs(set(found))
        for ids, task in found.items():
            entry = entries.get(ids)
            same = entry is not None and entry.version == task.provenance
            if entry and same and not entry.failure and entry.rows == 0 and task.why != FORCED:
                continue  # done, though there are no rows to tell
            task = replace(task, input=inputs.get(ids, {}))
            if entry and same and entry.failure:
                plural = "" if entry.attempts == 1 else "s"
                detail = f"{entry.attempts} attempt{plural} failed: {entry.failure}"
                task = replace(task, why=RETRY, detail=detail, attempts=entry.attempts)
            elif task.why != FORCED and task.stale:
                why, detail = self._reason(entry, task)
                task = replace(task, why=why, detail=detail)
            if self.scope.covers(task.partition):
                plan.tasks.append(task)
        known = [e.cost.seconds for e in entries.values() if e.failure is None and e.rows]
        mean = sum(known) / len(known) if known else self.ledger.mean_seconds()
        plan.seconds = None if mean is None else mean * len(plan.tasks)

    def _reason(self, entry: Entry | None, task: Task) -> tuple[str, str]:
        """Why a sample of which there are rows is computed again."""
        if entry is None or not entry.input:
            return UNEXPLAINED, ""
        code = {f["key"]: str(f.get("code_version", "")) for f in self.feature.fields}
        changed = [
            f"{name}: {entry.code.get(name) or 'none'} -> {version or 'none'}"
            for name, version in code.items()
            if entry.code.get(name) != version
        ]
        if changed:
            return CODE, ", ".join(changed)
        for key, now in task.input.items():
            before = entry.input.get(key)
            if before is None:
                changed.append(f"{key} was no upstream")
                continue
            if before["samples"] != now["samples"]:
                changed.append(f"{key}: {before['samples']} -> {now['samples']} samples")
            changed += [
                f"{key}: {name} {_short(before['fields'].get(name))} -> {_short(version)}"
                for name, version in now["fields"].items()
                if before["fields"].get(name) != version
            ]
        recomputed = [
            key
            for key, now in task.input.items()
            if entry.input.get(key, now)["version"] != now["version"]
        ]
        if recomputed:
            return RECOMPUTED, ", ".join(f"{key} by other code" for key in recomputed)
        return (CHANGED, ", ".join(changed)) if changed else (UNEXPLAINED, "")

    def _inputs(self, wanted: set[Ids]) -> dict[Ids, dict[str, Any]]:
        """The versions of what samples are computed from, by upstream feature."""
        import metaxy as mx

        parents = self.feature.parent_columns
        found: dict[Ids, dict[str, Any]] = {}
        for dep in self.feature.deps:
            key = dep["feature"]
            names = {new: old for old, new in (dep.get("rename") or {}).items()}
            columns = [names.get(c, c) for c in parents]
            rows = self._upstream_rows(key, columns, wanted)
            groups: dict[Ids, list[Mapping[str, str]]] = {}
            for row in rows:
                ids = tuple(row[c] for c in columns)
                if ids in wanted:
                    groups.setdefault(ids, []).append(
                        _by_field(row["metaxy_data_version_by_field"])
                    )
            version = mx.current_graph().get_feature_version(key) if groups else ""
            for ids, versions in groups.items():
                found.setdefault(ids, {})[key] = {
                    "version": version,
                    "samples": len(versions),
                    "fields": {f: _joined([v.get(f) for v in versions]) for f in versions[0]},
                }
        return found

    def _upstream_rows(
        self, key: str, columns: Sequence[str], wanted: set[Ids]
    ) -> Iterable[Mapping[str, Any]]:
        head = self.store.read(key).collect_schema().names()
        if not set(columns) <= set(head):
            return ()
        if len(wanted) <= stores.IDS_PER_FILTER:
            return stores.rows_of(self.store, key, columns, wanted)
        frame = stores.read(self.store, key)
        if frame is None:
            return ()
        return frame.select({*columns, "metaxy_data_version_by_field"}).iter_rows(named=True)

    def _select(self, plan: Plan) -> None:
        """Order the tasks, and leave out what was not asked for."""
        plan.tasks.sort(key=lambda task: (_ORDER.index(task.why), task.ids))
        asked = [t for t in plan.tasks if self.selection.takes(t.ids, plan.name(t.ids))]
        kept = asked[: self.selection.limit]
        if len(kept) == len(plan.tasks):
            return
        taken = {task.ids for task in kept}
        plan.left = {t.partition for t in plan.tasks if t.partition and t.ids not in taken}
        plan.notes.append(f"{len(plan.tasks) - len(kept)} samples were not asked for")
        if plan.seconds is not None:
            plan.seconds *= len(kept) / len(plan.tasks)
        plan.tasks = kept

    def _orphans(self, increment: mx.PolarsIncrement, plan: Plan) -> None:
        parents = self.feature.parent_columns
        orphaned, kept = orphaned_ids(self.store, self.feature, increment)
        plan.uncertain = len(orphaned & kept)
        above = " or ".join(self.feature.upstream)
        stored = partition_columns(self.store, self.feature, self.scope, orphaned)
        for ids in sorted(orphaned - kept, key=str):
            sample = {**stored.get(ids, {}), **dict(zip(parents, ids, strict=True))}
            partition = self.scope.key(sample)
            if self.scope.covers(partition):
                plan.orphaned.append(Orphan(ids, partition, f"no longer in {above}"))


def orphaned_ids(
    store: mx.MetadataStore, feature: Feature, increment: mx.PolarsIncrement
) -> tuple[set[Ids], set[Ids]]:
    """Ids of samples that look orphaned, and ids that are upstream all the same, unseen."""
    parents = feature.parent_columns
    orphaned = set(increment.orphaned.select(parents).rows())
    if not increment.new.is_empty() and stores.has_older_rows(store, feature.key):
        # Samples that went while the code version changed have rows of the older one only.
        history = stores.read(store, feature.key, with_feature_history=True)
        rows = stores.read(store, feature.key)
        current = set(rows.select(parents).rows()) if rows is not None else set()
        everything = set(history.select(parents).rows()) if history is not None else set()
        orphaned |= everything - current - set(increment.new.select(parents).rows())
    kept: set[Ids] = set()
    for dep in feature.deps if orphaned else ():
        kept |= stores.stranded(store, dep["feature"], parents, dep.get("rename"))
    return orphaned, kept


def partition_columns(
    store: mx.MetadataStore, feature: Feature, scope: Scope, wanted: set[Ids]
) -> Mapping[Ids, Sample]:
    """By the ids of stored samples, the columns that their partitions are found by, where these are
    other ones than the ids."""
    parents = feature.parent_columns
    further = [c for c in dict.fromkeys(scope.columns) if c not in parents]
    read = further and wanted
    rows = stores.read(store, feature.key, with_feature_history=True) if read else None
    if rows is None:
        return {}
    found = {}
    # Rows from before the columns were declared do not have them.
    kept = [c for c in (*parents, *further) if c in rows.columns]
    for row in rows.select(kept).iter_rows(named=True):
        if (ids := tuple(row[c] for c in parents)) in wanted:
            found[ids] = {c: row.get(c) for c in further}
    return found


def _differing(samples: Sequence[Sample], told_by: Mapping[str, Any]) -> str | None:
    """Why a group of samples belongs to no single partition; None if it does."""
    for column, value in told_by.items():
        if any(sample[column] != value for sample in samples):
            values = sorted({str(sample[column]) for sample in samples})
            shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
            return f"its samples differ in {column!r}, by which partitions are found: {shown}"
    return None


def _by_field(value: Any) -> Mapping[str, str]:
    """The versions of fields: a struct, or where a store keeps maps, a list of pairs."""
    if isinstance(value, Mapping):
        return value
    return {pair["key"]: pair["value"] for pair in value or ()}


def _joined(versions: Sequence[str | None]) -> str:
    """One version for those of a group, whatever their order."""
    if len(versions) == 1:
        return str(versions[0])
    return hashlib.sha256("\0".join(sorted(map(str, versions))).encode()).hexdigest()[:16]


def _short(version: str | None) -> str:
    return "none" if version is None else version[:8]
