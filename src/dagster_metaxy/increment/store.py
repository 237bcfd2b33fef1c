"""Reading and writing features so that nothing is lost or doubled.

The traps that this module closes are Metaxy 0.1.11's and delta-rs's; each has a test in
`tests/increment/test_store.py`.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import islice
from operator import and_
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.columns import UNCHECKED
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.outcome import UpdateError

if TYPE_CHECKING:
    import metaxy as mx
    import narwhals as nw
    import polars as pl

PROVENANCE = "metaxy_provenance"
PROVENANCE_BY_FIELD = "metaxy_provenance_by_field"

SMALL_FILES = 100
"""Delta tables of more files than this are compacted after a run."""

IDS_PER_FILTER = 5_000


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
    from metaxy.metadata_store.exceptions import FeatureNotFoundError

    try:
        frame = store.read(key, **options).collect().to_native()
    except FeatureNotFoundError:
        return None
    return frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)


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


def append(store: mx.MetadataStore, key: str, rows: pl.DataFrame) -> None:
    """Write rows of a feature in one commit.

    The first write of a Delta table by several processes at once fails in all but one of them, as
    does now and then a commit under contention; nothing of it is in the store then, so it is
    tried again.
    """
    _retrying(lambda: store.write(key, rows))


def _retrying(commit: Callable[[], None]) -> None:
    """Commit, again where another writer was faster; delta-rs says so, others say `already exists`."""
    attempts = 6
    for attempt in range(attempts):
        try:
            commit()
            return
        except Exception as error:
            lost_race = type(error).__name__ == "CommitFailedError" or "already exists" in str(
                error
            )
            if not lost_race or attempt == attempts - 1:
                raise
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)


def check_table(store: mx.MetadataStore, feature: Feature, *, fills: bool = False) -> None:
    """Refuse to work on a table whose rows are of other columns than the feature declares.

    Stores keep one type per column for all versions of a feature, and some cast silently what is
    written to what is there.

    Args:
        store: An open store.
        feature: The feature.
        fills: Whether the coming update fills columns that were declared since.

    Raises:
        UpdateError: With the column, what is stored, what is declared, and how to mend it.
    """
    import narwhals as nw
    import polars as pl

    key = feature.key
    if not store.has_feature(key):
        return
    # The whole history: a look at the newest rows already needs the id columns.
    rows = store.read(
        key, with_feature_history=True, with_sample_history=True, include_soft_deleted=True
    )
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
    lacking = [n for n, c in feature.columns.items() if n not in stored and not c.nullable]
    if lacking and not fills:
        count = store.read(key).select(nw.len()).collect().item(0, 0)
        if count:
            raise UpdateError(
                f"{key}: column {lacking[0]!r} was declared after {count} samples had been computed"
                " without it. Give a field a new code_version, and they are computed again; or make"
                " the column nullable."
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
    older: bool = False,
) -> None:
    """Delete the rows whose `columns` have one of the given values.

    Softly, they are marked as deleted and stay in the history; hard, they are removed.

    Args:
        store: A store that is open for writing.
        key: The feature key.
        columns: The columns that name what goes.
        ids: Their values.
        hard: Whether rows are removed, those of older feature versions, too.
        older: Whether samples go of which there are only rows of older feature versions.
    """
    for condition in _any_of(columns, ids):
        # Metaxy marks the newest row of a sample: of this version, or of any.
        for history in (False, True) if older and not hard else (hard,):
            _retrying(
                partial(store.delete, key, condition, soft=not hard, with_feature_history=history)
            )


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


def _any_of(columns: Sequence[str], ids: Collection[tuple[Any, ...]]) -> Iterator[nw.Expr]:
    import narwhals as nw
    import polars as pl

    remaining = iter([values for values in ids if None not in values])
    while batch := list(islice(remaining, IDS_PER_FILTER)):
        if len(columns) == 1:
            yield nw.col(columns[0]).is_in([value for (value,) in batch])
        else:
            # One flat condition: a disjunction of thousands of terms overflows engines' stacks.
            name = nw.concat_str([nw.col(c).cast(nw.String) for c in columns], separator="\x1f")
            # The values as an engine writes them, not as Python does: dates and booleans differ.
            frame = pl.DataFrame(batch, schema=list(columns), orient="row")
            yield name.is_in(nw.from_native(frame).select(name.alias("name"))["name"].to_list())
    for values in ids:
        if None in values:  # equal to nothing, itself included
            conditions = (
                nw.col(c).is_null() if value is None else nw.col(c) == value
                for c, value in zip(columns, values, strict=True)
            )
            yield reduce(and_, conditions)


def stranded(
    store: mx.MetadataStore,
    upstream: str,
    columns: Sequence[str],
    rename: Mapping[str, str] | None = None,
) -> set[tuple[Any, ...]]:
    """Ids of upstream samples of which the newest row is of an older feature version.

    After a code version is bumped, and until the upstream has run again, Metaxy does not see
    these rows and calls everything downstream of them orphaned. It is not. A sample that was
    deleted since, or written anew, even if with fewer children, is not stranded.
    """
    import metaxy as mx
    import polars as pl

    if not has_older_rows(store, upstream):
        return set()
    ids = mx.get_feature_by_key(upstream).spec.id_columns
    rename = rename or {}
    options: dict[str, Any] = {}
    if set(columns) <= {rename.get(c, c) for c in ids}:  # groups may be named by other columns
        system = ("metaxy_deleted_at", "metaxy_updated_at", "metaxy_feature_version")
        options["columns"] = [*ids, *system]
    rows = read(store, upstream, with_feature_history=True, include_soft_deleted=True, **options)
    if rows is None:
        return set()
    rows = rows.rename({old: new for old, new in rename.items() if old in rows.columns})
    if not set(columns) <= set(rows.columns):
        return set()
    version = mx.current_graph().get_feature_version(upstream)
    newest = rows.sort(pl.coalesce("metaxy_deleted_at", "metaxy_updated_at")).unique(
        columns, keep="last"
    )
    left = newest.filter(
        pl.col("metaxy_deleted_at").is_null() & (pl.col("metaxy_feature_version") != version)
    )
    return set(left.select(columns).rows())


def has_older_rows(store: mx.MetadataStore, key: str) -> bool:
    """Whether there are rows of another feature version than the one declared; reads one column."""
    import metaxy as mx
    import narwhals as nw
    from metaxy.metadata_store.exceptions import FeatureNotFoundError

    try:
        rows = store.read(
            key, with_feature_history=True, with_sample_history=True, include_soft_deleted=True
        )
    except FeatureNotFoundError:
        return False
    older = nw.col("metaxy_feature_version") != mx.current_graph().get_feature_version(key)
    return bool(rows.filter(older).select(nw.len()).collect().item(0, 0))


def compact(store: mx.MetadataStore, key: str) -> None:
    """Merge the small files that frequent appends leave in a Delta table, if there are many.

    Other stores look after themselves.
    """
    if type(store).__name__ != "DeltaMetadataStore" or not store.has_feature(key):
        return
    import deltalake
    from deltalake.exceptions import DeltaError

    table = deltalake.DeltaTable(
        store.get_store_info(key)["uri"],
        storage_options=getattr(store, "storage_options", None) or None,
    )
    if len(table.file_uris()) > SMALL_FILES:
        # Where another writer was faster, the next run compacts.
        with contextlib.suppress(DeltaError):
            table.optimize.compact()
