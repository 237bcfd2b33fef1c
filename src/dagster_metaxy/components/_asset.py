"""One feature as a Dagster asset, and as an op of a job over a whole collection."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import dagster as dg
from pydantic import Field

from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import Partitioning
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.discovery.sensor import register_keys
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Runtime
from dagster_metaxy.increment.outcome import Counts, FailedSample, Outcome, Pending, UpdateError
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import Update
from dagster_metaxy.report.checks import (
    CHECKS,
    NO_FAILED,
    OF_PENDING,
    failed_before,
    failure_check,
    feature_checks,
)
from dagster_metaxy.report.metadata import (
    count_metadata,
    failure_summary,
    outcome_metadata,
    rows_metadata,
)

if TYPE_CHECKING:
    import metaxy as mx

# What Dagster's own materializations carry, so that conditions on data versions see ours.
DATA_VERSION_TAG = "dagster/data_version"

# Every observation is an event that Dagster keeps.
_OBSERVED_SECONDS = 60.0


class Runner(Protocol):
    """What brings one feature up to date."""

    @property
    def feature(self) -> Feature:
        """The feature."""
        ...

    def of(self, feature: Feature) -> Runner:
        """The same for `feature`, which is this one with more details."""
        ...

    @property
    def resource_names(self) -> set[str]:
        """The Dagster resources that it asks for."""
        ...

    def run(self, store: mx.MetadataStore, scope: Scope, runtime: Runtime) -> Outcome:
        """Compute what is new or stale, delete what is orphaned, and say what was done."""
        ...

    @property
    def pending(self) -> Callable[..., Pending] | None:
        """Says what a run would find to do in an open store; None where only a run can tell."""
        ...


class UpdateConfig(dg.Config):
    """What a run is asked to do beside, or less than, what is new or stale."""

    force: bool = Field(
        default=False, description="Compute all samples, whether they are up to date or not."
    )
    force_where: str = Field(
        default="",
        description="Compute the samples that meet a condition on the columns of the upstream, as SQL"
        " writes it, up to date or not.",
        examples=["video_id = 'bikes'"],
    )
    only: list[str] = Field(
        default=[],
        description="Names of samples, such as `video_id=bikes`, or ids where one column names a"
        " sample: no other one is computed, and none is deleted.",
        examples=[["bikes"]],
    )
    limit: int | None = Field(
        default=None, ge=1, description="Compute at most so many samples.", examples=[100]
    )
    subsample: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Compute this share of the samples: always the same ones.",
        examples=[0.01],
    )

    def selection(self) -> Selection:
        """The same, for the increment."""
        return Selection(
            force=self.force_where or self.force,
            only=frozenset(self.only),
            limit=self.limit,
            subsample=None if self.subsample == 1.0 else self.subsample,
        )


def op_name(key: str) -> str:
    """A feature key as a name that Dagster takes for ops and their inputs."""
    return key.replace("/", "__").replace("-", "_")


_COMPONENT_MARK = "dagster-metaxy/component"


def is_of_component(asset: dg.AssetsDefinition) -> bool:
    """Whether an asset is one that a component made of a feature."""
    return any(_COMPONENT_MARK in spec.metadata for spec in asset.specs)


def code_references(function: Callable[..., Any] | None) -> dict[str, Any]:
    """The metadata that links an asset to the file and line of a function or class; nothing where it
    has none, as built-in ones."""
    found = inspect.unwrap(function) if function is not None else None
    while isinstance(found, functools.partial):
        found = inspect.unwrap(found.func)
    try:
        file, line = inspect.getsourcefile(found), inspect.getsourcelines(found)[1]  # type: ignore[arg-type]
    except (TypeError, OSError):
        return {}
    if file is None:
        return {}
    reference = dg.LocalFileCodeReference(file_path=os.path.abspath(file), line_number=line or 1)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def selected_checks(context: dg.AssetExecutionContext) -> list[str]:
    """The names of the checks that a run evaluates."""
    selected = {key.name for key in context.selected_asset_check_keys}
    return [name for name in CHECKS if name in selected]


@dataclass(frozen=True)
class FeatureAsset:
    """One feature, what brings it up to date, and how Dagster shows it.

    Attributes:
        runner: The feature, and what brings it up to date.
        store: Name of the store in metaxy.toml; the default store if None.
        partitioning: Partitions, and which one a sample belongs to; None for no partitions.
        attributes: Further arguments of `dg.AssetSpec`.
        metadata: Further metadata of the asset.
        source: The function that computes it, for the asset's link to the code.
        io_manager_key: The IO manager that loads it for downstream assets.
        op_tags: Tags of the op, for run launchers and executors.
        retry_policy: When the op is tried again.
        pool: The pool that limits how many such ops run at once.
        backfill_policy: How many partitions a run takes; all of a range if None.
        partition_mappings: By upstream feature, which of its partitions those of this one depend
            on, where that is not Dagster's default.
        checks: Names of the checks it has.
    """

    runner: Runner
    store: str | None = None
    partitioning: Partitioning | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Callable[..., Any] | None = None
    io_manager_key: str | None = None
    op_tags: Mapping[str, str] = field(default_factory=dict)
    retry_policy: dg.RetryPolicy | None = None
    pool: str | None = None
    backfill_policy: dg.BackfillPolicy | None = None
    partition_mappings: Mapping[str, dg.PartitionMapping] = field(default_factory=dict)
    checks: Collection[str] = tuple(CHECKS)

    is_external: ClassVar[bool] = False

    @property
    def feature(self) -> Feature:
        """What is kept in the store."""
        return self.runner.feature

    @property
    def key(self) -> dg.AssetKey:
        """The asset key: the parts of the feature key, or what Metaxy's metadata says instead."""
        attributes = self.feature.metadata.get("dagster/attributes")
        given = attributes.get("asset_key") if isinstance(attributes, Mapping) else None
        return dg.AssetKey(given or self.feature.key.split("/"))

    @property
    def op_name(self) -> str:
        """The name of the asset's op."""
        return op_name(self.feature.key)

    def plain_spec(self) -> dg.AssetSpec:
        """The asset as it is declared, without what Metaxy knows of it."""
        spec = dg.AssetSpec(
            self.key,
            metadata={
                **self._partition_by(),
                **self.metadata,
                **code_references(self.source),
                "metaxy/feature": self.feature.key,
                _COMPONENT_MARK: True,
            },
            partitions_def=self.partitioning.definition if self.partitioning else None,
            **self.attributes,
        )
        return spec.with_io_manager_key(self.io_manager_key) if self.io_manager_key else spec

    def spec(self) -> dg.AssetSpec:
        """The asset with all that Metaxy knows of it: deps, columns, code version, lineage."""
        import metaxy.ext.dagster as mxd

        # The spec, not the assets definition: there, deps would be missing from the op, and the
        # steps of a run would go in any order.
        return self._mapped(mxd.metaxify(self.plain_spec()))

    def _mapped(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """`spec` with the partition mappings to its upstream."""
        if not self.partition_mappings:
            return spec
        # Metaxy knows the assets of the upstream features; it gives them in their order.
        deps = [
            dg.AssetDep(dep.asset_key, partition_mapping=self.partition_mappings.get(key))
            for key, dep in zip(self.feature.upstream, spec.deps, strict=True)
        ]
        return spec.replace_attributes(deps=deps)

    def _partition_by(self) -> dict[str, str]:
        """The metadata by which Metaxy's IO manager loads a partition, where it can.

        It compares one column with the partition key: other columns than text make it fail.
        """
        found = self.partitioning
        if found is None or found.follows_path or len(found.columns) != 1:
            return {}
        (column,) = found.columns
        return {"partition_by": column} if self.feature.columns[column].type == "str" else {}

    def assets_def(
        self,
        project: MetaxyProject,
        spec: dg.AssetSpec | None = None,
        execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] | None = None,
    ) -> dg.AssetsDefinition:
        """The asset, materialized whole or by partitions.

        Args:
            project: For the store.
            spec: What Dagster shows; `self.spec()` if left out.
            execute: What materializes it; `self.materialize()` if left out.
        """

        @dg.multi_asset(
            name=self.op_name,
            specs=[spec or self.spec()],
            check_specs=self.check_specs,
            # So that the checks can be run by themselves.
            can_subset=bool(self.check_names),
            backfill_policy=(self.backfill_policy or dg.BackfillPolicy.single_run())
            if self.partitioning
            else None,
            required_resource_keys=self.runner.resource_names,
            config_schema=self._config_schema,
            op_tags=dict(self.op_tags),
            retry_policy=self.retry_policy,
            pool=self.pool,
        )
        # Without an annotation: Dagster reads those of contexts as objects, not as text.
        def materialize(context) -> Iterator[Any]:
            if self.key not in context.selected_asset_keys:
                yield from self._checks(context, project, selected_checks(context))
            else:
                yield from execute(context) if execute else self.materialize(context, project)

        return materialize

    def materialize(
        self, context: dg.AssetExecutionContext, project: MetaxyProject
    ) -> Iterator[Any]:
        """Bring the feature up to date in the partitions of a run, and tell Dagster.

        Yields:
            What an asset yields: materializations, the check, and a `MaterializeResult`.

        Raises:
            dg.Failure: A sample of the run's partitions failed; the other partitions were told.
        """
        keys = None
        if context.has_partition_key or context.has_partition_key_range:
            keys = list(context.partition_keys)
        outcome, metadata, data_version = self._update(context, project, keys)
        if keys is not None:
            failed = {k for k in keys if outcome.partitions.get(k, Counts()).failed}
            if failed:
                # Told key by key: a result for the run would turn the failed ones green.
                yield from self._checks(context, project, selected_checks(context), outcome, keys)
                for key in keys:
                    if key not in failed:
                        yield self._partition_event(key, outcome)
                raise dg.Failure(failure_summary(outcome.failed), metadata)
        else:
            yield from self._partition_events(context.instance, outcome)
        yield dg.MaterializeResult(
            asset_key=self.key,
            metadata=metadata,
            data_version=dg.DataVersion(data_version),
            check_results=list(
                self._checks(context, project, selected_checks(context), outcome, keys)
            ),
        )

    def op(self, project: MetaxyProject, after: Sequence[str]) -> dg.OpDefinition:
        """An op that brings the feature up to date over all partitions, in a run without any.

        Dagster cannot run partitioned assets without a partition, nor over scattered ones; an op
        can, and reports exactly the partitions that it touched.

        Args:
            project: For the store.
            after: Keys of the features whose ops it waits for, by an input for each.
        """

        @dg.op(
            name=f"update_{self.op_name}",
            ins={op_name(key): dg.In(dg.Nothing) for key in after},
            out=dg.Out(dg.Nothing),
            description=self.feature.description,
            tags={**self.op_tags, "dagster/kind/metaxy": ""},
            retry_policy=self.retry_policy,
            pool=self.pool,
            required_resource_keys=self.runner.resource_names,
            config_schema=self._config_schema,
        )
        def update(context) -> Iterator[Any]:
            outcome, metadata, data_version = self._update(context, project, None)
            yield from self._partition_events(context.instance, outcome)
            yield dg.AssetMaterialization(
                self.key, metadata=metadata, tags={DATA_VERSION_TAG: data_version}
            )
            for check in self._checks(context, project, self.check_names, outcome):
                assert check.check_name is not None
                context.log_event(
                    dg.AssetCheckEvaluation(
                        asset_key=self.key,
                        check_name=check.check_name,
                        passed=check.passed,
                        severity=check.severity,
                        description=check.description,
                        metadata=dict(check.metadata or {}),
                    )
                )
            yield dg.Output(None)

        return update

    def _update(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        project: MetaxyProject,
        keys: Sequence[str] | None,
    ) -> tuple[Outcome, dict[str, Any], str]:
        scope = self._scope(keys)
        # From the context, since a component's `execute` may be overridden.
        config = UpdateConfig(**(getattr(context, "op_execution_context", context).op_config or {}))
        runtime = Runtime(
            log=context.log,
            run_id=context.run.run_id,
            partition_keys=tuple(keys or ()),
            resources={n: getattr(context.resources, n) for n in self.runner.resource_names},
            selection=config.selection(),
            tell=self._observer(context),
        )
        with project.use():
            store = project.store(self.store, context.run.run_id)
            try:
                outcome = self.runner.run(store, scope, runtime)
            except UpdateError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            rows, data_version = rows_metadata(store, self.feature, self._inside(keys))
        metadata = {**rows, **outcome_metadata(outcome)}
        context.log.info(f"{self.feature.key}: {outcome.summary}")
        for note in outcome.notes:
            context.log.info(f"{self.feature.key}: {note}")
        if outcome.blocked and keys is not None:
            raise dg.Failure(f"{self.feature.key}: {'; '.join(outcome.notes)}")
        if outcome.failed and not metadata["dagster/row_count"]:
            # Not one sample, now or ever: that is no bad apple.
            raise dg.Failure(failure_summary(outcome.failed), metadata)
        return outcome, metadata, data_version

    def _observer(
        self, context: dg.AssetExecutionContext | dg.OpExecutionContext
    ) -> Callable[[Mapping[str, Any]], None]:
        """Shows how far a run is, while it is under way, as observations of the asset."""
        last = float("-inf")
        run = {"run": dg.MetadataValue.dagster_run(context.run.run_id)}

        def observe(progress: Mapping[str, Any]) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _OBSERVED_SECONDS:
                last = now
                # What a context logs, Dagster keeps back until the step yields, which is at its end.
                context.instance.report_runless_asset_event(
                    dg.AssetObservation(self.key, metadata={**progress, **run})
                )

        return observe

    @property
    def _config_schema(self) -> dict[str, Any]:
        """What a run can be asked for; roots list their source, whatever is asked."""
        return UpdateConfig.to_fields_dict() if isinstance(self.runner, Update) else {}

    @property
    def check_names(self) -> list[str]:
        """The checks that it has, less those that only a run could answer."""
        unknown = OF_PENDING if self.runner.pending is None else ()
        return [name for name in CHECKS if name in self.checks and name not in unknown]

    @property
    def check_specs(self) -> list[dg.AssetCheckSpec]:
        """Its checks, as Dagster shows them."""
        return [
            dg.AssetCheckSpec(name, asset=self.key, description=CHECKS[name])
            for name in self.check_names
        ]

    def _checks(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        project: MetaxyProject,
        names: Collection[str],
        outcome: Outcome | None = None,
        keys: Sequence[str] | None = None,
    ) -> Iterator[dg.AssetCheckResult]:
        """Evaluate checks of the whole feature, after an update of it or by themselves."""
        if NO_FAILED in names:
            failed = [] if outcome is None else outcome.failed
            if outcome is None or keys is not None:
                # What was not computed now, is as it was found last.
                named = {failure.name for failure in failed}
                elsewhere = self._failed_elsewhere(context.instance, keys)
                failed = [*failed, *(f for f in elsewhere if f.name not in named)]
            yield failure_check(self.key, failed)
        with project.use():
            store = project.store(self.store, context.run.run_id)
            try:
                yield from feature_checks(store, self.feature, self.runner.pending, self.key, names)
            except UpdateError as error:
                raise dg.Failure(str(error), allow_retries=False) from error

    def _failed_elsewhere(
        self, instance: dg.DagsterInstance, keys: Sequence[str] | None
    ) -> list[FailedSample]:
        """Failed samples that the latest check names, of other partitions than a run's."""
        before = failed_before(instance, self.key, self.feature.parent_columns)
        if self.partitioning is None or keys is None:
            return before
        return [failure for failure in before if failure.partition not in keys]

    def _scope(self, keys: Sequence[str] | None) -> Scope:
        """Which samples a run of some partitions, or of all, is about."""
        if self.partitioning is None:
            return Scope()
        chosen = None if keys is None else frozenset(keys)
        found = self.partitioning
        return Scope(found.key, chosen, found.follows_path, found.columns)

    def _inside(
        self, keys: Sequence[str] | None
    ) -> tuple[Sequence[str], Callable[[Mapping[str, Any]], bool]] | None:
        """The columns that partitions are found by, and whether a row is in those of a run; None
        where the run is about all."""
        if self.partitioning is None or keys is None:
            return None
        scope = self._scope(keys)
        return scope.columns, lambda row: scope.covers(scope.key(row))

    def _partition_events(
        self, instance: dg.DagsterInstance, outcome: Outcome
    ) -> Iterator[dg.AssetMaterialization]:
        """Materializations of the partitions that are as they should be, and were touched, or
        are not known to Dagster: their run was killed, or the instance is new."""
        if self.partitioning is None:
            return
        for name, new in self.partitioning.dynamic_keys(outcome.up_to_date).items():
            register_keys(instance, name, new)
        known = instance.get_materialized_partitions(self.key)
        for key in sorted(outcome.up_to_date):
            if key in outcome.partitions or key not in known:
                yield self._partition_event(key, outcome)

    def unreported_partitions(
        self, instance: dg.DagsterInstance, store: mx.MetadataStore
    ) -> Iterator[dg.AssetMaterialization]:
        """Materializations of the partitions with rows and nothing left to do that Dagster does not
        know.

        Args:
            instance: Where they are registered.
            store: An open store that holds the feature.
        """
        if self.partitioning is None:
            return
        scope = self._scope(None)
        pending = self.runner.pending  # of a root of one's own, rows are what was listed last
        left = pending(store, scope) if pending is not None else Pending()
        rows = stores.read(store, self.feature.key)
        # Rows from before the columns were declared do not have them.
        if rows is None or not set(scope.columns) <= set(rows.columns):
            return
        outcome = Outcome()
        outcome.settle(
            {
                scope.key(row)
                for row in rows.select(set(self.partitioning.columns))
                .unique()
                .iter_rows(named=True)
            }
            - {
                scope.key({**dict.fromkeys(scope.columns), **sample})
                for samples in (left.new, left.stale, left.orphaned, left.unknown)
                for sample in samples
            }
        )
        yield from self._partition_events(instance, outcome)

    def _partition_event(self, key: str, outcome: Outcome) -> dg.AssetMaterialization:
        counts = outcome.partitions.get(key, Counts())
        dimensions = self.partitioning.keys_by_dimension(key) if self.partitioning else {}
        return dg.AssetMaterialization(
            self.key,
            partition=key,
            metadata=count_metadata(counts),
            # By these, Dagster knows the dimensions of a key.
            tags={f"dagster/partition/{name}": own for name, own in dimensions.items()},
        )


def update_job(
    name: str, assets: Sequence[FeatureAsset], project: MetaxyProject, description: str
) -> dg.JobDefinition:
    """A job that brings features up to date, in all partitions, in one run.

    Args:
        name: Its name.
        assets: The features, upstream first.
        project: For their stores.
        description: What Dagster shows.
    """
    keys = {asset.feature.key for asset in assets}

    @dg.graph(name=name)
    def update() -> None:
        done: dict[str, Any] = {}
        for asset in assets:
            after = [upstream for upstream in asset.feature.upstream if upstream in keys]
            op = asset.op(project, after)
            done[asset.feature.key] = op(
                **{op_name(upstream): done[upstream] for upstream in after}
            )

    return update.to_job(
        name=name,
        # A process per step would spend seconds on imports for each; computes have threads.
        executor_def=dg.in_process_executor,
        description=description,
    )
