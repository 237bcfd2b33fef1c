"""The asset that shows which samples are quarantined, and why."""

from typing import Any

import dagster as dg

from dagster_metaxy.components.metaxy_jobs.stores import ProjectStores
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.report.metadata import failed_table
from dagster_metaxy.report.tables import metadata_table

_TOTALS = ("feature", "samples", "first error", "note")


def quarantine_asset(prefix: str, stores: ProjectStores) -> dg.AssetsDefinition:
    """An asset without data whose materialization is tables of the samples that failed last and have
    not changed since, with their errors: one of all features, and one for each that has any."""
    assets = [asset for asset in stores.features.assets.values() if not asset.is_external]

    @dg.asset(
        key=[prefix, "quarantine"],
        deps=[asset.key for asset in assets],
        description="The samples of all features that failed, with their errors. They are held back"
        " until their input or the code version changes, or a run is asked for them"
        " (`retry_quarantined`).",
        kinds={"metaxy"},
        # As soon as a feature was materialized, where the automation sensor is on.
        automation_condition=dg.AutomationCondition.any_deps_updated().since_last_handled()
        & ~dg.AutomationCondition.in_progress(),
    )
    # Without an annotation: Dagster reads those of contexts as objects, not as text.
    def quarantine(context) -> dg.MaterializeResult:
        totals: list[tuple[str, int, str, str]] = []
        tables: dict[str, Any] = {}
        with stores.open("r", context.run.run_id) as store_of:
            for asset in assets:
                key = asset.feature.key
                try:
                    failed = asset.runner.plan(store_of(key), asset.scope(None)).failed
                except UpdateError as error:
                    totals.append((key, 0, "", str(error)))
                    continue
                first = failed[0].reason if failed else ""
                totals.append((key, len(failed), first, ""))
                if failed:
                    tables[key] = failed_table(failed)
        return dg.MaterializeResult(
            metadata={
                "samples": sum(count for _, count, _, _ in totals),
                "features": metadata_table(totals, _TOTALS),
                **tables,
            }
        )

    return quarantine
