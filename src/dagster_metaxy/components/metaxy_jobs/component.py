"""MetaxyJobsComponent: jobs over all features of the project."""

from __future__ import annotations

import re
from typing import Annotated

import dagster as dg
from pydantic import field_validator

from dagster_metaxy.components._base import LocatedComponent
from dagster_metaxy.components._graph import project_features
from dagster_metaxy.components._job import update_job
from dagster_metaxy.components.metaxy_jobs.collect import collect_job
from dagster_metaxy.components.metaxy_jobs.delete import delete_job
from dagster_metaxy.components.metaxy_jobs.plan import plan_job
from dagster_metaxy.components.metaxy_jobs.quarantine import quarantine_asset
from dagster_metaxy.components.metaxy_jobs.reconcile import reconcile_job
from dagster_metaxy.components.metaxy_jobs.scaffolder import MetaxyJobsScaffolder
from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores


@dg.scaffold_with(MetaxyJobsScaffolder)
class MetaxyJobsComponent(LocatedComponent):
    """Jobs over all features of the project.

    `metaxy_update` brings all of them up to date in one run without a partition, which Dagster's own
    runs of partitioned assets cannot do. `metaxy_plan` says beforehand what is computed, and why.
    `metaxy_check` evaluates the checks of the features that components declare, and computes
    nothing. `metaxy_reconcile` tells Dagster what is in the store: it observes every feature, and reports
    as materialized what was computed outside of Dagster. `metaxy_delete` deletes the samples of a
    feature that meet a condition, all that was computed from them, and their files; unless told
    otherwise it only says what would go. `metaxy_collect` removes the files of computed features that
    no row names, which runs that were killed have left; it, too, only says so unless told otherwise.
    The asset `metaxy/quarantine` shows the samples of all features that failed, with their errors.

    Scaffold it with

        dg scaffold defs MetaxyJobsComponent maintenance
    """

    prefix: Annotated[
        str,
        dg.Resolver.default(
            description="What the names of the jobs begin with: `<prefix>_update`,"
            " `<prefix>_plan`, `<prefix>_check`, `<prefix>_reconcile`, `<prefix>_delete` and"
            " `<prefix>_collect`; and the key of the asset `<prefix>/quarantine`.",
            examples=["metaxy"],
        ),
    ] = "metaxy"
    store: Annotated[
        str | None,
        dg.Resolver.default(
            description="Name of the store in metaxy.toml, for features whose component names none;"
            " its default store if left out.",
            examples=["dev"],
        ),
    ] = None

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_]+", prefix):
            raise ValueError(f"{prefix!r} is not a word of letters, digits and underscores")
        return prefix

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The jobs."""
        if self._error is not None:
            raise self._error
        features = project_features(context)
        if (missing := features.project.missing_store(self.store)) is not None:
            raise self.error(missing, "store")
        stores = ProjectStores(features, self.store)
        jobs = [
            plan_job(self.prefix, stores),
            reconcile_job(self.prefix, stores),
            delete_job(self.prefix, stores),
            collect_job(self.prefix, stores),
        ]
        if computed := [a for a in features.assets.values() if not a.is_external]:
            what = "Brings all features up to date, in all partitions and beyond, in one run."
            jobs.append(
                update_job(
                    f"{self.prefix}_update",
                    computed,
                    features.assets.values(),
                    features.project,
                    what,
                )
            )
        checks = [
            dg.AssetCheckKey(asset.key, name)
            for asset in features.assets.values()
            for name in asset.check_names
        ]
        shown = [quarantine_asset(self.prefix, stores)] if computed else []
        if not checks:
            return dg.Definitions(assets=shown, jobs=jobs)
        check_job = dg.define_asset_job(
            f"{self.prefix}_check",
            selection=dg.AssetSelection.checks(*checks),
            executor_def=dg.in_process_executor,
            description="Evaluates the checks of all features, and materializes nothing.",
        )
        return dg.Definitions(assets=shown, jobs=[*jobs, check_job])
