"""Dagster's own backfill daemon, with the runs that it asks for, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon import get_default_daemon_logger
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._time import get_current_timestamp
from projects import Project

DEFINITIONS = """\
from pathlib import Path

import dagster as dg

defs = dg.Definitions.merge(
    dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
    dg.Definitions(executor=dg.in_process_executor),
)
"""

INSTANCE = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
}


class Backfill(NamedTuple):
    """How many runs a backfill took, and the partitions that it left as materialized and failed."""

    runs: int
    green: set[str]
    failed: set[str]


def backfill(project: Project, key: str, partitions: Sequence[str]) -> tuple[int, set[str]]:
    """Backfill partitions of an asset: how many runs it took, and what is green."""
    done = backfill_to_the_end(project, key, partitions)
    assert not done.failed
    return done.runs, done.green


def backfill_to_the_end(
    project: Project, key: str, partitions: Sequence[str], dynamic: str | None = None
) -> Backfill:
    """Backfill partitions of an asset, whatever comes of it.

    Args:
        project: The project.
        key: The asset.
        partitions: The partitions.
        dynamic: The name of the set of dynamic partitions that they are to be registered in.
    """
    project.close()
    file = project.root / "definitions.py"
    file.write_text(DEFINITIONS)
    asset = dg.AssetKey(key.split("/"))
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(file), working_directory=str(project.root))
    )
    with (
        dg.instance_for_test(overrides=INSTANCE) as instance,
        create_test_daemon_workspace_context(
            InProcessWorkspaceLoadTarget(origin), instance
        ) as workspace,
    ):
        if dynamic is not None:
            instance.add_dynamic_partitions(dynamic, list(partitions))
        graph = workspace.create_request_context().asset_graph
        instance.add_backfill(
            PartitionBackfill.from_asset_partitions(
                asset_graph=graph,
                backfill_id="backfill",
                tags={},
                backfill_timestamp=get_current_timestamp(),
                asset_selection=[asset],
                partition_names=list(partitions),
                dynamic_partitions_store=instance,
                all_partitions=False,
                title=None,
                description=None,
                run_config=None,
            )
        )
        status = BulkActionStatus.REQUESTED
        for _ in range(10):
            list(execute_backfill_iteration(workspace, get_default_daemon_logger("Backfill")))
            found = instance.get_backfill("backfill")
            assert found is not None
            if (status := found.status) != BulkActionStatus.REQUESTED:
                break
        definition = graph.get(asset).partitions_def
        assert definition is not None
        shown = instance.get_status_by_partition(asset, partitions, definition) or {}
        failed = {k for k, status in shown.items() if status and status.value == "FAILED"}
        expected = (
            BulkActionStatus.COMPLETED_FAILED if failed else BulkActionStatus.COMPLETED_SUCCESS
        )
        assert status == expected, status
        return Backfill(
            len(instance.get_runs()), instance.get_materialized_partitions(asset), failed
        )
