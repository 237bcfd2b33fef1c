"""The metadata of an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment.outcome import Counts, FailedSample, Outcome
from dagster_metaxy.increment.plan import NEW, Plan
from dagster_metaxy.increment.store import is_system, opened, scan
from dagster_metaxy.report.previews import Preview
from dagster_metaxy.report.tables import metadata_table, rounded

if TYPE_CHECKING:
    import metaxy as mx
    import narwhals as nw
    import polars as pl

PREVIEW_ROWS = 5
NEVER_WRITTEN = "empty"
"""The data version of a feature that is not in the store."""

FAILED_SHOWN = 100
REASONS_SHOWN = 100
REASONS_APART = 10
"""So many samples at most are shown one by one, with why; of more, how many there are of a reason."""

PARTITIONS_SHOWN = 20
"""Of so many partitions, a run over all shows previews: each is an event that Dagster keeps."""
_ROWS_OF_PARTITION = 1_000

_VECTOR, _VALUES_SHOWN = 8, 4
"""A longer list is shown by its first values."""

_CREATED_AT = "metaxy_created_at"
_COUNT, _NUMBER = "metaxy_count", "metaxy_number_"


def count_metadata(counts: Counts) -> dict[str, Any]:
    """Counts of samples, as one writes them."""
    return {
        "new": counts.new,
        "stale": counts.stale,
        "orphaned": counts.orphaned,
        "failed": counts.failed,
        "quarantined": counts.quarantined,
    }


def failed_table(failed: Sequence[FailedSample]) -> dg.TableMetadataValue:
    """The failed samples with their errors, the first hundred of them."""
    columns = ["sample", "error", "message", "where", "attempts", "last"]
    rows = [
        [
            f.name,
            f.error,
            f.message,
            f.where,
            f.attempts,
            f"{f.since:%Y-%m-%d %H:%M} UTC" if f.since else "now",
        ]
        for f in failed[:FAILED_SHOWN]
    ]
    if any(f.partition for f in failed):
        columns.append("partition")
        rows = [[*row, f.partition or ""] for row, f in zip(rows, failed, strict=False)]
    return metadata_table(rows, columns)


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """What the materialization of a feature shows of its update."""
    metadata: dict[str, Any] = {
        **count_metadata(outcome.total),
        "rows written": outcome.written,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.costs.samples and outcome.seconds:
        metadata["samples per second"] = round(outcome.costs.samples / outcome.seconds, 3)
    if outcome.failed:
        metadata["failed samples"] = failed_table(outcome.failed)
    if outcome.quarantined:
        metadata["quarantined samples"] = failed_table(outcome.quarantined)
    if outcome.plan is not None and (why := _why(outcome.plan)) is not None:
        metadata["why"] = why
    if outcome.costs.costliest:
        total = outcome.costs.total
        metadata["compute seconds"] = round(total.seconds, 3)
        metadata["compute CPU seconds"] = round(total.cpu_seconds, 3)
        metadata["artifact bytes"] = total.bytes_written
        if outcome.artifacts:
            written = [(kind, *sizes) for kind, sizes in sorted(outcome.artifacts.items())]
            metadata["artifacts"] = metadata_table(written, ("content type", "files", "bytes"))
        metadata["costliest samples"] = metadata_table(
            [
                (name, round(cost.seconds, 3), round(cost.cpu_seconds, 3), cost.bytes_written)
                for name, cost in outcome.costs.costliest
            ],
            ("sample", "seconds", "CPU seconds", "bytes"),
        )
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes))
    return metadata


def _why(plan: Plan) -> dg.TableMetadataValue | None:
    """The samples with the reasons to compute them; of many, how many have which."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, why, detail in plan.rows():
        groups.setdefault((why, detail), []).append(name)
    if not groups.keys() - {(NEW, "")}:  # says nothing that the counts do not say
        return None
    if sum(map(len, groups.values())) <= REASONS_APART:
        rows = [(name, *reason) for reason, names in groups.items() for name in names]
        return metadata_table(rows, ("sample", "why", "detail"))
    most = sorted(groups.items(), key=lambda group: -len(group[1]))[:REASONS_SHOWN]
    return metadata_table(
        [
            (len(names), *reason, "; ".join(names[:3]) + ("; ..." if len(names) > 3 else ""))
            for reason, names in most
        ],
        ("samples", "why", "detail", "first samples"),
    )


def column_schema(feature: Feature) -> dg.TableSchema:
    """The declared columns of a feature, as Dagster shows them."""
    return dg.TableSchema(
        [
            dg.TableColumn(name, column.type, description=column.description)
            for name, column in feature.columns.items()
        ]
    )


def rows_metadata(
    store: mx.MetadataStore,
    feature: Feature,
    of_partitions: tuple[Sequence[str], Callable[[Mapping[str, Any]], bool]] | None = None,
    previews: Sequence[Preview] = (),
) -> tuple[dict[str, Any], str]:
    """What the store has of a feature, and its data version.

    Args:
        store: The store, closed.
        feature: The feature.
        of_partitions: For a run of some partitions: the columns that partitions are found by, and
            whether a row's values of them are in these.
        previews: What to show of the newest rows.

    Returns:
        The metadata, and a data version that changes when rows do.
    """
    import narwhals as nw
    import polars as pl

    with opened(store, "r"):
        if (everything := scan(store, feature.key)) is None:
            return {"dagster/row_count": 0}, NEVER_WRITTEN
        rows = everything
        metadata: dict[str, Any] = {}
        there = rows.collect_schema()
        if of_partitions is not None:
            columns, inside = list(dict.fromkeys(of_partitions[0])), of_partitions[1]
            numbers = _numbers(feature, there)
            groups = [group for group in _groups(rows, columns, numbers) if inside(group)]
            metadata.update(_of_groups(groups, numbers))
            # Enough of them for a preview.
            rows = _rows_of(rows, columns, groups[:PREVIEW_ROWS])
            previews = [preview.brief() for preview in previews if not preview.of_all]
        # Dagster's tables take no bytes.
        shown = [c for c in feature.columns or there if c in there and not is_system(c)]
        shown = [c for c in shown if there[c] != nw.Binary()]
        previews = [preview for preview in previews if set(preview.columns) <= set(there)]
        wanted = [
            (rows.select(shown), PREVIEW_ROWS),
            *((rows.select(_seen(preview, feature)), preview.most_rows) for preview in previews),
        ]
        if rows.implementation.is_polars():
            # At once: polars finds the newest rows of samples once for all.
            times, last, *samples = pl.collect_all(
                [
                    everything.select(_CREATED_AT).to_native(),
                    *(frame.tail(most).to_native() for frame, most in wanted),
                ]
            )
        else:  # SQL engines have no last rows, but newest
            newest = rows.sort(_CREATED_AT, descending=True)
            last, *samples = (
                newest.head(most).select(frame.collect_schema().names()).collect().to_polars()
                for frame, most in wanted
            )
            times = everything.select(_CREATED_AT).collect().to_polars()
        count, data_version = _count_and_version(times)
        metadata["dagster/row_count"] = count
        for preview, sample in zip(previews, samples, strict=True):
            sample = _with_upstream(store, feature, sample, preview)
            metadata.update(_shown(preview, sample, feature.id_columns))
        metadata["preview"] = _table(last, feature)
    return metadata, data_version


def partitions_metadata(
    store: mx.MetadataStore,
    feature: Feature,
    columns: Sequence[str],
    key_of: Callable[[Mapping[str, Any]], str | None],
    keys: Collection[str],
    previews: Sequence[Preview] = (),
) -> Mapping[str, dict[str, Any]]:
    """What the store has of each of some partitions: how many rows, the numbers of a single one, and,
    of the first partitions, previews.

    Args:
        store: The store, closed.
        feature: The feature.
        columns: The columns that partitions are found by.
        key_of: The key of the partition that a row is in, by its values of these.
        keys: The partitions.
        previews: What to show of them.
    """
    import narwhals as nw

    if not keys:
        return {}
    columns = list(dict.fromkeys(columns))
    with opened(store, "r"):
        if (rows := scan(store, feature.key)) is None:
            return {}
        there = rows.collect_schema()
        numbers = _numbers(feature, there)
        groups: dict[str, list[Mapping[str, Any]]] = {key: [] for key in keys}
        for group in _groups(rows, columns, numbers):
            if (key := key_of(group)) in groups:
                groups[key].append(group)
        metadata = {key: _of_groups(found, numbers) for key, found in groups.items()}
        few = [key for key in sorted(keys) if groups[key]][:PARTITIONS_SHOWN]
        rows = _rows_of(
            rows, columns, [group for key in few for group in groups[key][:PREVIEW_ROWS]]
        )
        order = (
            nw.col(feature.id_columns[0]).cum_count().over(*columns, order_by=feature.id_columns)
        )
        rows = rows.filter(order <= _ROWS_OF_PARTITION)
        for preview in (preview.brief() for preview in previews):
            if not few or preview.of_all or not set(preview.columns) <= set(there):
                continue
            seen = list(dict.fromkeys([*columns, *_seen(preview, feature)]))
            sample = rows.select(seen).collect().to_polars()
            sample = _with_upstream(store, feature, sample, preview)
            found = [key_of(row) for row in sample.select(columns).iter_rows(named=True)]
            for key in few:
                own = sample.filter([k == key for k in found])
                metadata[key].update(_shown(preview, own, feature.id_columns))
    return metadata


def _numbers(feature: Feature, there: Mapping[str, Any]) -> Sequence[str]:
    """The columns of a feature with numbers, but for those that name a sample."""
    return [
        name
        for name in feature.columns
        if name in there and name not in feature.id_columns and there[name].is_numeric()
    ]


def _groups(
    rows: nw.LazyFrame[Any], columns: Sequence[str], numbers: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """How many rows have each combination of values of some columns, and the numbers of one."""
    import narwhals as nw

    if not set(columns) <= set(rows.collect_schema().names()):  # declared since
        return []
    first = [nw.col(name).min().alias(f"{_NUMBER}{name}") for name in numbers]
    found = rows.group_by(columns).agg(nw.len().alias(_COUNT), *first).collect().to_polars()
    return found.to_dicts()


def _of_groups(groups: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> dict[str, Any]:
    """The number of rows in a partition, and, if there is one, its numbers, which Dagster plots."""
    count = sum(group[_COUNT] for group in groups)
    metadata: dict[str, Any] = {"dagster/partition_row_count": count}
    if count == 1:
        (group,) = groups
        for name in numbers:
            value = group[f"{_NUMBER}{name}"]
            if value is not None and math.isfinite(value):
                metadata[name] = value if isinstance(value, int) else _short(float(value))
    return metadata


def _short(value: float) -> float:
    """Six digits that count, or those before the point."""
    return float(f"{value:.6g}") if abs(value) < 1e6 else float(round(value))


def _rows_of(
    rows: nw.LazyFrame[Any], columns: Sequence[str], groups: Sequence[Mapping[str, Any]]
) -> nw.LazyFrame[Any]:
    """The rows with one of some combinations of values of some columns.

    Few, since a condition on many could be too long for an engine; each has a row at least.
    """
    import narwhals as nw

    if not groups:
        return rows.head(0)
    return rows.filter(
        reduce(
            or_,
            (
                reduce(and_, (nw.col(column) == group[column] for column in columns))
                for group in groups
            ),
        )
    )


def _seen(preview: Preview, feature: Feature) -> list[str]:
    """The columns that a preview is made from, with those that name a sample."""
    return list(dict.fromkeys([*feature.id_columns, *preview.columns]))


def _table(rows: pl.DataFrame, feature: Feature) -> dg.TableMetadataValue:
    """Rows as a table that is read easily: by their ids, numbers short, and long texts last."""
    import metaxy.ext.dagster as mxd
    import narwhals as nw
    import polars as pl

    rows = rows.sort([name for name in feature.id_columns if name in rows.columns])
    rows = rounded(
        rows.with_columns(
            pl.col(name).arr.to_list()
            for name, kind in rows.schema.items()
            if isinstance(kind, pl.Array)
        )
    )
    rows = rows.with_columns(
        pl.Series(name, [_first_values(v) for v in rows[name].to_list()], pl.String)
        for name, kind in rows.schema.items()
        if isinstance(kind, pl.List)
    )
    rows = rows.select(sorted(rows.columns, key=lambda name: name.endswith(("path", "url", "uri"))))
    schema = dg.TableSchema(
        [
            dg.TableColumn(name, column.type, description=column.description)
            if (column := feature.columns.get(name))
            else dg.TableColumn(name)
            for name in rows.columns
        ]
    )
    return mxd.build_table_preview_metadata(
        nw.from_native(rows.lazy()), schema, n_rows=PREVIEW_ROWS
    )


def _first_values(values: Sequence[Any] | None) -> str | None:
    if values is None:
        return None
    more = f", ... ({len(values)})" if len(values) > _VECTOR else ""
    first = values[:_VALUES_SHOWN] if more else values
    return f"[{', '.join(map(str, first))}{more}]"


def _with_upstream(
    store: mx.MetadataStore, feature: Feature, rows: pl.DataFrame, preview: Preview
) -> pl.DataFrame:
    """Rows with columns of the feature that they were computed from; none of those without."""
    import narwhals as nw

    if not preview.upstream_columns:
        return rows
    (upstream, *_) = feature.upstream
    if (found := scan(store, upstream)) is None or rows.is_empty():
        return rows.head(0)
    there = found.collect_schema().names()
    if not {*preview.upstream_columns, *preview.upstream_ids} <= set(there):  # declared since
        return rows.head(0)
    rows = preview.of_upstream(rows)
    on = [c for c in preview.upstream_ids or feature.id_columns if c in there]
    wanted = found.select(*on, *preview.upstream_columns)
    # The few that are needed, not the whole feature.
    wanted = wanted.filter(nw.col(on[0]).is_in(rows[on[0]].unique().to_list()))
    return rows.join(wanted.collect().to_polars(), on=on, how="inner")


def _shown(preview: Preview, rows: pl.DataFrame, ids: Sequence[str]) -> Mapping[str, Any]:
    """What a preview shows, if anything; that it cannot is no reason to fail a run that is done."""
    rows = rows.tail(preview.most_rows)
    try:
        found = preview.show(rows.sort(ids), ids)
    except Exception as error:
        found = dg.MetadataValue.text(f"cannot be shown: {type(error).__name__}: {error}")
    return {} if found is None else {preview.title: found}


def count_and_version(rows: nw.LazyFrame[Any]) -> tuple[int, str]:
    """The number of rows, and their data version, as Metaxy makes it for Dagster."""
    return _count_and_version(rows.select(_CREATED_AT).collect().to_polars())


def _count_and_version(times: pl.DataFrame) -> tuple[int, str]:
    import metaxy.ext.dagster as mxd
    import narwhals as nw

    # In memory: SQL engines cannot average times, which is what Metaxy's data version is.
    stats = mxd.compute_stats_from_lazy_frame(nw.from_native(times.lazy()))
    return stats.row_count, stats.data_version.value


def failure_summary(
    failed: Sequence[FailedSample], quarantined: Sequence[FailedSample] = ()
) -> str:
    """The failed samples, and those that were not tried again, in a few lines."""
    parts = []
    if failed:
        parts.append(_named(failed, "failed"))
    if quarantined:
        parts.append(
            _named(quarantined, "quarantined")
            + "\nThey failed before, and their input and code are still the same; launch with"
            " `retry_quarantined: true` to try them again"
        )
    return "\n".join(parts)


def _named(samples: Sequence[FailedSample], what: str) -> str:
    shown = [str(failure) for failure in samples[:5]]
    if more := len(samples) - len(shown):
        shown.append(f"... and {more} more")
    return f"{counted(len(samples), 'sample', 'samples')} {what}:\n" + "\n".join(shown)
