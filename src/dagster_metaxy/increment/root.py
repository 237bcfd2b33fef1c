"""Bringing a root feature up to date: its compute lists the samples there are, with their versions."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import UNCHECKED, ColumnError, RowShapeError, check_row
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute, ComputeContext, Runtime
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import FailedSample, Outcome, sample_name
from dagster_metaxy.increment.plan import Plan, unforeseen
from dagster_metaxy.increment.selection import Ids, Scope, Selection
from dagster_metaxy.increment.update import ComputeError

if TYPE_CHECKING:
    from pathlib import Path

    import metaxy as mx
    import polars as pl

Row = Mapping[str, Any]

# Columns beside those of the feature: none of its own has such a name.
_PARTITION = "\x1fpartition"
_BEFORE = "\x1fbefore"


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

    foresees = False

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
        return unforeseen(self.feature, Ledger(store, self.feature), note)

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
        # Read before the compute lists: what another run writes meanwhile is not gone.
        with stores.opened(store, "w"):
            known = self._known(store, scope)
        listed, kept = self._listed(scope, runtime, outcome)
        rows = _covered(listed, scope)
        with stores.opened(store, "w"):
            stores.check_table(store, self.feature, fills=True)
            changed = self._changed(store, rows, known, outcome)
            if changed.height:
                stores.append(store, self.feature.key, changed.drop(_PARTITION))
                outcome.written = changed.height
            gone = self._gone(known, listed, kept)
            if gone and listed.is_empty() and not kept:
                # Far more often a source that is away than the end of all samples.
                outcome.notes.append(
                    f"the compute returned no sample, but the store has {len(gone)}: they are kept."
                    " Delete them with Metaxy if they are really gone."
                )
            elif gone:
                since = {ids: written_at for ids, (_, written_at) in gone.items()}
                for ids in delete_gone(store, self.feature, since, hard=self.hard_delete):
                    outcome.count("orphaned", gone[ids][0])
            stores.compact(store, self.feature.key)
            self._remember(store, scope, outcome)
        outcome.settle(set(rows[_PARTITION]))
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

    def _listed(
        self, scope: Scope, runtime: Runtime, outcome: Outcome
    ) -> tuple[pl.DataFrame, set[Ids]]:
        """The samples that the compute gives, as the store takes them and with their partitions; and
        the ids of others, which are there, but cannot be written."""
        import polars as pl

        returned = self.compute(None, runtime, ComputeContext(runtime, _no_artifacts))
        kept: set[Ids] = set()
        frame = self._checked_frame(returned) if isinstance(returned, pl.DataFrame) else None
        if frame is None:
            rows = self._checked_rows(self._rows(returned), scope, runtime, outcome, kept)
            frame = stores.typed(self.feature, rows)
        keys = pl.Series(_PARTITION, _partitions(frame, scope), dtype=pl.String)
        return frame.with_columns(keys), kept

    def _checked_rows(
        self,
        returned: Iterable[Row],
        scope: Scope,
        runtime: Runtime,
        outcome: Outcome,
        kept: set[Ids],
    ) -> list[Row]:
        """The rows that can be written; the ids of others are added to `kept`."""
        rows: dict[Ids, Row] = {}
        for given in returned:
            named = self._named(given)
            ids = tuple(named.values())
            try:
                row = self._checked(given)
                if rows.get(ids, row) != row:
                    raise ColumnError("the compute returned two rows that differ for this sample")
            except RowShapeError as error:
                raise ComputeError(
                    f"{self.feature.key}, sample {sample_name(named)}: {error}"
                ) from error
            except ColumnError as error:
                known = {c: self._value(c, given.get(c)) for c in scope.columns}
                partition = scope.key({**known, **rows.pop(ids, {})})
                kept.add(ids)
                if scope.covers(partition):
                    failure = FailedSample(named, type(error).__name__, str(error))
                    outcome.fail(failure, partition)
                    runtime.log.warning(f"{self.feature.key}: {failure}")
                continue
            if ids not in kept:
                rows[ids] = row
        return list(rows.values())

    def _rows(self, returned: Any) -> Iterator[Row]:
        import polars as pl

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

    def _checked_frame(self, returned: pl.DataFrame) -> pl.DataFrame | None:
        """A frame as the store takes it, with the versions of its fields; None where anything in it
        has to be looked at row by row, since it is wrong or of another type."""
        import polars as pl

        columns = self.feature.columns
        ids = self.feature.id_columns
        fields = {str(f["key"]): stores.field_column(str(f["key"])) for f in self.feature.fields}
        extra = {stores.PROVENANCE_BY_FIELD, *self.version_columns.values()}
        if set(returned.columns) - set(columns) - extra or not set(ids) <= set(returned.columns):
            return None
        frame = {}
        for name, column in columns.items():
            if name not in returned.columns:
                values = pl.Series(name, [None] * returned.height, dtype=column.dtype)
            else:
                values = returned[name]
            if values.dtype != column.dtype or column.type.startswith("list["):
                return None
            if values.null_count() and (not column.nullable or name in ids):
                return None
            frame[name] = values
        versions = returned
        sources = {key: self.version_columns.get(key, "") for key in fields}
        if not self.version_columns:
            given = returned.get_column(stores.PROVENANCE_BY_FIELD, default=None)
            if given is None or not isinstance(given.dtype, pl.Struct) or given.null_count():
                return None
            versions = given.struct.unnest()
            sources = {key: key for key in fields}
            if set(versions.columns) != set(fields):
                return None
        found = {}
        for key, source in sources.items():
            values = versions.get_column(source, default=None)
            if values is None or values.null_count():
                return None
            if values.dtype != pl.String:
                values = pl.Series([_text(v) for v in values], dtype=pl.String)
            found[fields[key]] = values
        checked = pl.DataFrame(frame)
        if checked.select(ids).is_duplicated().any():
            return None
        by_field = pl.DataFrame(found).to_struct(stores.PROVENANCE_BY_FIELD)
        return checked.with_columns(by_field)

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

    def _known(self, store: mx.MetadataStore, scope: Scope) -> pl.DataFrame:
        """The samples in the store, of whatever feature version: their ids, partitions, and when
        their rows were written."""
        import polars as pl

        ids = self.feature.id_columns
        history = stores.read(store, self.feature.key, with_feature_history=True)
        if history is None or not set(ids) <= set(history.columns):
            return pl.DataFrame(schema=[*ids, _PARTITION, stores.UPDATED_AT])
        keys = pl.Series(_PARTITION, _partitions(history, scope), dtype=pl.String)
        known = history.select(*ids, keys, stores.UPDATED_AT)
        return _covered(known, scope)

    def _gone(
        self, known: pl.DataFrame, listed: pl.DataFrame, kept: Collection[Ids]
    ) -> dict[Ids, tuple[str | None, datetime.datetime]]:
        """Known samples that are not listed: their partitions, and when their rows were written."""
        ids = list(self.feature.id_columns)
        if listed.height and known.height:
            names = listed.select(ids)
            known = known.cast(dict(names.schema)).join(names, on=ids, how="anti")  # type: ignore[arg-type]
        found = {tuple(row[: len(ids)]): (row[-2], row[-1]) for row in known.rows()}
        return {sample: what for sample, what in found.items() if sample not in kept}

    def _changed(
        self, store: mx.MetadataStore, rows: pl.DataFrame, known: pl.DataFrame, outcome: Outcome
    ) -> pl.DataFrame:
        """Of the rows that the compute gives, those that the store does not have like this."""
        import polars as pl

        if rows.is_empty():
            return rows
        ids = list(self.feature.id_columns)
        types: Any = {name: rows.schema[name] for name in ids}
        increment = store.resolve_update(
            self.feature.key, samples=rows.drop(_PARTITION)
        ).to_polars()
        new = increment.new.select(ids).cast(types)
        stale = increment.stale.select(ids).cast(types)
        if known.height:
            # Those of an older feature version are known, though Metaxy calls them new.
            older = new.join(known.cast(types), on=ids, how="semi")
            new, stale = new.join(older, on=ids, how="anti"), pl.concat([stale, older])
        for what, part in (("new", new), ("stale", stale)):
            for partition in rows.join(part, on=ids, how="semi")[_PARTITION]:
                outcome.count(what, partition)
        changed = pl.concat([new, stale])
        stored = stores.read(store, self.feature.key)
        if stored is not None and stored.height:
            compared = [
                name
                for name, column in self.feature.columns.items()
                if column.type != UNCHECKED and name not in ids
            ]
            lacking = [
                pl.lit(None, dtype=rows.schema[n]).alias(n)
                for n in compared
                if n not in stored.columns
            ]
            before = stored.with_columns(lacking).select(*ids, *compared)
            before = before.cast({**types, **{n: rows.schema[n] for n in compared}})
            both = rows.join(changed, on=ids, how="anti").join(
                before, on=ids, how="inner", suffix=_BEFORE
            )
            differ = [pl.col(n).ne_missing(pl.col(n + _BEFORE)) for n in compared]
            refreshed = both.filter(pl.any_horizontal(pl.lit(False), *differ)).select(ids)
            if refreshed.height:
                outcome.notes.append(
                    f"{counted(refreshed.height, 'sample has', 'samples have')} other columns under the same version"
                )
            changed = pl.concat([changed, refreshed])
        return rows.join(changed, on=ids, how="semi")


def _partitions(frame: pl.DataFrame, scope: Scope) -> list[str | None]:
    """The partition keys of samples, row by row."""
    if scope.key_of is None:
        return [None] * frame.height
    # Rows from before the columns were declared do not have them.
    none = dict.fromkeys(scope.columns)
    there = frame.select(name for name in scope.columns if name in frame.columns)
    if there.width == 0:
        return [scope.key(none)] * frame.height
    return [scope.key({**none, **row}) for row in there.iter_rows(named=True)]


def _covered(frame: pl.DataFrame, scope: Scope) -> pl.DataFrame:
    """The samples that a run is about."""
    if scope.keys is None:
        return frame
    return frame.filter(frame[_PARTITION].is_in(list(scope.keys)))


def delete_gone(
    store: mx.MetadataStore,
    feature: Feature,
    gone: Mapping[Ids, datetime.datetime],
    *,
    hard: bool = False,
) -> list[Ids]:
    """Delete samples of a root feature that its source has no more; gives those that were deleted.

    One that another run has written since is there again, and stays.

    Args:
        store: A store that is open for writing.
        feature: The root feature.
        gone: Their ids, and when the rows were written that were known before the source was listed.
        hard: Whether rows are removed, or marked as deleted.

    Raises:
        StoreError: They cannot be deleted.
    """
    ids = feature.id_columns
    rows = stores.rows_of(store, feature.key, ids, gone, with_feature_history=True)
    found = {tuple(row[c] for c in ids): row[stores.UPDATED_AT] for row in rows}
    going = [sample for sample, written_at in gone.items() if found.get(sample) == written_at]
    stores.delete(store, feature.key, ids, going, hard=hard, older="deleted")
    return going


def _no_artifacts() -> Path:
    raise ComputeError("a root feature has no artifacts: it lists what is there already")


def _text(version: Any) -> str:
    """A version as Metaxy keeps it."""
    if isinstance(version, bytes):
        return version.hex()
    if isinstance(version, datetime.date):
        return version.isoformat()
    return str(version)
