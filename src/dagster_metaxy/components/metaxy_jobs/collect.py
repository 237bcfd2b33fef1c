"""The job that removes artifacts that no row names."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.increment.artifacts import Artifacts, Root, artifacts_of
from dagster_metaxy.increment.collection import Collection, find_garbage, remove
from dagster_metaxy.increment.store import StoreError
from dagster_metaxy.increment.store import opened as opened_store
from dagster_metaxy.increment.update import Update
from dagster_metaxy.report.tables import metadata_table, text_table

_COLUMNS = ("feature", "folders", "files", "bytes", "first ones")
_NAMED = 5


class CollectConfig(dg.Config):
    """What is looked at, what counts as garbage, and whether it is removed."""

    dry_run: bool = Field(
        default=True,
        description="Only say what would go. False removes.",
        examples=[False],
    )
    features: list[str] = Field(
        default=[],
        description="Keys of features; all if left out. The files of a feature that was never written"
        " go only if it is named here.",
        examples=[["clips/frames"]],
    )
    keep_older: bool = Field(
        default=True,
        description="Keep the files of rows of older code, which come back where code is reverted."
        " False removes those of samples that have a row of later code: where code is then reverted,"
        " their rows come back without files, and are to be computed with `force`.",
        examples=[False],
    )
    older_than_hours: float = Field(
        default=24,
        ge=0,
        description="Leave alone what was changed in these last hours: the files of a run that goes on"
        " have no row yet. At least as long as a sample takes to compute; 0 only where nothing runs.",
        examples=[24, 0],
    )
    stores: list[str] = Field(
        default=[],
        description="Names of stores in metaxy.toml whose rows count; all if left out. What only"
        " other stores name goes.",
        examples=[["dev"]],
    )


def collect_job(prefix: str, stores: ProjectStores) -> dg.JobDefinition:
    """A job that removes the artifacts that no row names: garbage collection."""

    @dg.op(
        name=f"{prefix}_collect_artifacts",
        out=dg.Out(dg.Nothing),
        description="Says which files of computed features no row names, and removes them unless it is"
        " a dry run.",
        tags={"dagster/kind/metaxy": ""},
    )
    # Without an annotation: Dagster reads those of contexts as objects, not as text.
    def collect(context, config: CollectConfig) -> Iterator[Any]:
        before = time.time() - config.older_than_hours * 3600
        computed = {
            key: asset.runner
            for key, asset in stores.features.assets.items()
            if isinstance(asset.runner, Update)
        }
        asked = config.features or [*computed]
        if unknown := [key for key in asked if key not in computed]:
            there = ", ".join(computed) or "none"
            raise dg.Failure(
                f"there is no computed feature {unknown[0]!r}; there are:"
                f" {there}.{did_you_mean(unknown[0], computed)}",
                allow_retries=False,
            )
        with _opened(stores, config.stores, context.run.run_id) as opened:
            found = {
                key: find_garbage(
                    runner.feature,
                    runner.artifacts,
                    opened,
                    before,
                    keep_older=config.keep_older,
                )
                for key, runner in computed.items()
                if key in asked
            }
        records = [_record(key, one) for key, one in found.items()]
        context.log.info(
            f"{'Would go' if config.dry_run else 'Going'}:\n{text_table(records, _COLUMNS)}"
        )
        notes = [note for one in found.values() for note in one.notes]
        notes += _of_no_feature(computed)
        going = []
        for key, one in found.items():
            if one.garbage and not one.written:
                notes.append(f"{key} was never written to {_these(stores, config)}: {_UNWRITTEN}")
                if key not in config.features:
                    continue
            going += one.garbage if config.dry_run else remove(one)
        files, size = sum(one.files for one in going), sum(one.size for one in going)
        what = f"{_plural(len(going), 'folder')} with {_plural(files, 'file')} of {size} bytes"
        if config.dry_run:
            notes.append(f"{what} would go; set dry_run to false and launch again to remove them")
        else:
            notes.append(f"{what} removed")
        for note in notes:
            context.log.info(note)
        metadata = {
            "features": metadata_table(records, _COLUMNS),
            "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in notes)),
        }
        if errors := [error for one in found.values() for error in one.errors]:
            for error in errors:
                context.log.error(error)
            some = "; ".join(errors[:_NAMED]) + ("; ..." if len(errors) > _NAMED else "")
            raise dg.Failure(
                f"{_plural(len(errors), 'folder')} could not be looked at or removed, all else was:"
                f" {some}",
                metadata=metadata,
                allow_retries=False,
            )
        yield dg.Output(None, metadata=metadata)

    name = f"{prefix}_collect"

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description="Removes the files of computed features that no row names, which runs that were"
        " killed have left. A dry run, unless told otherwise.",
    )
    def job() -> None:
        collect.alias("collect")()

    return job


_UNWRITTEN = "all its files are garbage, unless these are the wrong stores. They go only if `features` names it"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _these(stores: ProjectStores, config: CollectConfig) -> str:
    return ", ".join(config.stores or stores.features.project.config.stores)


@contextmanager
def _opened(stores: ProjectStores, names: Sequence[str], run_id: str) -> Iterator[list[Any]]:
    """The stores whose rows count, open.

    All of metaxy.toml if none are named, since they share one folder of artifacts: what one of them
    does not have, another may.
    """
    project = stores.features.project
    for name in names:
        if (missing := project.missing_store(name)) is not None:
            raise dg.Failure(missing, allow_retries=False)
    opened = []
    with project.use(), ExitStack() as stack:
        for name in names or project.config.stores:
            try:
                opened.append(stack.enter_context(opened_store(project.store(name, run_id), "r")))
            except Exception as error:  # of whatever the store rests on
                raise dg.Failure(
                    f"the store {name!r} cannot be opened ({type(error).__name__}: {error}), so that"
                    " nobody can tell which files its rows name; nothing was removed. Mend it, or, if"
                    " its rows name none, list the others in `stores`",
                    allow_retries=False,
                ) from error
        yield opened


def _of_no_feature(computed: Mapping[str, Update]) -> Iterator[str]:
    """Notes on folders of artifacts that are of no feature."""
    known: dict[Root, list[Artifacts[Any]]] = {}
    for key, runner in computed.items():
        known.setdefault(runner.artifacts, []).append(artifacts_of(runner.artifacts, key))
    for artifacts in known.values():
        names = {one.folder.name for one in artifacts}
        try:
            there = artifacts[0].beside()
        except StoreError as error:
            yield str(error)
            continue
        if folders := sorted(str(folder) for folder in there if folder.name not in names):
            some = ", ".join(folders[:_NAMED]) + (", ..." if len(folders) > _NAMED else "")
            yield f"of no computed feature of this project, and left alone: {some}"


def _record(key: str, found: Collection) -> Sequence[Any]:
    garbage = found.garbage
    return (
        key,
        len(garbage),
        sum(one.files for one in garbage),
        sum(one.size for one in garbage),
        "; ".join(str(one.folder) for one in garbage[:_NAMED])
        + (f" and {len(garbage) - _NAMED} more" if len(garbage) > _NAMED else ""),
    )
