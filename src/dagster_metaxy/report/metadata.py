"""The metadata and the check of an update."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare._dagster import latest_evaluation
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.outcome import Counts, FailedSample, Outcome

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
            # In memory: SQL engines cannot average times, which is what Metaxy's data version is.
            times = rows.select("metaxy_created_at").collect().to_polars().lazy()
            stats = mxd.compute_stats_from_lazy_frame(nw.from_native(times))
            metadata["dagster/row_count"] = stats.row_count
            data_version = stats.data_version.value
            if of_partitions is not None:
                column, inside = of_partitions
                values = rows.select(column).collect().get_column(column).unique().to_list()
                rows = rows.filter(nw.col(column).is_in([v for v in values if inside(v)]))
                count = rows.select(nw.len()).collect().item(0, 0)
                metadata["dagster/partition_row_count"] = count
            if not rows.implementation.is_polars():  # SQL engines have no last rows, but newest
                newest = rows.sort("metaxy_created_at", descending=True).head(PREVIEW_ROWS)
                rows = nw.from_native(newest.collect().to_polars().lazy())
            there = set(rows.collect_schema().names())
            metadata["preview"] = mxd.build_table_preview_metadata(
                rows.select([c for c in columns if c in there]), schema, n_rows=PREVIEW_ROWS
            )
    if outcome.failed:
        metadata["failed samples"] = failed_table(outcome.failed)
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes))
    return metadata, data_version


def check_result(
    asset_key: dg.AssetKey, outcome: Outcome, elsewhere: Sequence[FailedSample] = ()
) -> dg.AssetCheckResult:
    """A warning that names the samples that failed; passed where none did.

    Args:
        asset_key: The asset.
        outcome: What the update did.
        elsewhere: Failed samples of partitions that the update was not about.
    """
    failed = [*outcome.failed, *elsewhere]
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=CHECK_NAME,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=failure_summary(failed) if failed else None,
        metadata={"failed samples": failed_table(failed)} if failed else {},
    )


def failed_before(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, columns: Sequence[str]
) -> list[FailedSample]:
    """The failed samples that the latest evaluation of the check names.

    Args:
        instance: The Dagster instance.
        asset_key: The asset.
        columns: The columns that name a sample.
    """
    evaluation = latest_evaluation(instance, dg.AssetCheckKey(asset_key, CHECK_NAME))
    table = evaluation.metadata.get("failed samples") if evaluation else None
    if not isinstance(table, dg.TableMetadataValue):
        return []
    return [
        FailedSample(
            _ids(str(r.data["sample"]), columns),
            str(r.data["error"]),
            str(r.data["message"]),
            str(r.data.get("where", "")),
        )
        for r in table.records
    ]


def _ids(name: str, columns: Sequence[str]) -> dict[str, str]:
    """The ids of a sample from its name, `a=1, b=2`; values may hold commas and equal signs."""
    pattern = ", ".join(f"{re.escape(column)}=(.*)" for column in columns)
    found = re.fullmatch(pattern, name, re.DOTALL)
    return dict(zip(columns, found.groups(), strict=True)) if found else {}


def failure_summary(failed: Sequence[FailedSample]) -> str:
    """The failed samples in a few lines."""
    shown = [str(failure) for failure in failed[:5]]
    if more := len(failed) - len(shown):
        shown.append(f"... and {more} more")
    plural = "" if len(failed) == 1 else "s"
    return f"{len(failed)} sample{plural} failed:\n" + "\n".join(shown)
