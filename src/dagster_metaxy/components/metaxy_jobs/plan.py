"""The job that says what a run would do, and why."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.increment.update import Update
from dagster_metaxy.report.tables import metadata_table, text_table

_COLUMNS = ("sample", "why", "detail")
_TOTALS = ("feature", "samples", "why", "expected seconds")
_SHOWN = 100


class PlanConfig(dg.Config):
    """Which features are looked at."""

    features: list[str] = Field(
        default=[], description="Keys of features; all if left out.", examples=[["clips/frames"]]
    )


def plan_job(prefix: str, stores: ProjectStores) -> dg.JobDefinition:
    """A job that says what a run of each computed feature would do, sample by sample.

    Every feature is planned on what is in the store now: what an upstream feature would compute
    first is not foreseen.
    """
    assets = stores.features.assets

    @dg.op(name=f"{prefix}_plan_features", out=dg.Out(dg.Nothing))
    # Without an annotation: Dagster reads those of contexts as objects, not as text.
    def plan(context, config: PlanConfig) -> Iterator[Any]:
        computed = {k: a.runner for k, a in assets.items() if isinstance(a.runner, Update)}
        if unknown := [key for key in config.features if key not in computed]:
            there = ", ".join(computed) or "none"
            raise dg.Failure(f"there is no computed feature {unknown[0]!r}; there are: {there}")
        totals: list[dict[str, Any]] = []
        tables: dict[str, Any] = {}
        with stores.open("r", context.run.run_id) as store_of:
            for key, runner in computed.items():
                if config.features and key not in config.features:
                    continue
                try:
                    found = runner.plan(store_of(key))
                except UpdateError as error:
                    raise dg.Failure(str(error), allow_retries=False) from error
                totals.append(_total(found))
                rows: list[Any] = [dict(zip(_COLUMNS, row, strict=True)) for row in found.rows()]
                if rows:
                    tables[key] = metadata_table(rows[:_SHOWN], _COLUMNS)
                    context.log.info(f"{key}:\n{text_table(rows[:_SHOWN], _COLUMNS)}")
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


def _total(plan: Plan) -> dict[str, Any]:
    counts = plan.counts
    reasons = ", ".join(f"{count} {why}" for why, count in counts.items())
    seconds = "" if plan.seconds is None or not plan.tasks else f"{plan.seconds:.1f}"
    values = (plan.feature.key, sum(counts.values()), reasons or "; ".join(plan.notes), seconds)
    return dict(zip(_TOTALS, values, strict=True))
