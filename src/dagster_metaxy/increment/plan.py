"""Deciding what an update of a feature does, and why, before anything is computed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.feature import AGGREGATION, Feature, identity
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts.base import Location
from dagster_metaxy.increment.conditions import ConditionError, parsed
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import FailedSample, UpdateError, sample_name
from dagster_metaxy.increment.progress import duration
from dagster_metaxy.increment.quarantine import Quarantine
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
QUARANTINED = "quarantined"
ORPHANED = "orphaned"

_ORDER = (NEW, CODE, CHANGED, RECOMPUTED, UNEXPLAINED, FORCED, RETRY, QUARANTINED, ORPHANED)
"""Samples that were never computed come first, what has failed before comes last."""

_NAMED = 5


@dataclass
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
        failure: How this version failed last.
        why: The reason for computing it.
        detail: The same, in particular.
    """

    samples: Sequence[Sample]
    ids: Ids
    partition: str | None
    told_by: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False
    provenance: str = ""
    provenance_by_field: Mapping[str, str] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    failure: FailedSample | None = None
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
        left: What would be, had it been asked for.
        held: Quarantined samples.
        refused: Samples that cannot be computed as they are.
        orphaned: Samples that are deleted.
        unknown: Stored samples that are kept though Metaxy does not see them upstream, since that has
            not run since its code changed, or since only others were asked for; with their
            partitions.
        artifacts: Folders of files that are deleted; looked for only where a plan is asked for.
        seconds: What computing takes by the cost of earlier samples; None where there are none.
        schema: Of the columns that computes see.
        notes: Sentences that the reader should see.
    """

    feature: Feature
    tasks: list[Task] = field(default_factory=list)
    left: list[Task] = field(default_factory=list)
    held: list[Task] = field(default_factory=list)
    refused: list[FailedSample] = field(default_factory=list)
    orphaned: list[Orphan] = field(default_factory=list)
    unknown: dict[Ids, str | None] = field(default_factory=dict)
    artifacts: list[Location] = field(default_factory=list)
    seconds: float | None = None
    schema: Mapping[str, pl.DataType] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of samples by reason."""
        found = Counter(why for _, why, _ in self.rows())
        return {why: found[why] for why in _ORDER if found[why]}

    @property
    def acts(self) -> bool:
        """Whether anything is computed or deleted."""
        return bool(self.tasks or self.orphaned)

    @property
    def pending(self) -> list[Task]:
        """All that is new or stale, whether it is computed or not."""
        return [*self.tasks, *self.left, *self.held]

    @property
    def failed(self) -> list[FailedSample]:
        """The samples that failed last, and have not changed since."""
        return [
            *self.refused,
            *(replace(t.failure, partition=t.partition) for t in self.pending if t.failure),
        ]

    @property
    def expectation(self) -> str:
        """How long computing takes, for a log line; empty where nothing is known."""
        if self.seconds is None or self.seconds < 1:
            return ""
        return f"; about {duration(self.seconds)} by the cost of earlier samples"

    def expect(self, ledger: Ledger, entries: Collection[Entry]) -> None:
        """Take the seconds from what is remembered of these samples, or of all."""
        if not self.tasks:
            return
        known = [e.cost.seconds for e in entries if e.failure is None and e.rows]
        mean = sum(known) / len(known) if known else ledger.mean_seconds()
        self.seconds = None if mean is None else mean * len(self.tasks)

    def name(self, ids: Ids) -> str:
        """The name of a sample."""
        return sample_name(self.feature.named(ids))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Name, reason and detail of each sample that is in it."""
        for task in (*self.tasks, *self.held):
            yield self.name(task.ids), task.why, task.detail
        for orphan in self.orphaned:
            yield self.name(orphan.ids), ORPHANED, orphan.detail


@dataclass(frozen=True)
class Stranded:
    """Samples of an upstream that Metaxy does not see: their rows are of an older feature version.

    Attributes:
        upstream: The feature key.
        at: The places, among the ids of a sample, of those that name them; none where nothing does.
        ids: The values at these places.
        untried: Of these, what the upstream has not tried to compute since: what failed there comes
            only when it is mended.
        gathered: Whether samples are computed without them, as of a group, or an optional upstream.
    """

    upstream: str
    at: Sequence[int]
    ids: Collection[Ids]
    untried: Collection[Ids]
    gathered: bool

    def has(self, ids: Ids) -> bool:
        """Whether a sample is computed from one of them; of any where nothing tells."""
        return self._shared(ids) in self.ids

    def holds(self, ids: Ids) -> bool:
        """Whether a sample would be computed without one that is still to come."""
        return self.gathered and self._shared(ids) in self.untried

    def _shared(self, ids: Ids) -> Ids:
        return tuple(ids[place] for place in self.at)


@dataclass(frozen=True)
class Planner:
    """Decides what an update of a computed feature does.

    Attributes:
        feature: The feature.
        store: An open store, in which all upstream features were written.
        ledger: What is remembered of its samples.
        scope: Which samples.
        selection: What was asked for.
        quarantine: Which samples that failed are held back; None for none.
    """

    feature: Feature
    store: mx.MetadataStore
    ledger: Ledger
    scope: Scope = field(default_factory=Scope)
    selection: Selection = field(default_factory=Selection)
    quarantine: Quarantine | None = field(default_factory=Quarantine)

    def plan(self) -> Plan:
        """What there is to do, and why.

        Raises:
            UpdateError: The condition of a forced run is none; partitions are found by a column that
                samples do not have.
        """
        plan = Plan(self.feature)
        # Lazily, the three parts share what they have in common.
        increment = self.store.resolve_update(self.feature.key, lazy=True).collect().to_polars()
        plan.schema = {c: t for c, t in increment.new.schema.items() if not stores.is_system(c)}
        if unseen := [c for c in self.scope.columns if c not in plan.schema]:
            raise UpdateError(
                f"{self.feature.key}: partition_by names {unseen[0]!r}, which is no column of the"
                f" upstream samples; they have: {', '.join(plan.schema)}"
            )
        parents = self.feature.parent_columns
        new = self._undone(increment.new)
        older = self._known(new) | set(increment.stale.select(parents).rows())
        found: dict[Ids, Task] = {}
        refused: dict[Ids, FailedSample] = {}
        for frame in (new, increment.stale):
            for task in self._tasks(frame, refused):
                task.stale = task.ids in older
                found[task.ids] = task
        forced: set[Ids] = set()
        if self.selection.force:
            for task in self._tasks(self._forced(plan.schema), refused):
                forced.add(task.ids)
                if task.ids not in found:
                    task.stale, task.why = True, FORCED
                    found[task.ids] = task
        plan.refused.extend(refused.values())
        stranded = list(self._stranded(plan))
        self._explain(found, forced, stranded, plan)
        self._select(plan)
        self._absent(increment, stranded, plan)
        return plan

    def _forced(self, schema: Iterable[str]) -> pl.DataFrame:
        """The samples that a forced run computes, up to date or not."""
        import narwhals as nw

        frame = self._all()
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

    def _all(self) -> pl.DataFrame:
        """All samples that can be computed."""
        increment = self.store.resolve_update(self.feature.key, lazy=True, skip_comparison=True)
        return increment.collect().to_polars().new

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

    def _undone(self, new: pl.DataFrame) -> pl.DataFrame:
        """Without the parents that are done, though they have no children to tell."""
        if (
            not self.feature.expansion
            or new.is_empty()
            or (done := self.ledger.childless()) is None
        ):
            return new
        on = [*self.feature.parent_columns, stores.PROVENANCE]
        return new.join(done.cast({c: new.schema[c] for c in on}), on=on, how="anti")

    def _tasks(self, frame: pl.DataFrame, refused: dict[Ids, FailedSample]) -> Iterator[Task]:
        """What there is to compute; samples that cannot be as they are, are added to `refused`."""
        visible = [column for column in frame.columns if not stores.is_system(column)]
        for ids, rows in self._groups(frame):
            named = self.feature.named(ids)
            if None in ids:
                # Metaxy takes a null id, and then finds it neither new nor done.
                refused[ids] = FailedSample(named, "NullId", "an id column is null")
                continue
            samples = [{c: row[c] for c in visible} for row in rows]
            told_by = {c: samples[0][c] for c in self.scope.columns}
            if several := _differing(samples, told_by):
                if self.scope.keys is None:
                    refused[ids] = FailedSample(named, "PartitionError", several)
                continue
            yield Task(
                samples=samples,
                ids=ids,
                partition=self.scope.key(samples[0]),
                told_by=told_by,
                provenance=rows[0][stores.PROVENANCE],
                provenance_by_field=rows[0][stores.PROVENANCE_BY_FIELD],
            )

    def _groups(self, frame: pl.DataFrame) -> Iterable[tuple[Ids, list[Mapping[str, Any]]]]:
        """The rows of each sample: several of an aggregation, of which the increment holds a row per
        upstream sample."""
        parents = self.feature.parent_columns
        rows = ((tuple(row[c] for c in parents), row) for row in frame.iter_rows(named=True))
        if not self.feature.aggregates:
            return ((ids, [row]) for ids, row in rows)
        groups: dict[Ids, list[Mapping[str, Any]]] = {}
        for ids, row in rows:
            groups.setdefault(ids, []).append(row)
        return groups.items()

    def _explain(
        self,
        found: Mapping[Ids, Task],
        forced: set[Ids],
        stranded: Sequence[Stranded],
        plan: Plan,
    ) -> None:
        """Add to the plan what is to be computed, with the reasons."""
        if not found:
            return
        entries = self.ledger.read(found)
        inputs = self._inputs(set(found))
        waits: Counter[str] = Counter()
        for ids, task in found.items():
            entry = entries.get(ids)
            task.input = inputs.get(ids, {})
            if entry is not None and entry.version == task.provenance:
                if entry.failure is not None:
                    asked = ids in forced or self.selection.retries(ids, plan.name(ids))
                    failed_before(task, entry.failure, self.quarantine, asked)
            elif task.why != FORCED and (task.stale or (entry and entry.rows == 0)):
                task.stale = True  # or it is done, and gave no children
                task.why, task.detail = self._reason(entry, task)
            missing = [s.upstream for s in stranded if s.holds(ids)]
            if task.why == QUARANTINED:
                plan.held.append(task)
            elif missing and ids not in forced:
                plan.left.append(task)
                waits.update(missing)
            else:
                (plan.tasks if self.scope.covers(task.partition) else plan.left).append(task)
        plan.notes.extend(
            f"{counted(count, 'sample', 'samples')} not computed until {upstream} has run: input of them is of its older"
            " code version. `force` computes them all the same"
            for upstream, count in waits.items()
        )
        order(plan.held)
        plan.expect(self.ledger, entries.values())

    def _reason(self, entry: Entry | None, task: Task) -> tuple[str, str]:
        """Why a sample of which there are rows is computed again."""
        if entry is None or not entry.input:
            return UNEXPLAINED, ""
        changed = [
            f"{name}: {entry.code.get(name) or 'none'} -> {version or 'none'}"
            for name, version in self.feature.code_versions.items()
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
                f"{key}: {field}" for field in changed_fields(before["fields"], now["fields"])
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

        found: dict[Ids, dict[str, Any]] = {}
        for dep in self.feature.deps:
            key = dep["feature"]
            at, columns = self._shared(dep, self.store.read(key).collect_schema().names())
            if not at:
                continue
            shared = {ids: tuple(ids[place] for place in at) for ids in wanted}
            groups: dict[Ids, list[Mapping[str, str]]] = {}
            for row in self._upstream_rows(key, columns, named := {*shared.values()}):
                if (ids := tuple(row[c] for c in columns)) in named:
                    versions = _by_field(row["metaxy_data_version_by_field"])
                    groups.setdefault(ids, []).append(versions)
            version = mx.current_graph().get_feature_version(key) if groups else ""
            inputs = {
                ids: {
                    "version": version,
                    "samples": len(versions),
                    "fields": {f: _joined([v.get(f) for v in versions]) for f in versions[0]},
                }
                for ids, versions in groups.items()
            }
            for ids, name in shared.items():
                if name in inputs:
                    found.setdefault(ids, {})[key] = inputs[name]
        return found

    def _shared(
        self, dep: Mapping[str, Any], there: Collection[str]
    ) -> tuple[Sequence[int], Sequence[str]]:
        """Which of the parent columns an upstream has: their places, and their names there."""
        columns = self._names(dep)
        at = [place for place, column in enumerate(columns) if column in there]
        return at, [columns[place] for place in at]

    def _names(self, dep: Mapping[str, Any]) -> list[str]:
        """The names that the parent columns have, or would have, in an upstream."""
        names = {new: old for old, new in (dep.get("rename") or {}).items()}
        return [names.get(c, c) for c in self.feature.parent_columns]

    def _upstream_rows(
        self, key: str, columns: Sequence[str], wanted: set[Ids]
    ) -> Iterable[Mapping[str, Any]]:
        if len(wanted) <= stores.IDS_PER_FILTER:
            return stores.rows_of(self.store, key, columns, wanted)
        frame = stores.read(self.store, key)
        if frame is None:
            return ()
        return frame.select({*columns, "metaxy_data_version_by_field"}).iter_rows(named=True)

    def _select(self, plan: Plan) -> None:
        """Order the tasks, and leave out what was not asked for."""
        order(plan.tasks)
        kept = plan.tasks
        if self.selection.only or self.selection.subsample is not None:
            kept = [t for t in kept if self.selection.takes(t.ids, plan.name(t.ids))]
        found = [(t.ids, plan.name(t.ids)) for t in (*kept, *plan.held)]
        if idle := sorted({*self.selection.only} - self.selection.named(found)):
            plan.notes.append(
                f"nothing to do for {', '.join(idle[:_NAMED])}{', ...' if len(idle) > _NAMED else ''}:"
                " there is no such sample, or it is up to date (with `force: true`, it is computed in"
                " any case)"
            )
        kept = kept[: self.selection.limit]
        if len(kept) == len(plan.tasks):
            return
        taken = {task.ids for task in kept}
        left = [task for task in plan.tasks if task.ids not in taken]
        plan.left.extend(left)
        plan.notes.append(f"{counted(len(left), 'sample was', 'samples were')} not asked for")
        if plan.seconds is not None:
            plan.seconds *= len(kept) / len(plan.tasks)
        plan.tasks = kept

    def _absent(
        self, increment: mx.PolarsIncrement, stranded: Sequence[Stranded], plan: Plan
    ) -> None:
        """Find the samples that upstream does not have, or that Metaxy does not see there."""
        orphaned = self._orphaned(increment)
        unknown = {ids for ids in orphaned if any(s.has(ids) for s in stranded)}
        orphaned -= unknown
        if self.selection.only:
            unknown, orphaned = unknown | orphaned, set()
        above = " or ".join(self.feature.upstream)
        stored = self._partition_columns(orphaned | unknown)

        def partition(ids: Ids) -> str | None:
            named = self.feature.named(ids)
            # Rows from before the columns were declared do not have them.
            known = dict.fromkeys(self.scope.columns)
            return self.scope.key({**known, **stored.get(ids, {}), **named})

        plan.unknown = {ids: partition(ids) for ids in unknown}
        for ids in sorted(orphaned, key=str):
            if self.scope.covers(key := partition(ids)):
                plan.orphaned.append(Orphan(ids, key, f"no longer in {above}"))

    def _stranded(self, plan: Plan) -> Iterator[Stranded]:
        """What Metaxy does not see of each upstream that has not run with its code."""
        import metaxy as mx

        for dep in self.feature.deps:
            key = dep["feature"]
            if (upstream := Feature.known(key)) is None:
                continue
            own = upstream.parent_columns
            rows = stores.stranded(self.store, key, own, self._names(dep))
            if rows is None:
                continue
            at, columns = self._shared(dep, rows.columns)
            ledger = Ledger(self.store, upstream.with_id_types({}))
            ended = ledger.ended(mx.current_graph().get_feature_version(key))
            untried = rows
            if ended is not None:
                ended = ended.cast({column: rows.schema[column] for column in own})
                # What is done there, though without rows, is no longer to come.
                done = ended.filter(~ended["failed"])
                rows, untried = (rows.join(e, on=own, how="anti") for e in (done, ended))
            if rows.is_empty():
                continue
            found, missing = (
                {tuple(row[c] for c in columns) for row in frame.iter_rows(named=True)}
                for frame in (rows, untried)
            )
            kind = (dep.get("lineage") or identity())["relationship"]["type"]
            gathered = bool(dep.get("optional")) or kind == AGGREGATION
            yield Stranded(key, at, found, missing, gathered)
            plan.notes.append(
                f"{counted(len(found), 'sample', 'samples')} cannot be told before {key} has run, whose code version has"
                " changed; what was computed from them is kept. Where it is produced elsewhere, push"
                " its definition (`mx push`)"
            )

    def _orphaned(self, increment: mx.PolarsIncrement) -> set[Ids]:
        """Ids of stored samples that Metaxy does not see upstream."""
        parents = self.feature.parent_columns
        orphaned = set(increment.orphaned.select(parents).rows())
        if stores.has_older_rows(self.store, self.feature.key):
            # Samples that went while the code version changed have rows of the older one only.
            ids = list(dict.fromkeys((*self.feature.id_columns, *parents)))
            key = self.feature.key
            history = stores.read(self.store, key, with_feature_history=True, columns=ids)
            rows = stores.read(self.store, key, columns=ids)
            current = set(rows.select(parents).rows()) if rows is not None else set()
            everything = set(history.select(parents).rows()) if history is not None else set()
            orphaned |= everything - current - set(increment.new.select(parents).rows())
        return orphaned

    def _partition_columns(self, wanted: set[Ids]) -> Mapping[Ids, Sample]:
        """By the ids of stored samples, the columns that their partitions are found by, where these
        are other ones than the ids."""
        parents = self.feature.parent_columns
        further = [c for c in dict.fromkeys(self.scope.columns) if c not in parents]
        read = further and wanted
        key = self.feature.key
        rows = stores.read(self.store, key, with_feature_history=True) if read else None
        if rows is None:
            return {}
        found = {}
        # Rows from before the columns were declared do not have them.
        kept = [c for c in (*parents, *further) if c in rows.columns]
        for row in rows.select(kept).iter_rows(named=True):
            if (ids := tuple(row[c] for c in parents)) in wanted:
                found[ids] = {c: row.get(c) for c in further}
        return found


def order(tasks: list[Task]) -> None:
    """Sort tasks: what was never computed first, what has failed before last."""
    tasks.sort(key=lambda task: (_ORDER.index(task.why), task.ids))


def failed_before(
    task: Task, failure: FailedSample, quarantine: Quarantine | None, asked: bool
) -> None:
    """Mark a task of which this very version failed: tried again, or quarantined.

    Args:
        task: What would be computed.
        failure: How it failed last.
        quarantine: What is held back; None for nothing.
        asked: Whether it is asked for all the same.
    """
    held = not asked and quarantine is not None and quarantine.holds(failure)
    detail = f"{counted(failure.attempts, 'attempt', 'attempts')} failed: {failure.reason}"
    task.why, task.detail = QUARANTINED if held else RETRY, detail
    task.failure = failure


def unforeseen(feature: Feature, ledger: Ledger, note: str) -> Plan:
    """What is known of a feature that only its run can tell more of: the samples that failed last.

    Args:
        feature: The feature.
        ledger: Its entries.
        note: Why that is all.
    """
    failed = [entry.failure for entry in ledger.all() if entry.failure]
    return Plan(feature, refused=failed, notes=[note])


def changed_fields(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """Each field whose version differs, with both."""
    return [
        f"{name} {_short(before.get(name))} -> {_short(version)}"
        for name, version in now.items()
        if before.get(name) != version
    ]


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
