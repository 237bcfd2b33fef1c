"""Bringing a root feature up to date: its compute lists the samples there are, with their versions."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dagster_metaxy.declare.columns import UNCHECKED, ColumnError, RowShapeError, check_row
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute, ComputeContext, Runtime
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import FailedSample, Outcome, sample_name
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.increment.selection import Ids, Scope, Selection
from dagster_metaxy.increment.update import ComputeError

if TYPE_CHECKING:
    from pathlib import Path

    import metaxy as mx

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Root:
    """A root feature, what lists its samples, and where their versions stand.

    Attributes:
        feature: What is listed.
        compute: Takes no sample and gives all there are: an iterable of mappings, or a frame.
        version_columns: The column that the version of each field is taken from. If empty, the
            rows have a `metaxy_provenance_by_field`: a mapping of all fields to versions.
        hard_delete: Whether rows of samples that are gone are removed from the store, not only
            marked as deleted.
    """

    feature: Feature
    compute: Compute
    version_columns: Mapping[str, str] = field(default_factory=dict)
    hard_delete: bool = False

    foresees: ClassVar[bool] = False

    def of(self, feature: Feature) -> Root:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    @property
    def resource_names(self) -> set[str]:
        """The Dagster resources that the compute asks for."""
        return self.compute.resource_names

    def plan(
        self,
        store: mx.MetadataStore,
        scope: Scope | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """What is known without calling the compute: the samples that failed last.

        What is new, stale or gone, only a run can tell.
        """
        note = "what is new, stale or gone, only its run can tell: the compute lists the samples"
        remembered = Ledger(store, self.feature).all()
        failed = [entry.failure for entry in remembered if entry.failure]
        return Plan(self.feature, refused=failed, notes=[note])

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Write the samples that are new or have other versions, and delete those that are gone.

        A sample whose other columns changed is written anew under its old version, which makes
        nothing downstream stale. One that cannot be written (a value of another type, no version,
        two rows that differ) is named in the outcome; what the store has of it stays.

        Args:
            store: The store, closed.
            scope: Which samples.
            runtime: What the run gives to the compute.

        Raises:
            ComputeError: The compute returns other columns than declared.
        """
        started = time.monotonic()
        outcome = Outcome()
        rows, kept = self._listed(scope, runtime, outcome)
        with stores.opened(store, "w"):
            stores.check_table(store, self.feature, fills=True)
            known = self._known(store, scope)
            changed = self._changed(store, rows, known, scope, outcome)
            if changed:
                stores.append(store, self.feature.key, stores.typed(self.feature, changed))
                outcome.written = len(changed)
            gone = {ids: key for ids, key in known.items() if not (ids in rows or ids in kept)}
            if gone and not rows and not kept:
                # Far more often a source that is away than the end of all samples.
                outcome.notes.append(
                    f"the compute returned no sample, but the store has {len(gone)}: they are kept."
                    " Delete them with Metaxy if they are really gone."
                )
            elif gone:
                for partition in gone.values():
                    outcome.count("orphaned", partition)
                ids = self.feature.id_columns
                stores.delete(
                    store, self.feature.key, ids, gone, hard=self.hard_delete, older="deleted"
                )
            stores.compact(store, self.feature.key)
            self._remember(store, scope, outcome)
        outcome.settle({scope.key(row) for row in rows.values()})
        outcome.seconds = time.monotonic() - started
        return outcome

    def _remember(self, store: mx.MetadataStore, scope: Scope, outcome: Outcome) -> None:
        """Keep the failures of this run, instead of those of the same partitions before."""
        ledger = Ledger(store, self.feature)
        now = {tuple(f.sample.values()): f for f in outcome.failed}
        before = {e.ids: e.failure for e in ledger.all() if e.failure}
        gone = [
            ids
            for ids, failure in before.items()
            if ids not in now and scope.covers(failure.partition)
        ]
        ledger.delete(gone)
        # One without an id cannot be named.
        ledger.write(Entry(i, "", failure=f) for i, f in now.items() if None not in i)
        elsewhere = [f for i, f in before.items() if i not in now and i not in gone]
        outcome.remaining = Plan(self.feature, refused=[*outcome.failed, *elsewhere])

    def _named(self, returned: Row) -> dict[str, Any]:
        """The ids of a returned row, as the store has them."""
        return {c: self._value(c, returned.get(c)) for c in self.feature.id_columns}

    def _value(self, column: str, value: Any) -> Any:
        """A value as the store has it; null where it does not fit the column."""
        try:
            return self.feature.columns[column].check(value)
        except ColumnError:
            return None

    def _ids(self, row: Row) -> Ids:
        return tuple(row.get(c) for c in self.feature.id_columns)

    def _listed(
        self, scope: Scope, runtime: Runtime, outcome: Outcome
    ) -> tuple[dict[Ids, Row], set[Ids]]:
        """The rows that the compute gives, and the ids of other samples that are there: they
        cannot be written, or belong to other partitions than the run's."""
        rows: dict[Ids, Row] = {}
        kept: set[Ids] = set()
        for returned in self._returned(runtime):
            named = self._named(returned)
            ids = tuple(named.values())
            try:
                row = self._checked(returned)
                if rows.get(ids, row) != row:
                    raise ColumnError("the compute returned two rows that differ for this sample")
            except RowShapeError as error:
                raise ComputeError(
                    f"{self.feature.key}, sample {sample_name(named)}: {error}"
                ) from error
            except ColumnError as error:
                known = {c: self._value(c, returned.get(c)) for c in scope.columns}
                partition = scope.key({**known, **rows.pop(ids, {})})
                kept.add(ids)
                if scope.covers(partition):
                    failure = FailedSample(named, type(error).__name__, str(error))
                    outcome.fail(failure, partition)
                    runtime.log.warning(f"{self.feature.key}: {failure}")
                continue
            if not scope.covers(scope.key(row)):
                kept.add(ids)
            elif ids not in kept:
                rows[ids] = row
        return rows, kept

    def _returned(self, runtime: Runtime) -> Iterable[Row]:
        import polars as pl

        returned = self.compute(None, runtime, ComputeContext(runtime, _no_artifacts))
        if isinstance(returned, pl.DataFrame):
            yield from returned.iter_rows(named=True)
            return
        if isinstance(returned, Mapping | str) or not isinstance(returned, Iterable):
            raise ComputeError(
                f"{self.feature.key}: the compute of a root feature returns all samples, as an"
                f" iterable of mappings or a pl.DataFrame, not {type(returned).__name__}"
            )
        for row in returned:
            if not isinstance(row, Mapping):
                raise ComputeError(
                    f"{self.feature.key}: the compute returned {type(row).__name__} among its"
                    " samples, not a mapping of columns to values"
                )
            yield row

    def _checked(self, returned: Row) -> Row:
        """A row as the store takes it, with the versions of its fields."""
        columns = self.feature.columns
        # What a version is taken from need not be kept.
        extra = {stores.PROVENANCE_BY_FIELD, *self.version_columns.values()} - set(columns)
        row = check_row(columns, {n: v for n, v in returned.items() if n not in extra})
        if missing := [c for c in self.feature.id_columns if row[c] is None]:
            raise ColumnError(f"the id column {missing[0]!r} is null")
        return {**row, stores.PROVENANCE_BY_FIELD: self._versions(returned)}

    def _versions(self, returned: Row) -> dict[str, str]:
        fields = [str(f["key"]) for f in self.feature.fields]
        if self.version_columns:
            for column in self.version_columns.values():
                if column not in returned:
                    raise RowShapeError(
                        f"the compute did not return the version column {column!r} (returned:"
                        f" {', '.join(returned)})"
                    )
            found = {name: returned[self.version_columns[name]] for name in fields}
        else:
            given = returned.get(stores.PROVENANCE_BY_FIELD)
            if not isinstance(given, Mapping):
                raise RowShapeError(
                    "the compute returned no version: name the column to take it from in"
                    f" `version_columns`, or return {stores.PROVENANCE_BY_FIELD}, a mapping of"
                    f" {', '.join(fields)} to versions"
                )
            if set(given) != set(fields):
                raise RowShapeError(
                    f"{stores.PROVENANCE_BY_FIELD} has {', '.join(map(str, given)) or 'nothing'};"
                    f" it needs {', '.join(fields)}"
                )
            found = {name: given[name] for name in fields}
        if null := [name for name, version in found.items() if version is None]:
            raise ColumnError(f"the version of the field {null[0]!r} is null")
        return {stores.field_column(n): _text(version) for n, version in found.items()}

    def _known(self, store: mx.MetadataStore, scope: Scope) -> dict[Ids, str | None]:
        """The partitions of the samples in the store, of whatever feature version, by ids."""
        history = stores.read(store, self.feature.key, with_feature_history=True)
        found = {}
        for row in () if history is None else history.iter_rows(named=True):
            # Rows from before the columns were declared do not have them.
            partition = scope.key({**dict.fromkeys(scope.columns), **row})
            if scope.covers(partition):
                found[self._ids(row)] = partition
        return found

    def _changed(
        self,
        store: mx.MetadataStore,
        rows: Mapping[Ids, Row],
        known: Collection[Ids],
        scope: Scope,
        outcome: Outcome,
    ) -> list[Row]:
        """Of the rows that the compute gives, those that the store does not have like this."""
        if not rows:
            return []
        frame = stores.typed(self.feature, list(rows.values()))
        increment = store.resolve_update(self.feature.key, samples=frame).to_polars()
        changed = set()
        for part in (increment.new, increment.stale):
            for ids in part.select(self.feature.id_columns).rows():
                changed.add(ids)
                # Those of an older feature version are known, though Metaxy calls them new.
                outcome.count("stale" if ids in known else "new", scope.key(rows[ids]))
        compared = [n for n, c in self.feature.columns.items() if c.type != UNCHECKED]
        stored = stores.read(store, self.feature.key)
        refreshed = {
            ids
            for row in (() if stored is None else stored.iter_rows(named=True))
            if (ids := self._ids(row)) in rows
            and ids not in changed
            and any(_differ(row.get(name), rows[ids][name]) for name in compared)
        }
        if refreshed:
            outcome.notes.append(
                f"{len(refreshed)} samples have other columns under the same version"
            )
        return [row for ids, row in rows.items() if ids in changed or ids in refreshed]


def _differ(a: Any, b: Any) -> bool:
    # Not a number differs from itself.
    return a != b and repr(a) != repr(b)


def _no_artifacts() -> Path:
    raise ComputeError("a root feature has no artifacts: it lists what is there already")


def _text(version: Any) -> str:
    """A version as Metaxy keeps it."""
    if isinstance(version, bytes):
        return version.hex()
    if isinstance(version, datetime.date):
        return version.isoformat()
    return str(version)
