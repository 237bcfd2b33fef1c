"""The job that says what a run would do, and why."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_metaxy.components._asset import UpdateConfig
from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.declare.beta import chosen_beta
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.report.tables import metadata_table, text_table

_COLUMNS = ("sample", "why", "detail")
_TOTALS = ("feature", "samples", "why", "expected seconds", "artifacts deleted", "notes")
_SHOWN = 100


class PlanConfig(UpdateConfig):
    """Which features are looked at, and what a run would be asked for."""

    assets: str = Field(
        default="*",
        description="Which assets are planned, as Dagster's asset selection writes it.",
        examples=['key:"clips/frames"+', "group:clips"],
    )
    partition: str | None = Field(
        default=None,
        description="Only samples of this partition; all if left out.",
        examples=["bikes"],
    )


def plan_job(prefix: str, stores: ProjectStores) -> dg.JobDefinition:
    """A job that says what a run of each feature would do, sample by sample.

    Every feature is planned on what is in the store now: what an upstream feature would compute
    first is not foreseen, but said.
    """
    assets = stores.features.assets

    @dg.op(name=f"{prefix}_plan_features", out=dg.Out(dg.Nothing))
    # Without an annotation: Dagster reads those of contexts as objects, not as text.
    def plan(context, config: PlanConfig) -> Iterator[Any]:
        selected = _selected(stores, config.assets)
        planned: dict[str, Plan] = {}
        acting: set[str] = set()
        tables: dict[str, Any] = {}
        with stores.open("r", context.run.run_id) as store_of:
            for key, asset in assets.items():
                if asset.is_external or asset.key not in selected:
                    continue
                keys = (
                    None
                    if config.partition is None or not asset.partitioning
                    else [config.partition]
                )
                try:
                    found = asset.runner.plan(store_of(key), asset.scope(keys), config.selection())
                except UpdateError as error:
                    found = Plan(asset.feature, notes=[str(error)])
                before = [k for k in asset.feature.upstream if k in acting]
                if found.acts or before or not asset.runner.foresees:
                    acting.add(key)
                if before:
                    found.notes.append(
                        f"more or fewer may come: {', '.join(before)} may change first"
                    )
                planned[key] = found
                if rows := list(islice(found.rows(), _SHOWN)):
                    tables[key] = metadata_table(rows, _COLUMNS)
                    context.log.info(f"{key}:\n{text_table(rows, _COLUMNS)}")
                if found.artifacts:
                    folders = [(str(folder),) for folder in found.artifacts[:_SHOWN]]
                    tables[f"{key}: files that go"] = metadata_table(folders, ("folder",))
                    context.log.info(f"{key}: files that go:\n{text_table(folders, ('folder',))}")
        if not planned:
            there = ", ".join(asset.key.to_user_string() for asset in assets.values())
            raise dg.Failure(
                f"the asset selection {config.assets!r} names no feature that is computed here; there"
                f" are: {there or 'none'}",
                allow_retries=False,
            )
        totals = [_total(found) for found in planned.values()]
        context.log.info(f"Plan:\n{text_table(totals, _TOTALS)}")
        yield dg.Output(None, metadata={"plan": metadata_table(totals, _TOTALS), **tables})

    name = f"{prefix}_plan"

    @dg.job(
        name=name,
        executor_def=dg.in_process_executor,
        description="Says what a run of each feature would compute and delete, sample by sample, and"
        " why. Nothing is computed.",
    )
    def job() -> None:
        plan.alias("plan")()

    return job


def _selected(stores: ProjectStores, selection: str) -> set[dg.AssetKey]:
    """The assets of features that a selection names, as Dagster writes it."""
    with stores.features.project.use():
        specs = [asset.spec() for asset in stores.features.assets.values()]
    try:
        with chosen_beta():
            return set(
                dg.AssetSelection.from_string(selection, include_sources=True).resolve(
                    [dg.AssetsDefinition(specs=specs)]
                )
            )
    except dg.DagsterError as error:
        raise dg.Failure(
            f"the asset selection {selection!r} cannot be read: {error}", allow_retries=False
        ) from None


def _total(plan: Plan) -> Sequence[Any]:
    counts = plan.counts
    reasons = ", ".join(f"{count} {why}" for why, count in counts.items())
    seconds = "" if plan.seconds is None or not plan.tasks else f"{plan.seconds:.1f}"
    artifacts = len(plan.artifacts)
    return (
        plan.feature.key,
        sum(counts.values()),
        reasons,
        seconds,
        f"{artifacts} folder{'' if artifacts == 1 else 's'}" if artifacts else "",
        "; ".join(plan.notes),
    )
