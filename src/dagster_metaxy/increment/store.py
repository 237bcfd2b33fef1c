"""Reading and writing features so that nothing is lost or doubled.

The traps that this module closes are those of Metaxy 0.1.11, delta-rs and LanceDB; each has a test
in `tests/increment/test_store.py`, or in `tests/faults` where it takes several processes.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import islice
from operator import and_, or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dagster_metaxy.declare.columns import UNCHECKED
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment.outcome import UpdateError

if TYPE_CHECKING:
    import metaxy as mx
    import narwhals as nw
    import polars as pl

PROVENANCE = "metaxy_provenance"
PROVENANCE_BY_FIELD = "metaxy_provenance_by_field"
UPDATED_AT = "metaxy_updated_at"

LEDGER = "metaxy_ledger"
"""The last part of the key of a feature's ledger."""

SMALL_FILES = 100
"""Tables of more small files than this are compacted, in a run and after it."""

IDS_PER_FILTER = 5_000
IDS_PER_COMPARISON = 100

HISTORY: Mapping[str, Any] = {
    "with_feature_history": True,
    "with_sample_history": True,
    "include_soft_deleted": True,
}
"""Options of `read`: every row that was ever written and not removed."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_system(column: str) -> bool:
    """Whether a column is Metaxy's own."""
    return column.startswith("metaxy_")


def read(store: mx.MetadataStore, key: str, **options: Any) -> pl.DataFrame | None:
    """The live rows of a feature as polars has them, or None where it was never written.

    Args:
        store: An open store.
        key: The feature key.
        options: As for `MetadataStore.read`.
    """
    import polars as pl

    rows = scan(store, key, **options)
    if rows is None:
        return None
    frame = rows.collect().to_native()
    return frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)


def scan(store: mx.MetadataStore, key: str, **options: Any) -> nw.LazyFrame[Any] | None:
    """The live rows of a feature, not read yet, or None where it was never written.

    Cheaper than to ask first whether it was: of Delta, that opens the table once more.

    Args:
        store: An open store.
        key: The feature key.
        options: As for `MetadataStore.read`.
    """
    from metaxy.metadata_store.exceptions import FeatureNotFoundError

    try:
        return store.read(key, **options)  # type: ignore[return-value]
    except FeatureNotFoundError:
        return None


def field_column(field: str) -> str:
    """The name that a field has among the versions of a row."""
    return field.replace("/", "_")


def typed(feature: Feature, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as the store takes them, with their provenance; other columns are left out.

    Typed by the declaration, never by the values: a column that is all null in one chunk and typed
    in the next kills writers, and Delta refuses it.
    """
    import polars as pl

    fields = [field_column(field["key"]) for field in feature.fields]
    schema: dict[str, Any] = {
        **{name: column.dtype for name, column in feature.columns.items()},
        PROVENANCE_BY_FIELD: pl.Struct({key: pl.String() for key in fields}),
    }
    if all(PROVENANCE in row for row in rows):  # of a root feature, Metaxy makes it
        schema[PROVENANCE] = pl.String()
    kept = [{name: row[name] for name in schema} for row in rows]
    frame = pl.DataFrame(kept, schema=schema, orient="row")
    # Where only values tell the type, nulls tell none: the store fills them in.
    return frame.drop(name for name, dtype in frame.schema.items() if dtype == pl.Null())


class StoreError(UpdateError):
    """A store, or the disk that artifacts lie on, cannot be written or opened."""

    def of_run(self, kept: int, lost: int) -> StoreError:
        """The same, with what has become of the samples that a run computed.

        Args:
            kept: How many are in the store.
            lost: How many are not.
        """
        return type(self)(
            f"{str(self).rstrip('.')}. Of the samples that this run computed, {kept} are in the store"
            f" and {lost} are not: mend the cause and run again, which computes only what is missing."
        )


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that takes nothing more, whatever was to be written."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@contextlib.contextmanager
def opened(store: mx.MetadataStore, mode: Literal["r", "w"]) -> Iterator[mx.MetadataStore]:
    """Open a store; a DuckDB file that another process has just open is waited for, some seconds.

    Raises:
        StoreError: It cannot be opened; with what to do.
    """
    with contextlib.ExitStack() as stack:
        try:
            _retrying(lambda: stack.enter_context(store.open(mode)), seconds=10)
        except Exception as error:
            if isinstance(error, OSError) or _is_of_server(error):
                raise StoreError(
                    f"the store {store.display()} cannot be opened: {_line(error)}"
                ) from error
            if not _is_locked(error):
                raise
            raise StoreError(
                f"the store {store.name or store.display()} is open in another process, and DuckDB lets"
                " no other one in while that one writes. Start this again when the other run has"
                " ended, let runs wait for each other (the same `pool`, limited to 1, for all features"
                " in this store, and an executor in one process), or keep them in a store that takes"
                f" several writers, as Delta. DuckDB says: {_line(error)}"
            ) from error
        yield store


def append(store: mx.MetadataStore, key: str, rows: pl.DataFrame) -> None:
    """Write rows of a feature in one commit.

    The first write of a Delta table by several processes at once fails in all but one of them, as
    does now and then a commit under contention; nothing of it is in the store then, so it is
    tried again.

    Raises:
        StoreError: They cannot be written.
    """
    with _writing(store, key), _creating(store, key):
        _retrying(lambda: store.write(key, rows))


@contextlib.contextmanager
def _writing(store: mx.MetadataStore, key: str) -> Iterator[None]:
    """Say of what cannot be written, which table it is and why."""
    try:
        yield
    except Exception as error:
        place = store.get_store_info(key).get("uri") or store.display()
        raise StoreError(f"{key}: {place} cannot be written: {_line(error)}") from error


@contextlib.contextmanager
def _creating(store: mx.MetadataStore, key: str) -> Iterator[None]:
    """Let one process at a time create a LanceDB table.

    Of two that do, the second silently overwrites what the first one wrote. A lock that goes with
    the process is there on local disks only.
    """
    uri = getattr(store, "uri", "")
    if not _is_lance(store) or "://" in uri or store.has_feature(key):
        yield
        return
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (Path(uri) / ".creating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_RACES = (
    "already exists",  # of a table that another process was first to create
    # LanceDB's
    "commit conflict",
    "incompatible transaction",
    "too much write contention",
)


def _lost_race(error: Exception) -> bool:
    """Whether another writer was faster, and trying again helps."""
    if type(error).__name__ == "CommitFailedError":
        # Of delta-rs: of races, but also of disks that cannot be written.
        return not re.search(r"os error (?!17\b)\d+|denied", str(error))
    return any(race in str(error).lower() for race in _RACES) or _is_locked(error)


def _is_locked(error: Exception) -> bool:
    """Whether another process has a DuckDB file open."""
    return "Could not set lock on file" in str(error)


def _is_of_server(error: Exception) -> bool:
    """Whether a server of PostgreSQL refuses, or cannot be reached."""
    kind = type(error)
    return kind.__module__.startswith("psycopg") and kind.__name__ == "OperationalError"


def _retrying(commit: Callable[[], object], seconds: float = 60) -> None:
    """Commit, again where another writer was faster, for so many seconds."""
    ends = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            commit()
            return
        except Exception as error:
            if not _lost_race(error) or time.monotonic() > ends:
                raise
            time.sleep(random.uniform(0.5, 1.5) * pause)
            pause = min(2 * pause, 2.0)


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_table(store: mx.MetadataStore, feature: Feature, *, fills: bool = False) -> None:
    """Refuse to work on a table whose rows are of other columns than the feature declares.

    Stores keep one type per column for all versions of a feature, and some cast silently what is
    written to what is there.

    Args:
        store: An open store.
        feature: The feature.
        fills: Whether the coming update fills columns that were declared since.

    Raises:
        UpdateError: With the column, what is stored, what is declared, and how to mend it; or with
            a name that the store cannot take.
    """
    import narwhals as nw
    import polars as pl

    key = feature.key
    _check_names(store, feature)
    # The whole history: a look at the newest rows already needs the id columns.
    rows = scan(store, key, allow_fallback=False, **HISTORY)
    if rows is None:
        return
    stored = rows.collect_schema()
    table = store.get_store_info(key).get("uri") or f"of {key!r} in the store"
    for name, column in feature.columns.items():
        if name in stored:
            if column.type == UNCHECKED:
                continue
            declared = nw.from_native(pl.DataFrame(schema={name: column.dtype})).schema[name]
            if _kind(stored[name]) != _kind(declared):
                raise UpdateError(
                    f"{key}: column {name!r} is stored as {stored[name]}, but declared as"
                    f" {column.type}; a table has one type per column. Give the column another name,"
                    f" or remove the table {table}: its samples are then computed again."
                )
        elif name in feature.id_columns:
            raise UpdateError(
                f"{key}: samples are named by {', '.join(feature.id_columns)}, but the stored rows"
                f" have no column {name!r}. Give the feature another key, or remove the table"
                f" {table}: its samples are then computed again."
            )
    new = [name for name in feature.columns if name not in stored]
    if new and not _is_delta(store):
        raise UpdateError(
            f"{key}: column {new[0]!r} was declared after the table {table} had been made, and only"
            " Delta adds columns by itself. Add it to the table, or remove the table: its samples"
            " are then computed again."
        )
    lacking = [name for name in new if not feature.columns[name].nullable]
    if lacking and not fills:
        count = store.read(key).select(nw.len()).collect().item(0, 0)
        if count:
            raise UpdateError(
                f"{key}: column {lacking[0]!r} was declared after"
                f" {counted(count, 'sample', 'samples')} had been computed"
                " without it. Give a field a new code_version, and they are computed again; or make"
                " the column nullable."
            )


def _check_names(store: mx.MetadataStore, feature: Feature) -> None:
    """Refuse names that PostgreSQL would cut, to find no table by the one that was asked for."""
    import metaxy as mx

    if type(store).__name__ != "PostgreSQLMetadataStore":
        return
    key = mx.FeatureKey(f"{feature.key}/{LEDGER}")  # the longer one of the two tables
    table: str = store.get_table_name(key)  # type: ignore[attr-defined]
    for name in (table, *feature.columns):
        if (excess := len(name.encode()) - 63) > 0:
            what = "key" if name == table else f"column {name!r}"
            raise UpdateError(
                f"{feature.key}: this {what} is too long for PostgreSQL, which takes names of 63"
                f" bytes, and would have to take {name!r}. Shorten it by {excess}."
            )


def _kind(dtype: nw.dtypes.DType) -> str:
    """What sort of values a column holds; how wide they are stored is the store's affair."""
    import narwhals as nw

    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    if isinstance(dtype, nw.Datetime):
        return "datetime"
    if isinstance(dtype, nw.List | nw.Array):
        inner = dtype.inner
        return f"list of {_kind(inner() if isinstance(inner, type) else inner)}"
    return type(dtype).__name__


def delete(
    store: mx.MetadataStore,
    key: str,
    columns: Sequence[str],
    ids: Collection[tuple[Any, ...]],
    *,
    hard: bool = False,
    older: Literal["kept", "unseen", "deleted"] = "kept",
) -> None:
    """Delete the rows whose `columns` have one of the given values.

    Softly, they are marked as deleted and stay in the history; hard, they are removed.

    Args:
        store: A store that is open for writing.
        key: The feature key.
        columns: The columns that name what goes.
        ids: Their values.
        hard: Whether rows are removed, those of older feature versions, too.
        older: What becomes of rows of older feature versions, if not hard: `deleted`, they are when
            code is reverted, too; `unseen`, they come back then, but until then the newest that is
            known of each sample is that it is deleted.

    Raises:
        StoreError: They cannot be deleted.
    """
    # LanceDB removes by comparisons only: it cannot read how the rest is put.
    for condition in _any_of(columns, ids, compare=hard and _is_lance(store)):
        if older == "deleted" and not hard:
            deletions = [partial(_mark_deleted, store, key, condition)]
        else:
            # Metaxy marks the newest row of a sample: of this version, or of any.
            deletions = [
                partial(store.delete, key, condition, soft=not hard, with_feature_history=history)
                for history in ((False, True) if older == "unseen" and not hard else (hard,))
            ]
        for deletion in deletions:
            with _writing(store, key):
                _retrying(deletion)


def _mark_deleted(store: mx.MetadataStore, key: str, condition: nw.Expr) -> None:
    """Mark samples as deleted in each feature version, in one commit."""
    import metaxy as mx
    import narwhals as nw

    rows = store.read(key, filters=[condition], with_feature_history=True, with_sample_history=True)
    ids = mx.get_feature_by_key(key).spec.id_columns
    marked = rows.unique([*ids, "metaxy_feature_version"], keep="any").with_columns(
        nw.lit(datetime.datetime.now(datetime.timezone.utc)).alias("metaxy_deleted_at")
    )
    store.write(key, marked.to_native(), preserve_feature_version=True)


def rows_of(
    store: mx.MetadataStore,
    key: str,
    columns: Sequence[str],
    ids: Collection[tuple[Any, ...]],
    **options: Any,
) -> Iterator[Mapping[str, Any]]:
    """The live rows whose `columns` have one of the given values; options as for `read`."""
    for condition in _any_of(columns, ids):
        rows = read(store, key, filters=[condition], **options)
        if rows is not None:
            yield from rows.iter_rows(named=True)


def _any_of(
    columns: Sequence[str], ids: Collection[tuple[Any, ...]], *, compare: bool = False
) -> Iterator[nw.Expr]:
    """Conditions that the rows of the given ids fulfil, each of so many ids as engines take.

    Args:
        columns: The columns that the ids are of.
        ids: The ids.
        compare: Whether to say it by comparisons alone.
    """
    import narwhals as nw
    import polars as pl

    # Every engine writes times in its own way.
    compare |= len(columns) > 1 and any(
        isinstance(value, datetime.datetime) for values in ids for value in values
    )
    listed = iter([] if compare else [values for values in ids if None not in values])
    while batch := list(islice(listed, IDS_PER_FILTER)):
        if len(columns) == 1:
            yield nw.col(columns[0]).is_in([value for (value,) in batch])
        else:
            # One flat condition: a disjunction of thousands of terms overflows engines' stacks.
            name = nw.concat_str([nw.col(c).cast(nw.String) for c in columns], separator="\x1f")
            # The values as an engine writes them, not as Python does: dates and booleans differ.
            frame = pl.DataFrame(batch, schema=list(columns), orient="row")
            yield name.is_in(nw.from_native(frame).select(name.alias("name"))["name"].to_list())
    compared = iter([values for values in ids if compare or None in values])
    while batch := list(islice(compared, IDS_PER_COMPARISON)):
        yield reduce(or_, [_equal(columns, values) for values in batch])


def _equal(columns: Sequence[str], values: tuple[Any, ...]) -> nw.Expr:
    """The condition that columns have some values; null is equal to nothing, itself included."""
    import narwhals as nw

    conditions = (
        nw.col(c).is_null() if value is None else nw.col(c) == value
        for c, value in zip(columns, values, strict=True)
    )
    return reduce(and_, conditions)


def stranded(
    store: mx.MetadataStore, upstream: str, parents: Sequence[str], columns: Sequence[str] = ()
) -> pl.DataFrame | None:
    """The rows of upstream samples of which the newest is of an older feature version; None where
    there are none.

    After a code version is bumped, and until the upstream has run again, Metaxy does not see
    these rows and calls everything downstream of them orphaned. It is not. A sample that was
    deleted since, or written anew, even if with fewer children, is not stranded.

    Args:
        store: An open store.
        upstream: Its feature key.
        parents: The columns that name what one call of its compute writes.
        columns: Further columns to give; those that the rows do not have are left out.
    """
    import metaxy as mx
    import polars as pl

    if not has_older_rows(store, upstream):
        return None
    history: dict[str, Any] = {"with_feature_history": True, "include_soft_deleted": True}
    names = store.read(upstream, **history).collect_schema().names()
    wanted = list(dict.fromkeys((*parents, *(c for c in columns if c in names))))
    system = ("metaxy_deleted_at", "metaxy_updated_at", "metaxy_feature_version")
    ids = mx.get_feature_by_key(upstream).spec.id_columns  # by which Metaxy finds the newest
    named = list(dict.fromkeys((*ids, *wanted, *system)))
    rows = read(store, upstream, columns=named, **history)
    if rows is None:
        return None
    version = mx.current_graph().get_feature_version(upstream)
    rows = rows.sort(pl.coalesce("metaxy_deleted_at", "metaxy_updated_at"))
    live, current = (
        pl.col("metaxy_deleted_at").is_null(),
        pl.col("metaxy_feature_version") == version,
    )
    left = rows.unique(parents, keep="last").filter(live & ~current)
    # Of code that was reverted, Metaxy sees the rows.
    seen = rows.filter(current).unique(parents, keep="last").filter(live)
    left = left.join(seen, on=parents, how="anti", nulls_equal=True)
    found = rows.filter(live & ~current).join(left, on=parents, how="semi", nulls_equal=True)
    return None if found.is_empty() else found.select(wanted)


def has_older_rows(store: mx.MetadataStore, key: str) -> bool:
    """Whether there are rows of another feature version than the one declared; reads one column."""
    import metaxy as mx
    import narwhals as nw

    rows = scan(store, key, **HISTORY)
    if rows is None:
        return False
    older = nw.col("metaxy_feature_version") != mx.current_graph().get_feature_version(key)
    return bool(rows.filter(older).select(nw.len()).collect().item(0, 0))


def compact(store: mx.MetadataStore, key: str) -> None:
    """Merge the small files that frequent appends leave in a Delta or LanceDB table, if there are many.

    Files that were merged stay for a time, since others may be reading them: of LanceDB for a week,
    of Delta until somebody vacuums the table.
    """
    if not store.has_feature(key):
        return
    # Where another writer was faster, or the disk is full, a later one compacts.
    if _is_lance(store):
        import metaxy as mx

        table = store.conn.open_table(mx.FeatureKey(key).table_name)  # type: ignore[attr-defined]
        if table.stats()["fragment_stats"]["num_small_fragments"] > SMALL_FILES:
            with contextlib.suppress(RuntimeError, OSError):
                table.optimize()
    elif _is_delta(store):
        import deltalake
        from deltalake.exceptions import DeltaError

        table = deltalake.DeltaTable(
            store.get_store_info(key)["uri"],
            storage_options=getattr(store, "storage_options", None) or None,
        )
        if len(table.file_uris()) > SMALL_FILES:
            with contextlib.suppress(DeltaError, OSError):
                table.optimize.compact()


def _is_lance(store: mx.MetadataStore) -> bool:
    return type(store).__name__ == "LanceDBMetadataStore"


def _is_delta(store: mx.MetadataStore) -> bool:
    return type(store).__name__ == "DeltaMetadataStore"
