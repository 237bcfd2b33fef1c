"""The metadata of an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.outcome import Counts, FailedSample, Outcome

if TYPE_CHECKING:
    import metaxy as mx

PREVIEW_ROWS = 5
FAILED_SHOWN = 100


def count_metadata(counts: Counts) -> dict[str, Any]:
    """Counts of samples, as one writes them."""
    return {
        "new": counts.new,
        "stale": counts.stale,
        "orphaned": counts.orphaned,
        "failed": counts.failed,
    }


def failed_table(failed: Sequence[FailedSample]) -> dg.TableMetadataValue:
    """The failed samples with their errors, the first hundred of them."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {"sample": f.name, "error": f.error, "message": f.message, "where": f.where}
            )
            for f in failed[:FAILED_SHOWN]
        ],
        schema=dg.TableSchema(
            [dg.TableColumn(name, "string") for name in ("sample", "error", "message", "where")]
        ),
    )


def outcome_metadata(
    store: mx.MetadataStore,
    feature: Feature,
    outcome: Outcome,
    of_partitions: tuple[str, Callable[[Any], bool]] | None = None,
) -> tuple[dict[str, Any], str]:
    """What the materialization of a feature shows, and its data version.

    Args:
        store: The store, closed.
        feature: The feature that was updated.
        outcome: What the update did.
        of_partitions: For a run of some partitions: the column that partitions are found by, and
            whether a value of it is in them.

    Returns:
        The metadata, and a data version that changes when rows do.
    """
    import metaxy.ext.dagster as mxd
    import narwhals as nw

    columns = list(feature.columns)
    schema = dg.TableSchema(
        [
            dg.TableColumn(name, column.type, description=column.description)
            for name, column in feature.columns.items()
        ]
    )
    metadata: dict[str, Any] = {
        "dagster/row_count": 0,
        **count_metadata(outcome.total),
        "rows written": outcome.written,
        "seconds": round(outcome.seconds, 3),
    }
    data_version = "empty"
    with store.open("r"):
        if store.has_feature(feature.key):
            rows = store.read(feature.key)
            stats = mxd.compute_stats_from_lazy_frame(rows)
            metadata["dagster/row_count"] = stats.row_count
            data_version = stats.data_version.value
            if of_partitions is not None:
                column, inside = of_partitions
                values = rows.select(column).collect().get_column(column).unique().to_list()
                rows = rows.filter(nw.col(column).is_in([v for v in values if inside(v)]))
                count = rows.select(nw.len()).collect().item(0, 0)
                metadata["dagster/partition_row_count"] = count
            there = set(rows.collect_schema().names())
            metadata["preview"] = mxd.build_table_preview_metadata(
                rows.select([c for c in columns if c in there]), schema, n_rows=PREVIEW_ROWS
            )
    if outcome.failed:
        metadata["failed samples"] = failed_table(outcome.failed)
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes))
    return metadata, data_version


def failure_summary(failed: Sequence[FailedSample]) -> str:
    """The failed samples in a few lines."""
    shown = [str(failure) for failure in failed[:5]]
    if more := len(failed) - len(shown):
        shown.append(f"... and {more} more")
    plural = "" if len(failed) == 1 else "s"
    return f"{len(failed)} sample{plural} failed:\n" + "\n".join(shown)
