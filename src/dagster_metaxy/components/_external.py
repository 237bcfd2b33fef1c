"""A feature that is produced elsewhere, as an asset that Dagster observes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from dagster_metaxy.components._asset import FeatureAsset, selected_checks
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.report.checks import NO_FAILED
from dagster_metaxy.report.metadata import NEVER_WRITTEN, column_schema, rows_metadata

if TYPE_CHECKING:
    import metaxy as mx

    from dagster_metaxy.increment.compute import Runtime
    from dagster_metaxy.increment.outcome import Outcome
    from dagster_metaxy.increment.selection import Scope, Selection


@dataclass(frozen=True)
class Elsewhere:
    """Stands where a runner would be: nothing here brings the feature up to date."""

    feature: Feature

    foresees = False

    def of(self, feature: Feature) -> Elsewhere:
        """The same for `feature`, which is this one with more details."""
        return replace(self, feature=feature)

    @property
    def resource_names(self) -> set[str]:
        """None."""
        return set()

    def plan(
        self,
        store: mx.MetadataStore,
        scope: Scope | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """Nothing: what is new or stale, only its own project can tell."""
        return Plan(self.feature)

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Refuse: only the feature's own project may write it."""
        raise UpdateError(f"{self.feature.key} is external: it is produced elsewhere")


@dataclass(frozen=True)
class ExternalAsset(FeatureAsset):
    """A feature that is produced elsewhere: observed, never materialized."""

    is_external: ClassVar[bool] = True

    def spec(self) -> dg.AssetSpec:
        """The asset with what is known of it: deps, columns, code version."""
        import metaxy as mx
        import metaxy.ext.dagster as mxd

        definition = mx.get_feature_by_key(self.feature.key)
        spec = self.plain_spec()
        if definition.feature_class_path is None:
            # There is no class for Metaxy to take the columns from.
            spec = spec.merge_attributes(
                metadata={"dagster/column_schema": column_schema(self.feature)}
            )
            return self._mapped(mxd.metaxify(inject_column_schema=False)(spec))
        return super().spec()

    def assets_def(
        self,
        project: MetaxyProject,
        spec: dg.AssetSpec | None = None,
        execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] | None = None,
    ) -> dg.AssetsDefinition:
        """The asset, which Dagster observes."""

        @dg.multi_observable_source_asset(
            name=f"observe_{self.op_name}",
            specs=[spec or self.spec()],
            check_specs=self.check_specs,
            can_subset=bool(self.check_names),
        )
        # Without an annotation: Dagster reads those of contexts as objects, not as text.
        def observe(context) -> Iterator[Any]:
            if self.key not in context.selected_asset_keys:
                yield from self._checks(context, project, selected_checks(context))
            else:
                yield from execute(context) if execute else self.materialize(context, project)

        return observe

    @property
    def check_names(self) -> list[str]:
        """The checks that ask for rows alone."""
        return [name for name in super().check_names if name != NO_FAILED]

    def materialize(
        self, context: dg.AssetExecutionContext, project: MetaxyProject
    ) -> Iterator[Any]:
        """Look at the store, and tell Dagster how many rows there are, and of which version.

        Yields:
            An `ObserveResult`.
        """
        with project.use():
            store = project.store(self.store, context.run.run_id)
            metadata, data_version = rows_metadata(store, self.feature)
        if data_version == NEVER_WRITTEN:
            note = f"{self.feature.key} is not in the store: its project has not written it, or its key"
            note += " is another"
            context.log.warning(note)
            metadata["notes"] = note
        yield dg.ObserveResult(
            asset_key=self.key,
            metadata=metadata,
            data_version=dg.DataVersion(data_version),
            check_results=list(self._checks(context, project, selected_checks(context))),
        )
