"""The sensor that watches a collection and asks for one run for all that changed."""

from __future__ import annotations

import json
from collections.abc import Iterable

import dagster as dg

from dagster_metaxy.declare._dagster import failed_steps
from dagster_metaxy.declare.keys import PartitionError
from dagster_metaxy.declare.partitions import Partitioning
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.declare.words import counted
from dagster_metaxy.discovery.files import SourceError
from dagster_metaxy.discovery.videos import Comparison, Videos, compare
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.store import StoreError

MAX_ATTEMPTS = 3
"""How many runs are asked for one state of the files, where they fail."""

MOST_KEYS = 10_000
"""How many dynamic partitions Dagster shows and schedules without becoming slow."""

_KEYS_PER_CALL = 10_000
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def register_keys(instance: dg.DagsterInstance, name: str, keys: Iterable[str]) -> list[str]:
    """Add those dynamic partition keys that are not there yet, and return them."""
    missing = sorted(set(keys) - set(instance.get_dynamic_partitions(name)))
    for start in range(0, len(missing), _KEYS_PER_CALL):
        instance.add_dynamic_partitions(name, missing[start : start + _KEYS_PER_CALL])
    return missing


def too_many_keys(instance: dg.DagsterInstance, name: str) -> str | None:
    """What to do about a set of dynamic partitions that is too large for Dagster, if it is.

    Args:
        instance: Where they are registered.
        name: Of the set.
    """
    count = len(instance.get_dynamic_partitions(name))
    if count <= MOST_KEYS:
        return None
    return (
        f"{name} has {count} partitions; beyond {MOST_KEYS}, Dagster's UI and daemon become slow. What is"
        " computed is decided video by video in any case: use `partitions: none`, or partitions by"
        " folder (`static`) or by date (`daily`)"
    )


def build_sensor(
    *,
    name: str,
    job_name: str,
    report_op: str,
    videos: Videos,
    partitioning: Partitioning | None,
    project: MetaxyProject,
    store: str | None,
) -> dg.SensorDefinition:
    """A sensor, off by default, that asks for one run whenever the source and the store differ.

    The cursor keeps a digest of the listing: while it stays the same, a tick lists the source and
    does nothing else.

    Args:
        name: The sensor's name.
        job_name: The job that brings the collection and all downstream of it up to date.
        report_op: The job's op that fails where a sample has failed and all else is done: for such
            a run, no other is asked.
        videos: The collection.
        partitioning: How it is partitioned; new keys of dynamic partitions are registered.
        project: For the store.
        store: The store's name.
    """

    @dg.sensor(
        name=name,
        job_name=job_name,
        minimum_interval_seconds=30,
        required_resource_keys=videos.resource_names,
        description=f"Watches {videos.source.place} and asks for one run of {job_name} for all videos"
        " that are new, changed or gone.",
    )
    def watch(context) -> dg.SensorResult | dg.SkipReason:
        cursor = json.loads(context.cursor) if context.cursor else {"digest": None, "runs": 0}
        try:
            resources = {n: getattr(context.resources, n) for n in videos.resource_names}
            listing = videos.listing(resources)
        except SourceError as error:
            return dg.SkipReason(f"{error}. Nothing is taken as deleted.")
        digest = listing.digest
        attempt = 1
        if digest == cursor["digest"]:
            if not _failed(context.instance, cursor.get("run_key"), report_op):
                return dg.SkipReason(
                    f"{counted(len(listing.files), 'video', 'videos')}, none new, changed or gone"
                )
            attempt = cursor.get("attempt", 1) + 1
            if attempt > MAX_ATTEMPTS:
                return dg.SkipReason(
                    f"{MAX_ATTEMPTS} runs for these files have failed; launch {job_name} by hand, or"
                    " change a file"
                )
        under_way = context.instance.get_runs(
            dg.RunsFilter(job_name=job_name, statuses=_UNDER_WAY), limit=1
        )
        if under_way:
            return dg.SkipReason(f"files have changed; waiting for run {under_way[0].run_id[:8]}")

        try:
            with project.use(), stores.opened(project.store(store), "r") as opened:
                rows, current = videos.stored(opened)
        except StoreError as error:  # as a DuckDB file that a run has open
            return dg.SkipReason(f"{error} The next tick looks again.")
        compared = compare(listing, rows, current)
        if compared.nothing_to_do and not listing.unreadable:
            context.update_cursor(json.dumps({**cursor, "digest": digest}))
            return dg.SkipReason(
                f"{counted(len(listing.files), 'video', 'videos')}, all in the store as they are"
            )

        files = [file for file, _ in (*compared.new, *compared.changed)]
        fresh = [file.relative_path for file in files if videos.is_fresh(file)]
        if fresh and len(fresh) == len(files) and not compared.vanished:
            return dg.SkipReason(
                f"{counted(len(fresh), 'file', 'files')} may still be being written, such as {fresh[0]!r}; the next tick"
                " looks again"
            )
        found = (
            f"{len(compared.new)} new, {len(compared.changed)} changed and"
            f" {len(compared.vanished)} vanished of"
            f" {counted(len(listing.files), 'video', 'videos')}"
        )
        if partitioning is not None:
            new = partitioning.dynamic_keys(_surely_new(compared, partitioning))
            for name, keys in new.items():
                added = register_keys(context.instance, name, keys)
                found += f"; {counted(len(added), 'partition', 'partitions')} registered"
                if warning := too_many_keys(context.instance, name):
                    context.log.warning(warning)
        context.log.info(found)
        runs = cursor["runs"] + 1
        # The digest alone would not do: a collection may return to a former state.
        run_key = f"{digest}-{runs}"
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=run_key, tags={"found": found[:250]})],
            cursor=json.dumps(
                {
                    # What may not be finished is looked at again, even if nothing more is written.
                    "digest": None if fresh else digest,
                    "runs": runs,
                    "run_key": run_key,
                    "attempt": attempt,
                }
            ),
        )

    return watch


def _failed(instance: dg.DagsterInstance, run_key: str | None, report_op: str) -> bool:
    """Whether the run that was asked for by a key was canceled, or has failed before all was done."""
    if run_key is None:
        return False
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1)
    if not runs or runs[0].status not in (
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    ):
        return False
    return failed_steps(instance, runs[0].run_id) != {report_op}


def _surely_new(compared: Comparison, partitioning: Partitioning) -> Iterable[str]:
    """Keys of new videos, less those that may be a vanished one at another place, and of those whose
    columns say another one.

    Only hashing can tell what has moved; the run does, and registers what is new after all.
    """
    vanished_sizes = {row["size"] for row in compared.vanished.values()}
    new = [(f, i) for f, i in compared.new if f.id is not None or f.size not in vanished_sizes]
    known = [(file, row["video_id"]) for file, row in (*compared.changed, *compared.retold)]
    for file, video_id in (*new, *known):
        try:
            yield partitioning.key({"video_id": video_id, **file.kept})
        except PartitionError:
            continue
