"""The job that deletes samples, and all that was computed from them."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.discovery.videos import Videos
from dagster_metaxy.increment.deletion import Deletion, delete, plan_deletion
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.root import Root
from dagster_metaxy.increment.update import Update
from dagster_metaxy.report.tables import metadata_table, text_table

_COLUMNS = ("feature", "samples", "of older code", "become stale", "artifacts", "first samples")
_NAMED = 5


class DeleteConfig(dg.Config):
    """What is deleted, and whether it is."""

    feature: str = Field(
        description="Key of the feature. What was computed from its samples goes with them.",
        examples=["clips/videos"],
    )
    filter: str = Field(
        description="Which samples: a condition as SQL writes it, over the feature's columns."
        " Dates and times are compared as text.",
        examples=["video_id = 'bikes'", "day > '2026-01-03'"],
    )
    dry_run: bool = Field(
        default=True,
        description="Only say what would go. False deletes.",
        examples=[False],
    )
    hard: bool = Field(
        default=False,
        description="Remove rows from the store for good, instead of marking them as deleted."
        " Needs pyarrow. Files go in any case.",
        examples=[True],
    )


def delete_job(prefix: str, stores: ProjectStores) -> dg.JobDefinition:
    """A job that deletes the samples of a feature that meet a condition, and what follows."""

    @dg.op(
        name=f"{prefix}_delete_samples",
        out=dg.Out(dg.Nothing),
        description="Says which samples of a feature, and of all downstream of it, a condition is"
        " about, and deletes them with their files unless it is a dry run.",
        tags={"dagster/kind/metaxy": ""},
    )
    def delete_samples(context, config: DeleteConfig) -> Iterator[Any]:
        if config.hard and find_spec("pyarrow") is None:
            raise dg.Failure(
                "removing rows for good needs pyarrow: pip install 'dagster-metaxy[hard-delete]'",
                allow_retries=False,
            )
        with stores.open("r" if config.dry_run else "w", context.run.run_id) as store_of:
            try:
                deletions = _plan(stores, store_of, config)
            except UpdateError as error:
                raise dg.Failure(str(error), allow_retries=False) from None
            records = [_record(deletion) for deletion in deletions]
            context.log.info(
                f"{'Would go' if config.dry_run else 'Going'}:\n{text_table(records, _COLUMNS)}"
            )
            notes = [*_notes(stores, store_of, deletions[0])] if deletions[0].samples else []
            if not config.dry_run:
                delete(store_of, deletions, hard=config.hard)
        total = sum(len(deletion.samples) for deletion in deletions)
        samples = f"{total} sample{'' if total == 1 else 's'}"
        if config.dry_run:
            notes.append(f"{samples} would go; set dry_run to false and launch again to delete")
        else:
            notes.append(f"{samples} deleted")
        for note in notes:
            context.log.info(note)
        yield dg.Output(
            None,
            metadata={
                "features": metadata_table(records, _COLUMNS),
                "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in notes)),
            },
        )

    name = f"{prefix}_delete"

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description="Deletes the samples of a feature that meet a condition, all that was computed"
        " from them, and their files. A dry run, unless told otherwise.",
    )
    def job() -> None:
        delete_samples.alias("delete")()

    return job


def _plan(
    stores: ProjectStores, store_of: Callable[[str], Any], config: DeleteConfig
) -> list[Deletion]:
    folders = {
        key: asset.runner.artifacts
        for key, asset in stores.features.assets.items()
        if isinstance(asset.runner, Update)
    }
    import metaxy as mx

    external = {key for key, asset in stores.features.assets.items() if asset.is_external}
    graph = mx.current_graph().feature_definitions_by_key
    external |= {key.to_string() for key, found in graph.items() if found.is_external}
    return plan_deletion(store_of, config.feature, config.filter, folders, external)


def _record(deletion: Deletion) -> Sequence[Any]:
    artifacts = [str(path) for path in (*deletion.folders, *deletion.files)]
    more = f" and {len(artifacts) - _NAMED} more" if len(artifacts) > _NAMED else ""
    return (
        deletion.key,
        len(deletion.samples),
        deletion.older,
        len(deletion.stale),
        "; ".join(artifacts[:_NAMED]) + more,
        "; ".join(deletion.names(_NAMED)) + ("; ..." if len(deletion.samples) > _NAMED else ""),
    )


def _notes(
    stores: ProjectStores, store_of: Callable[[str], Any], deletion: Deletion
) -> Iterator[str]:
    """What will come back."""
    asset = stores.features.assets.get(deletion.key)
    if asset is None:
        return
    if asset.is_external:
        yield f"of {deletion.key}, which is external, only its own project may delete samples"
    elif asset.feature.upstream:
        yield (
            f"samples of {deletion.key} whose upstream is there are computed again by its next run;"
            f" to be rid of them, delete them from {' or '.join(asset.feature.upstream)}"
        )
    elif isinstance(asset.runner, Root):
        yield f"those that the compute of {deletion.key} still lists come back with its next run"
    elif isinstance(asset.runner, Videos):
        try:
            listed = asset.runner.listed(store_of(deletion.key))
        except UpdateError as error:
            yield f"whether they will come back cannot be told: {error}"
            return
        if back := [ids for ids in deletion.samples if ids[0] in listed]:
            some = ", ".join(str(ids[0]) for ids in back[:_NAMED])
            some += ", ..." if len(back) > _NAMED else ""
            yield (
                f"{len(back)} of them will come back with the next run, since their files are still"
                f" in {asset.runner.source.place}: {some}"
            )
