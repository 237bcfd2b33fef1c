"""The metadata of an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import and_, or_
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.outcome import Counts, FailedSample, Outcome
from dagster_metaxy.increment.store import is_system, opened, scan
from dagster_metaxy.report.previews import Preview
from dagster_metaxy.report.tables import metadata_table

if TYPE_CHECKING:
    import metaxy as mx
    import narwhals as nw
    import polars as pl

PREVIEW_ROWS = 5
NEVER_WRITTEN = "empty"
"""The data version of a feature that is not in the store."""

FAILED_SHOWN = 100
REASONS_SHOWN = 100

_CREATED_AT = "metaxy_created_at"


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
    if outcome.plan is not None and (reasons := list(islice(outcome.plan.rows(), REASONS_SHOWN))):
        metadata["why"] = metadata_table(reasons, ("sample", "why", "detail"))
    if outcome.costs.dearest:
        total = outcome.costs.total
        metadata["compute seconds"] = round(total.seconds, 3)
        metadata["compute CPU seconds"] = round(total.cpu_seconds, 3)
        metadata["artifact bytes"] = total.bytes_written
        if outcome.artifacts:
            written = [(kind, *sizes) for kind, sizes in sorted(outcome.artifacts.items())]
            metadata["artifacts"] = metadata_table(written, ("content type", "files", "bytes"))
        metadata["dearest samples"] = metadata_table(
            [
                (name, round(cost.seconds, 3), round(cost.cpu_seconds, 3), cost.bytes_written)
                for name, cost in outcome.costs.dearest
            ],
            ("sample", "seconds", "CPU seconds", "bytes"),
        )
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes))
    return metadata


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
    import metaxy.ext.dagster as mxd
    import narwhals as nw
    import polars as pl

    with opened(store, "r"):
        if (everything := scan(store, feature.key)) is None:
            return {"dagster/row_count": 0}, NEVER_WRITTEN
        rows = everything
        metadata: dict[str, Any] = {}
        if of_partitions is not None:
            metadata["dagster/partition_row_count"], rows = _slice(rows, *of_partitions)
            previews = [preview for preview in previews if not preview.of_all]
        # Dagster's tables take no bytes.
        there = [n for n, t in rows.collect_schema().items() if t != nw.Binary()]
        shown = [c for c in feature.columns or there if c in there and not is_system(c)]
        previews = [preview for preview in previews if set(preview.columns) <= set(there)]
        most = max((preview.most_rows for preview in previews), default=0)
        seen = [*dict.fromkeys([*feature.id_columns, *(c for p in previews for c in p.columns)])]
        if rows.implementation.is_polars():
            # At once: polars finds the newest rows of samples once for both.
            wanted = [
                rows.select(shown).tail(PREVIEW_ROWS).to_native(),
                everything.select(_CREATED_AT).to_native(),
            ]
            if previews:
                wanted.append(rows.select(seen).tail(most).to_native())
            last, times, *samples = pl.collect_all(wanted)
            sample = samples[0] if samples else pl.DataFrame()
        else:  # SQL engines have no last rows, but newest
            newest = rows.sort(_CREATED_AT, descending=True).head(PREVIEW_ROWS)
            last = newest.select(shown).collect().to_polars()
            sample = rows.sort(_CREATED_AT, descending=True).head(most)
            sample = sample.select(seen).collect().to_polars() if most else pl.DataFrame()
            times = everything.select(_CREATED_AT).collect().to_polars()
        if further := [c for preview in previews for c in preview.upstream_columns]:
            sample = _with_upstream(store, feature, sample, further)
        count, data_version = _count_and_version(times)
        metadata["dagster/row_count"] = count
        for preview in previews:
            metadata.update(_shown(preview, sample, feature.id_columns))
        metadata["preview"] = mxd.build_table_preview_metadata(
            nw.from_native(last.lazy()), column_schema(feature), n_rows=PREVIEW_ROWS
        )
    return metadata, data_version


def _with_upstream(
    store: mx.MetadataStore, feature: Feature, rows: pl.DataFrame, columns: Sequence[str]
) -> pl.DataFrame:
    """Rows with columns of the feature that they were computed from; without, where they have none."""
    import narwhals as nw

    (upstream, *_) = feature.upstream
    if (found := scan(store, upstream)) is None or rows.is_empty():
        return rows.head(0)
    on = [c for c in feature.id_columns if c in found.collect_schema().names()]
    wanted = found.select(*on, *columns)
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


def _slice(
    rows: nw.LazyFrame[Any], columns: Sequence[str], inside: Callable[[Mapping[str, Any]], bool]
) -> tuple[int, nw.LazyFrame[Any]]:
    """How many rows are in some partitions, and enough of them for a preview."""
    import narwhals as nw

    columns = list(dict.fromkeys(columns))
    if not set(columns) <= set(rows.collect_schema().names()):  # declared since
        return 0, rows.head(0)
    counts = rows.group_by(columns).agg(nw.len().alias("metaxy_count")).collect()
    found = [values for values in counts.iter_rows(named=True) if inside(values)]
    if not found:
        return 0, rows.head(0)
    # Each has a row at least: a condition on all of them could be too long for an engine.
    shown = [
        reduce(and_, (nw.col(column) == values[column] for column in columns))
        for values in found[:PREVIEW_ROWS]
    ]
    return sum(values["metaxy_count"] for values in found), rows.filter(reduce(or_, shown))


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
    plural = "" if len(samples) == 1 else "s"
    return f"{len(samples)} sample{plural} {what}:\n" + "\n".join(shown)
