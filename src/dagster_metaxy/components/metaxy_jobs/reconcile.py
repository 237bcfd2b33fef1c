"""The job that tells Dagster what is in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.components._asset import DATA_VERSION_TAG, FeatureAsset
from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.declare._dagster import repository_assets
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.store import scan
from dagster_metaxy.report.metadata import count_and_version
from dagster_metaxy.report.tables import metadata_table, text_table

if TYPE_CHECKING:
    import metaxy as mx

_COLUMNS = ("feature", "rows", "data version", "reported")


@dataclass(frozen=True)
class _Target:
    """An asset that shows a feature.

    Attributes:
        feature: The feature key.
        key: The asset key.
        asset: Where a component of this package declares it.
        slice: Values of columns, where the asset shows only the rows that have them.
    """

    feature: str
    key: dg.AssetKey
    asset: FeatureAsset | None = None
    slice: Mapping[str, Any] = field(default_factory=dict)


def reconcile_job(prefix: str, stores: ProjectStores) -> dg.JobDefinition:
    """A job that observes all features, and reports what was computed outside of Dagster."""

    @dg.op(
        name=f"{prefix}_observe_features",
        out=dg.Out(dg.Nothing),
        description="Observes every feature that has an asset, and reports as materialized what the"
        " store holds and Dagster does not know.",
        tags={"dagster/kind/metaxy": ""},
    )
    # Without an annotation: Dagster reads those of contexts as objects, not as text.
    def observe(context) -> Iterator[Any]:
        records: list[Sequence[Any]] = []
        with stores.open("r", context.run.run_id) as store_of:
            targets = _targets(stores, repository_assets(context))
            for target in targets:
                yield from _reconciled(context, store_of(target.feature), target, records)
            shown = {target.feature for target in targets}
            for key in sorted(
                k.to_string() for k in stores.features.project.graph.feature_definitions_by_key
            ):
                if key not in shown:
                    records.append(_record(key, store_of(key), "no asset shows this feature"))
        context.log.info(f"Features:\n{text_table(records, _COLUMNS)}")
        yield dg.Output(None, metadata={"features": metadata_table(records, _COLUMNS)})

    name = f"{prefix}_reconcile"

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description="Tells Dagster what is in the store: observes every feature, and reports as"
        " materialized what was computed outside of Dagster.",
    )
    def job() -> None:
        observe.alias("reconcile")()

    return job


def _targets(stores: ProjectStores, specs: Any) -> list[_Target]:
    """The assets that show features: of components, upstream first, and of one's own."""
    import metaxy as mx

    ours = stores.features.assets
    targets = [_Target(key, asset.key, asset) for key, asset in ours.items()]
    taken = {target.key for target in targets}
    for spec in sorted(specs, key=lambda spec: spec.key):
        if "metaxy/feature" in spec.metadata and spec.key not in taken:
            feature = mx.coerce_to_feature_key(spec.metadata["metaxy/feature"]).to_string()
            part = spec.metadata.get("metaxy/partition") or {}
            targets.append(_Target(feature, spec.key, ours.get(feature), part))
    return targets


def _rows(store: mx.MetadataStore, key: str, part: Mapping[str, Any]) -> tuple[int, str] | None:
    """The number of rows, and their data version, as Metaxy makes it for Dagster."""
    import narwhals as nw

    rows = scan(store, key, filters=[nw.col(c) == value for c, value in part.items()])
    return None if rows is None else count_and_version(rows)


def _record(key: str, store: mx.MetadataStore, reported: str) -> Sequence[Any]:
    rows, version = _rows(store, key, {}) or (0, "never written")
    return (key, rows, version, reported)


def _reconciled(
    context: dg.OpExecutionContext,
    store: mx.MetadataStore,
    target: _Target,
    records: list[Sequence[Any]],
) -> Iterator[Any]:
    """Observe an asset, and report what Dagster does not know of it."""
    found = _rows(store, target.feature, target.slice)
    name = target.feature
    if target.key.path != target.feature.split("/"):
        name = f"{target.feature} (asset {target.key.to_user_string()})"
    if found is None:
        records.append((name, 0, "never written", ""))
        return
    rows, version = found
    metadata = {"dagster/row_count": rows}
    tags = {DATA_VERSION_TAG: version}
    yield dg.AssetObservation(target.key, metadata=metadata, tags=tags)
    reported = []
    if target.asset is not None and target.asset.is_external:
        records.append((name, rows, version, ""))
        return
    if target.asset is not None and target.asset.key == target.key:
        partitions: list[str | None] = []
        try:
            for event in target.asset.unreported_partitions(context.instance, store):
                partitions.append(event.partition)
                yield event
        except UpdateError as error:
            reported.append(f"partitions cannot be told: {error}")
        if partitions:
            reported.append(counted(len(partitions), "partition", "partitions"))
    latest = context.instance.get_latest_materialization_event(target.key)
    known = latest.asset_materialization if latest else None
    if _differs(known, rows, version):
        # Last, also where there are partitions: the next run of this job looks at the latest.
        yield dg.AssetMaterialization(target.key, metadata=metadata, tags=tags)
        reported.insert(0, "materialized")
    records.append((name, rows, version, "; ".join(reported)))


def _differs(known: dg.AssetMaterialization | None, rows: int, version: str) -> bool:
    """Whether the store holds something else than what was materialized last."""
    if known is None:
        return bool(rows)
    if not same_version((known.tags or {}).get(DATA_VERSION_TAG), version):
        return True
    # The same mean time of writing may be of fewer rows, where some of a commit were deleted.
    count = known.metadata.get("dagster/row_count")
    return count is not None and count.value != rows


def same_version(one: str | None, other: str) -> bool:
    """Whether two data versions of Metaxy are of the same rows.

    They are the mean time of writing in microseconds, whose last digits differ from one reading of
    a large table to the next, with the order in which threads add up.
    """
    try:
        return one == other or abs(float(one or "nan") - float(other)) < 10
    except ValueError:
        return False
