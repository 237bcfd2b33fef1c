"""The metadata and the check of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.outcome import Counts, Outcome

if TYPE_CHECKING:
    import metaxy as mx

CHECK_NAME = "no_failed_samples"
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


def failed_table(outcome: Outcome) -> dg.TableMetadataValue:
    """The failed samples with their errors, the first hundred of them."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"sample": f.name, "error": f.error, "message": f.message})
            for f in outcome.failed[:FAILED_SHOWN]
        ],
        schema=dg.TableSchema(
            [dg.TableColumn(name, "string") for name in ("sample", "error", "message")]
        ),
    )


def outcome_metadata(
    store: mx.MetadataStore, feature: Feature, outcome: Outcome
) -> tuple[dict[str, Any], str]:
    """What the materialization of a feature shows, and its data version.

    Args:
        store: The store, closed.
        feature: The feature that was updated.
        outcome: What the update did.

    Returns:
        The metadata, and a data version that changes when rows do.
    """
    import metaxy.ext.dagster as mxd

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
            metadata["preview"] = mxd.build_table_preview_metadata(
                rows.select(columns), schema, n_rows=PREVIEW_ROWS
            )
    if outcome.failed:
        metadata["failed samples"] = failed_table(outcome)
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes))
    return metadata, data_version


def check_result(asset_key: dg.AssetKey, outcome: Outcome) -> dg.AssetCheckResult:
    """A warning that names the samples that failed; passed where none did."""
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=CHECK_NAME,
        passed=not outcome.failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=failure_summary(outcome) if outcome.failed else None,
        metadata={"failed samples": failed_table(outcome)} if outcome.failed else {},
    )


def failure_summary(outcome: Outcome) -> str:
    """The failed samples in a few lines."""
    shown = [str(failure) for failure in outcome.failed[:5]]
    if more := len(outcome.failed) - len(shown):
        shown.append(f"... and {more} more")
    return f"{len(outcome.failed)} samples failed:\n" + "\n".join(shown)
