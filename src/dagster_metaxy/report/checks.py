"""The checks of a feature: warnings, which stop nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.outcome import FailedSample, sample_name
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.report.metadata import failed_table, failure_summary
from dagster_metaxy.report.tables import metadata_table

if TYPE_CHECKING:
    import metaxy as mx

NO_FAILED = "no_failed_samples"
NOTHING_STALE = "nothing_stale"
NOTHING_MISSING = "nothing_missing"
NO_DUPLICATES = "no_duplicate_ids"
NO_NULLS = "no_null_ids"

CHECKS: Mapping[str, str] = {
    NO_FAILED: "Names the samples that could not be computed, and why.",
    NOTHING_STALE: "Names the samples whose input or code has changed since they were computed.",
    NOTHING_MISSING: "Names the samples that upstream, or the source, has and this feature has not.",
    NO_DUPLICATES: "Names the samples of which one commit wrote two rows: one of them is hidden.",
    NO_NULLS: "Counts the rows in which an id column is null: nothing downstream can use them.",
}
"""The checks, and what each says."""

FORESEEN = (NOTHING_STALE, NOTHING_MISSING)
"""The checks that ask what a run would find to do."""

NAMED = 100
"""How many samples a check names."""


def feature_checks(
    store: mx.MetadataStore,
    feature: Feature,
    plan: Callable[[mx.MetadataStore], Plan],
    asset_key: dg.AssetKey,
    names: Collection[str],
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate checks of a whole feature.

    Args:
        store: The store, closed.
        feature: The feature.
        plan: What tells what is left to do, in the open store.
        asset_key: The feature's asset.
        names: Which checks.
    """
    if not names:
        return
    with stores.opened(store, "r"):
        if {NO_FAILED, *FORESEEN} & set(names):
            left = plan(store)
            if NO_FAILED in names:
                yield _failure_check(asset_key, left.failed)
            for name, stale, what in (
                (NOTHING_STALE, True, "stale"),
                (NOTHING_MISSING, False, "missing"),
            ):
                if name in names:
                    found = [left.name(t.ids) for t in left.pending if t.stale == stale]
                    yield _result(
                        asset_key, name, len(found), what, sorted(found)[:NAMED], left.notes
                    )
        if NO_DUPLICATES in names or NO_NULLS in names:
            duplicates, nulls = _bad_ids(store, feature)
            for name, samples, what in (
                (NO_DUPLICATES, duplicates, "written twice in one commit, with one row hidden"),
                (NO_NULLS, nulls, "without an id: an id column is null"),
            ):
                if name in names:
                    found = [sample_name(s) for s in samples[:NAMED]]
                    yield _result(asset_key, name, len(samples), what, found)


def _failure_check(asset_key: dg.AssetKey, failed: Sequence[FailedSample]) -> dg.AssetCheckResult:
    """A warning that names the samples that failed; passed where none did."""
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=NO_FAILED,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=failure_summary(failed) if failed else None,
        metadata={"failed samples": failed_table(failed)} if failed else {},
    )


def _result(
    asset_key: dg.AssetKey,
    name: str,
    count: int,
    what: str,
    samples: Sequence[str],
    notes: Sequence[str] = (),
) -> dg.AssetCheckResult:
    sentences = list(notes)
    metadata: dict[str, Any] = {"samples": count}
    if count:
        shown = "; ".join(samples[:5]) + ("; ..." if count > 5 else "")
        verb = "sample is" if count == 1 else "samples are"
        # Said every time, since a run of some partitions reports it, too.
        sentences.insert(0, f"of the whole feature, {count} {verb} {what}: {shown}")
        metadata["first samples"] = metadata_table([[s] for s in samples], ["sample"])
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=name,
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description=". ".join(sentences) or None,
        metadata=metadata,
    )


def _bad_ids(
    store: mx.MetadataStore, feature: Feature
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Live samples with two rows of one commit, and live rows with a null id.

    Metaxy shows the newest row of a sample. Where a commit wrote two, neither is newer, and which
    one is shown is chance; rows of several commits are a sample's history.
    """
    import narwhals as nw
    import polars as pl

    ids = list(feature.id_columns)
    deleted, updated = "metaxy_deleted_at", "metaxy_updated_at"
    options: Any = {
        "columns": [*ids, deleted, updated],
        "with_sample_history": True,
        "include_soft_deleted": True,
    }
    history = stores.scan(store, feature.key, **options)
    if history is None:
        return [], []
    written = history.group_by(*ids, deleted, updated).agg(nw.len().alias("metaxy_count"))
    null = nw.any_horizontal(*(nw.col(c).is_null() for c in ids), ignore_nulls=True)
    if not written.filter((nw.col("metaxy_count") > 1) | null).head(1).collect().shape[0]:
        return [], []  # as it should be, and nothing had to be held in memory
    rows = stores.read(store, feature.key, **options)
    if rows is None:
        return [], []
    at = pl.coalesce(deleted, updated)
    newest = rows.filter((at == at.max().over(ids)) & pl.col(deleted).is_null()).select(ids)
    without = newest.filter(pl.any_horizontal(pl.all().is_null()))
    twice = newest.drop_nulls().filter(pl.struct(ids).is_duplicated()).unique().sort(ids)
    return twice.to_dicts(), without.to_dicts()
