"""A job that brings features up to date over all partitions in one run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_metaxy.components._asset import FAILED_SAMPLES, FeatureAsset, op_name
from dagster_metaxy.declare._dagster import output_metadata, stop_retries
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.declare.words import counted
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.outcome import UpdateError

if TYPE_CHECKING:
    import metaxy as mx

REPORT_FAILURES = "report_failures"
"""The op of a job over all that fails where samples of partitions have failed."""


def _report_failures(name: str, assets: Sequence[FeatureAsset]) -> dg.OpDefinition:
    """An op that fails where a sample of a partition has failed, after all else is done.

    Dagster shows a partition as failed only where the run has failed.

    Args:
        name: Of the op, as no other one is called.
        assets: The features whose ops it waits for.
    """

    @dg.op(
        name=name,
        ins={asset.op_name: dg.In(dg.Nothing) for asset in assets},
        out=dg.Out(dg.Nothing),
        description="Fails where samples failed whose partitions are to be shown as failed; all else"
        " is done by then.",
    )
    def report(context) -> None:
        outputs = output_metadata(context.instance, context.run)
        failed = {
            asset.feature.key: outputs.get(asset.update_op_name, {}).get(FAILED_SAMPLES)
            for asset in assets
        }
        summaries = [f"{key}: {found.value}" for key, found in failed.items() if found]
        if summaries:
            # Nothing is left to do for a retry.
            stop_retries(context.instance, context.run_id)
            raise dg.Failure(
                "all is done but for samples that failed:\n" + "\n".join(summaries),
                allow_retries=False,
            )

    return report


def _remove_deleted_keys(
    name: str,
    assets: Sequence[FeatureAsset],
    known: Collection[FeatureAsset],
    project: MetaxyProject,
) -> dg.OpDefinition:
    """An op that removes the keys of dynamic partitions whose samples were deleted.

    Args:
        name: Of the op, as no other one is called.
        assets: The features whose ops it waits for.
        known: All features of the project, which may share a set of partitions.
        project: For their stores.
    """

    @dg.op(
        name=name,
        ins={asset.op_name: dg.In(dg.Nothing) for asset in assets},
        out=dg.Out(dg.Nothing),
        description="Removes the keys of dynamic partitions whose samples were all deleted.",
    )
    def remove(context) -> None:
        def of(asset: FeatureAsset, keys: Callable[[mx.MetadataStore], set[str]]) -> set[str]:
            with project.use(), stores.opened(project.store(asset.store), "r") as store:
                return keys(store)

        for owner in assets:
            definition = owner.partitioning.definition if owner.partitioning else None
            if not owner.remove_deleted_keys or not isinstance(
                definition, dg.DynamicPartitionsDefinition
            ):
                continue
            dynamic = str(definition.name)
            try:
                removed = of(owner, owner.deleted_keys)
            except UpdateError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            removed &= set(context.instance.get_dynamic_partitions(dynamic))
            for asset in known if removed else ():
                # Of a set that is shared, or where what is orphaned was kept.
                if asset.partitioning is not None and dynamic in asset.partitioning.dynamic_keys(
                    ()
                ):
                    live = asset.partitioning.dynamic_keys(of(asset, asset.live_keys))
                    removed -= live[dynamic]
            for key in sorted(removed):
                context.instance.delete_dynamic_partition(dynamic, key)
            if removed:
                shown = ", ".join(sorted(removed)[:10]) + (", ..." if len(removed) > 10 else "")
                context.log.info(
                    f"{counted(len(removed), 'partition', 'partitions')} of {dynamic!r} removed: {shown}"
                )

    return remove


def update_job(
    name: str,
    assets: Sequence[FeatureAsset],
    known: Collection[FeatureAsset],
    project: MetaxyProject,
    description: str,
) -> dg.JobDefinition:
    """A job that brings features up to date, in all partitions, in one run.

    Where samples of partitions fail, the run fails after all else is done, so that Dagster shows
    these partitions as failed.

    Args:
        name: Its name.
        assets: The features, upstream first.
        known: All features of the project.
        project: For their stores.
        description: What Dagster shows.
    """
    keys = {asset.feature.key for asset in assets}

    @dg.graph(name=name)
    def update() -> None:
        done: dict[str, Any] = {}
        for asset in assets:
            after = [upstream for upstream in asset.feature.upstream if upstream in keys]
            op = asset.op(f"{name}__{asset.update_op_name}", project, after)
            done[asset.feature.key] = op.alias(asset.update_op_name)(
                **{op_name(upstream): done[upstream] for upstream in after}
            )
        everything = {asset.op_name: done[asset.feature.key] for asset in assets}
        if any(asset.remove_deleted_keys for asset in assets):
            remove = _remove_deleted_keys(f"{name}__remove_deleted_keys", assets, known, project)
            remove.alias("remove_deleted_keys")(**everything)
        if any(asset.partitioning for asset in assets):
            report = _report_failures(f"{name}__{REPORT_FAILURES}", assets)
            report.alias(REPORT_FAILURES)(**everything)

    return update.to_job(
        name=name,
        # A process per step would spend seconds on imports for each; computes have threads.
        executor_def=dg.in_process_executor,
        description=description,
    )
