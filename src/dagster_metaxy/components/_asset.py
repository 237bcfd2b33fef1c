"""One feature as a Dagster asset, and as an op of a job over a whole collection."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import dagster as dg
from pydantic import Field, ValidationError

from dagster_metaxy.declare._dagster import (
    failed_partitions,
    plan_materializations,
)
from dagster_metaxy.declare.beta import chosen_beta
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import Partitioning
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.discovery.sensor import register_keys
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Runtime
from dagster_metaxy.increment.outcome import Counts, Outcome, UpdateError
from dagster_metaxy.increment.plan import Plan
from dagster_metaxy.increment.root import Root
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import Update
from dagster_metaxy.report.checks import CHECKS, FORESEEN, feature_checks
from dagster_metaxy.report.metadata import (
    PARTITIONS_SHOWN,
    count_metadata,
    failure_summary,
    outcome_metadata,
    partitions_metadata,
    rows_metadata,
)
from dagster_metaxy.report.previews import Preview

if TYPE_CHECKING:
    import metaxy as mx

# What Dagster's own materializations carry, so that conditions on data versions see ours.
DATA_VERSION_TAG = "dagster/data_version"

FAILED_SAMPLES = "failed samples"
"""What the output of an op names the samples by that failed in partitions."""
# Every observation is an event that Dagster keeps.
_OBSERVED_SECONDS = 60.0


class Runner(Protocol):
    """What brings one feature up to date."""

    @property
    def foresees(self) -> bool:
        """Whether a plan tells what is new or stale, or only a run."""
        ...

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

    def plan(
        self,
        store: mx.MetadataStore,
        scope: Scope | None = None,
        selection: Selection | None = None,
    ) -> Plan:
        """What a run would do in an open store, and why."""
        ...


class RetryConfig(dg.Config):
    """Whether a run tries quarantined samples again."""

    retry_quarantined: bool = Field(
        default=False,
        description="Try the samples again that failed before, although their input and code are the"
        " same.",
    )

    def selection(self) -> Selection:
        """The same, for the increment."""
        return Selection(retry_quarantined=self.retry_quarantined)


class UpdateConfig(RetryConfig):
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
        " sample: no other one is computed, and none is deleted. Quarantined ones that are named are"
        " tried again.",
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
            retry_quarantined=self.retry_quarantined,
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
    with chosen_beta():
        reference = dg.LocalFileCodeReference(
            file_path=os.path.abspath(file), line_number=line or 1
        )
        references = dg.CodeReferencesMetadataValue(code_references=[reference])
    return {"dagster/code_references": references}


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
        remove_deleted_keys: Whether a run over all removes the dynamic partitions whose samples
            were all deleted.
        previews: What its materializations show of the newest rows, and those of its partitions.
        companions: Others that may be computed together with it, where a run is about them, too.
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
    remove_deleted_keys: bool = False
    previews: Sequence[Preview] = ()
    companions: Sequence[FeatureAsset] = field(default=(), compare=False)

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

    @property
    def update_op_name(self) -> str:
        """The name of the op that updates it over all partitions."""
        return f"update_{self.op_name}"

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
            left = outcome.remaining.left if outcome.remaining else ()
            waiting = {task.partition for task in left}
            undone = {
                key
                for key in keys
                if (counts := outcome.partitions.get(key, Counts())).failed
                or counts.quarantined
                or key in waiting
            }
            if undone:
                # Told key by key: a result for the run would turn the undone ones green.
                yield from self._checks(context, project, selected_checks(context), outcome)
                done = [key for key in keys if key not in undone]
                yield from self._told(context, project, done, outcome)
                summary = failure_summary(outcome.failed, outcome.quarantined)
                raise dg.Failure(
                    summary or f"samples are left to do in {', '.join(sorted(undone))}", metadata
                )
        else:
            told = self._to_tell(context.instance, outcome)
            yield from self._told(context, project, told, outcome)
        yield dg.MaterializeResult(
            asset_key=self.key,
            metadata=metadata,
            data_version=dg.DataVersion(data_version),
            check_results=list(self._checks(context, project, selected_checks(context), outcome)),
        )

    def op(self, name: str, project: MetaxyProject, after: Sequence[str]) -> dg.OpDefinition:
        """An op that brings the feature up to date over all partitions, in a run without any.

        Dagster cannot run partitioned assets without a partition, nor over scattered ones; an op
        can, and reports exactly the partitions that it touched.

        Args:
            name: Its name, as no other op is called; jobs show it as `update_op_name`.
            project: For the store.
            after: Keys of the features whose ops it waits for, by an input for each.
        """

        @dg.op(
            name=name,
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
            told = self._to_tell(context.instance, outcome)
            yield from self._told(context, project, told, outcome)
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
            failed = [failure for failure in outcome.failed if failure.partition is not None]
            # For the op that reports failures: with its event, which a run from failure finds, too.
            yield dg.Output(
                None, metadata={FAILED_SAMPLES: failure_summary(failed)} if failed else {}
            )

        return update

    def _update(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        project: MetaxyProject,
        keys: Sequence[str] | None,
    ) -> tuple[Outcome, dict[str, Any], str]:
        scope = self.scope(keys)
        # From the context, since a component's `execute` may be overridden.
        given = getattr(context, "op_execution_context", context).op_config or {}
        config = self._asked(given)
        runtime = Runtime(
            log=context.log,
            run_id=context.run.run_id,
            partition_keys=tuple(keys or ()),
            resources={n: getattr(context.resources, n) for n in self.runner.resource_names},
            selection=config.selection(),
            companions=list(self._companions(context)),
            tell=self._observer(context),
        )
        with project.use():
            store = project.store(self.store, context.run.run_id)
            try:
                outcome = self.runner.run(store, scope, runtime)
                # Dagster keeps what is shown of a range of partitions with each of them.
                few = keys is None or len(keys) <= PARTITIONS_SHOWN
                rows, data_version = rows_metadata(
                    store, self.feature, self._inside(keys), self.previews if few else ()
                )
            except UpdateError as error:
                # What is wrong with a store may pass; what is wrong with a declaration does not.
                passing = isinstance(error, stores.StoreError)
                raise dg.Failure(str(error), allow_retries=passing) from error
            if isinstance(context, dg.OpExecutionContext):  # those of assets plan by themselves
                self._plan_failed(context, outcome)
            if keys is None:
                outcome.settle(self._emptied(context.instance, store, outcome))
        if runtime.companions and outcome.costs.samples:
            outcome.notes.append(
                "where several features of this run were computed from one decode, compute seconds are"
                " an equal share of its time"
            )
        metadata = {**rows, **outcome_metadata(outcome)}
        context.log.info(f"{self.feature.key}: {outcome.summary}")
        for note in outcome.notes:
            log = context.log.warning if note in outcome.warnings else context.log.info
            log(f"{self.feature.key}: {note}")
        if outcome.blocked and keys is not None:
            raise dg.Failure(f"{self.feature.key}: {'; '.join(outcome.notes)}")
        # Samples that are done may have no rows in an expansion.
        wrong = outcome.failed or (outcome.quarantined and not self.feature.expansion)
        if wrong and not outcome.kept and not metadata["dagster/row_count"]:
            # Not one sample, now or ever: that is no bad apple.
            raise dg.Failure(failure_summary(outcome.failed, outcome.quarantined), metadata)
        return outcome, metadata, data_version

    @property
    def is_joint(self) -> bool:
        """Whether it may be computed together with any other."""
        return isinstance(self.runner, Update) and self.runner.compute.joint is not None

    def goes_with(self, other: FeatureAsset) -> bool:
        """Whether another feature may be computed together with it, in a run that is about both."""
        return (
            isinstance(self.runner, Update)
            and isinstance(other.runner, Update)
            and self.runner.goes_with(other.runner)
            and (self.store, self.partitioning) == (other.store, other.partitioning)
        )

    def _companions(
        self, context: dg.AssetExecutionContext | dg.OpExecutionContext
    ) -> Iterator[tuple[Any, Selection]]:
        """The companions that this run is about, each with what it is asked for."""
        if not self.companions:
            return
        is_op = isinstance(context, dg.OpExecutionContext)
        there = {node.name for node in context.job_def.nodes}
        configs: Any = context.run.run_config.get("ops") or {}
        for other in self.companions:
            name = other.update_op_name if is_op else other.op_name
            if name in there:
                with suppress(dg.Failure):  # its own op will say what is wrong
                    config = (configs.get(name) or {}).get("config") or {}
                    yield other.runner, other._asked(config).selection()

    def _asked(self, given: Mapping[str, Any]) -> RetryConfig:
        """What a run is asked for.

        Raises:
            dg.Failure: A value is not what it may be.
        """
        try:
            return self._config(**given) if self._config else RetryConfig()
        except ValidationError as error:
            (wrong, *_) = error.errors()
            named, said = ".".join(map(str, wrong["loc"])), str(wrong["msg"])
            raise dg.Failure(
                f"{self.feature.key}: the run's config, {named}: {said[:1].lower()}{said[1:]} (got"
                f" {wrong['input']!r})",
                allow_retries=False,
            ) from None

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
    def _config(self) -> type[RetryConfig] | None:
        """What a run can be asked for; a compute that lists samples is asked for nothing."""
        if isinstance(self.runner, Update):
            return UpdateConfig
        return None if isinstance(self.runner, Root) else RetryConfig

    @property
    def _config_schema(self) -> dict[str, Any]:
        return self._config.to_fields_dict() if self._config else {}

    @property
    def check_names(self) -> list[str]:
        """The checks that it has, less those that only a run could answer."""
        unknown = () if self.runner.foresees else FORESEEN
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
    ) -> Iterator[dg.AssetCheckResult]:
        """Evaluate checks of the whole feature, after an update of it or by themselves."""

        def left(store: mx.MetadataStore) -> Plan:
            if outcome is not None and outcome.remaining is not None:
                return outcome.remaining
            stores.check_table(store, self.feature)
            return self.runner.plan(store, self.scope(None))

        with project.use():
            store = project.store(self.store, context.run.run_id)
            try:
                yield from feature_checks(store, self.feature, left, self.key, names)
            except UpdateError as error:
                raise dg.Failure(str(error), allow_retries=False) from error

    def scope(self, keys: Sequence[str] | None) -> Scope:
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
        scope = self.scope(keys)
        return scope.columns, lambda row: scope.covers(scope.key(row))

    def _to_tell(self, instance: dg.DagsterInstance, outcome: Outcome) -> Sequence[str]:
        """The partitions that are as they should be, and were touched, or Dagster does not show as
        materialized: a run was killed, or the instance is new."""
        if self.partitioning is None:
            return []
        self._register(instance, outcome.up_to_date)
        known = instance.get_materialized_partitions(self.key)
        known -= failed_partitions(instance, self.key, self.partitioning.definition)
        return [
            key
            for key in sorted(outcome.up_to_date)
            if key in outcome.partitions or key not in known
        ]

    def _told(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        project: MetaxyProject,
        keys: Sequence[str],
        outcome: Outcome,
    ) -> Iterator[dg.AssetMaterialization]:
        """Materializations of partitions, after an update."""
        with project.use():
            store = project.store(self.store, context.run.run_id)
            yield from self._partition_events(store, keys, outcome)

    def _partition_events(
        self, store: mx.MetadataStore, keys: Sequence[str], outcome: Outcome
    ) -> Iterator[dg.AssetMaterialization]:
        """Materializations of partitions, with what the store has of each."""
        scope = self.scope(None)
        found = partitions_metadata(
            store, self.feature, scope.columns, scope.key, keys, self.previews
        )
        for key in keys:
            counts = count_metadata(outcome.partitions.get(key, Counts()))
            dimensions = self.partitioning.keys_by_dimension(key) if self.partitioning else {}
            yield dg.AssetMaterialization(
                self.key,
                partition=key,
                metadata={**found.get(key, {}), **counts},
                # By these, Dagster knows the dimensions of a key.
                tags={f"dagster/partition/{name}": own for name, own in dimensions.items()},
            )

    def _plan_failed(self, context: dg.OpExecutionContext, outcome: Outcome) -> None:
        """Plan the partitions with a failed sample, so that Dagster shows them as failed when the
        run has failed."""
        if self.partitioning is not None:
            failed = {f.partition for f in outcome.failed if f.partition is not None}
            self._register(context.instance, failed)
            plan_materializations(
                context.instance, context.run, self.update_op_name, self.key, sorted(failed)
            )

    def _emptied(
        self, instance: dg.DagsterInstance, store: mx.MetadataStore, outcome: Outcome
    ) -> set[str]:
        """The partitions that Dagster shows as failed and that have no sample any more.

        Args:
            instance: Where they failed.
            store: The store, closed.
            outcome: What an update over all partitions did.
        """
        # Where nothing is left at all, a source is away rather than empty.
        if self.partitioning is None or not outcome.up_to_date:
            return set()
        failed = failed_partitions(instance, self.key, self.partitioning.definition)
        if not failed:
            return set()
        with stores.opened(store, "r"):
            # Samples that were never computed are upstream only, in a feature that has the columns.
            upstream = [
                self._keys(store, dep["feature"], dep.get("rename"), with_feature_history=True)
                for dep in self.feature.deps
            ]
            if upstream and not any(keys is not None for keys in upstream):
                return set()
            own = self._keys(store, self.feature.key, with_feature_history=True)
        return failed.difference(*(keys for keys in (own, *upstream) if keys is not None))

    def _keys(
        self,
        store: mx.MetadataStore,
        key: str,
        rename: Mapping[str, str] | None = None,
        **options: Any,
    ) -> set[str] | None:
        """The partitions that the rows of a feature are in; None where it has not been written, or
        not with the columns that partitions are found by.

        Args:
            store: An open store.
            key: The feature: this one, or one of its upstream.
            rename: The names that columns of the upstream have here.
            options: As for `MetadataStore.read`.
        """
        scope = self.scope(None)
        if (rows := stores.scan(store, key, **options)) is None:
            return None
        there = rows.collect_schema().names()
        rows = rows.rename({old: new for old, new in (rename or {}).items() if old in there})
        if not set(scope.columns) <= set(rows.collect_schema().names()):
            return None
        found = rows.select(list(dict.fromkeys(scope.columns))).unique().collect().to_polars()
        return {k for row in found.iter_rows(named=True) if (k := scope.key(row)) is not None}

    def live_keys(self, store: mx.MetadataStore) -> set[str]:
        """The partitions that have samples, be it of an older feature version.

        Args:
            store: An open store.
        """
        return self._keys(store, self.feature.key, with_feature_history=True) or set()

    def deleted_keys(self, store: mx.MetadataStore) -> set[str]:
        """The partitions whose samples were all deleted; not those that never had any.

        Args:
            store: An open store.

        Raises:
            UpdateError: What the source has now cannot be told.
        """
        known = self._keys(
            store,
            self.feature.key,
            with_feature_history=True,
            # Of samples that are in another partition now, too.
            with_sample_history=True,
            include_soft_deleted=True,
        )
        plan = self.runner.plan(store, self.scope(None))
        arrived = {task.partition for task in plan.pending}
        return (known or set()) - self.live_keys(store) - arrived

    def _register(self, instance: dg.DagsterInstance, keys: Collection[str]) -> None:
        """Register the dynamic partitions among `keys`."""
        if self.partitioning is not None:
            for name, new in self.partitioning.dynamic_keys(keys).items():
                register_keys(instance, name, new)

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
        scope = self.scope(None)
        left = self.runner.plan(store, scope)
        keys = self._keys(store, self.feature.key)
        if keys is None:
            return
        outcome = Outcome()
        outcome.settle(
            keys
            - {task.partition for task in left.pending}
            - {failure.partition for failure in left.refused}
            - {orphan.partition for orphan in left.orphaned}
            - {*left.unknown.values()}
        )
        yield from self._partition_events(store, self._to_tell(instance, outcome), outcome)
