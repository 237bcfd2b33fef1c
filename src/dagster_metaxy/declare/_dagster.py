"""Every use of Dagster API that is not exported from `dagster`, in one place.

- `ResolutionException`: the only exception that passes through Dagster's resolvers untouched, so
  that the message we wrote (with file and line) is the message that the user sees.
- `source_position_tree`: where a YAML value stands; public on `ResolutionContext`, but its
  `lookup_closest_and_path` is undocumented.
- `path` of the context: the keys from the top of the YAML document to the value being resolved.
- `PythonFileComponent` and the declarations of the component tree: there is no public list of the
  Python files that Dagster takes definitions from, beside components.
- `AssetMaterializationPlannedData`: Dagster shows a partition as failed where a run that failed had
  planned to materialize it and did not; only runs of assets plan by themselves.
- `get_and_update_asset_status_cache_value`: which partitions Dagster shows as failed; the public look
  takes all keys, of which windows and their products have too many.
- `all_logs` and `add_run_tags` of the instance: what the steps of a run have said, and its tags.
- `repository_def` of an op's context: raises an error that is not exported where a job runs in a
  process that has loaded no repository.

Tested in `tests/declare/test_errors.py`, those of partitions and runs in
`tests/components/test_statuses.py`, the last in `tests/components/test_metaxy_jobs.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster.components.core.defs_module import PythonFileComponent
from dagster.components.resolved.errors import ResolutionException
from dagster_shared.check import CheckError

__all__ = [
    "ResolutionException",
    "definitions_in_python",
    "failed_partitions",
    "failed_steps",
    "output_metadata",
    "plan_materializations",
    "repository_assets",
    "source_of",
    "stop_retries",
]


def source_of(
    context: dg.ResolutionContext, *path: str | int
) -> tuple[str, tuple[int, int], tuple[int, int]] | None:
    """File, and line and column of both ends, of what stands at `path` below `context`: the key of
    a mapping's value, an item of a list, or what is nearest above; None in Python."""
    tree = context.source_position_tree
    if tree is None:
        return None
    file, start, end = tree.lookup_closest_and_path([*context.path, *path], None)[0]
    return file, (start.line, start.col), (end.line, end.col)


def definitions_in_python(tree: dg.ComponentTree) -> Iterator[dg.Definitions]:
    """What the Python files of a project define that hold no components, as Dagster builds it.

    Dagster keeps what it builds, so that this costs nothing.
    """
    for location, declaration in tree._component_decl_tree().items():
        if declaration.component_type is PythonFileComponent and not any(
            declaration.iterate_child_component_decls()
        ):
            yield tree.build_defs_at_path(location)


def failed_partitions(
    instance: dg.DagsterInstance, key: dg.AssetKey, definition: dg.PartitionsDefinition
) -> set[str]:
    """The partitions of an asset that Dagster shows as failed."""
    status = get_and_update_asset_status_cache_value(instance, key, definition)
    if status is None:
        return set()
    return set(status.deserialize_failed_partition_subsets(definition).get_partition_keys())


def plan_materializations(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    step: str,
    key: dg.AssetKey,
    partitions: Iterable[str],
) -> None:
    """Say that a step of a run is to materialize partitions of an asset: those that it does not,
    Dagster shows as in progress, and as failed once the run has failed."""
    for partition in partitions:
        event = dg.DagsterEvent.build_asset_materialization_planned_event(
            run.job_name, step, AssetMaterializationPlannedData(key, partition=partition)
        )
        instance.report_dagster_event(event, run.run_id, logging.DEBUG)


def output_metadata(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Mapping[str, Mapping[str, Any]]:
    """The metadata of what the steps of a run gave, by step; of those that a run from failure did not
    repeat, what they gave before."""
    found: dict[str, Mapping[str, Any]] = {}
    before: dg.DagsterRun | None = run
    while before is not None:
        for entry in instance.all_logs(before.run_id, dg.DagsterEventType.STEP_OUTPUT):
            event = entry.dagster_event
            if event is not None and event.step_key is not None:
                found.setdefault(event.step_key, event.step_output_data.metadata)
        parent = before.parent_run_id
        before = instance.get_run_by_id(parent) if parent else None
    return found


def failed_steps(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """The steps of a run that failed."""
    logs = instance.all_logs(run_id, dg.DagsterEventType.STEP_FAILURE)
    return {entry.step_key for entry in logs if entry.step_key is not None}


def stop_retries(instance: dg.DagsterInstance, run_id: str) -> None:
    """Except a run from those that the instance retries because a step failed."""
    instance.add_run_tags(run_id, {"dagster/retry_on_asset_or_op_failure": "false"})


def repository_assets(context: dg.OpExecutionContext) -> Sequence[dg.AssetSpec]:
    """All assets of the code location in which an op runs; none where only its job was loaded."""
    try:
        repository = context.repository_def
    except CheckError:
        return ()
    found = {id(assets): assets for assets in repository.assets_defs_by_key.values()}
    return [spec for assets in found.values() for spec in assets.specs]
