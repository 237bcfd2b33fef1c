"""What the components that declare features have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.errors import (
    LocatedError,
    Position,
    check_written,
    forgiving,
    located,
    located_template_error,
    located_validation_error,
    position,
    written,
)
from dagster_metaxy.declare.project import MetaxyProject
from dagster_metaxy.declare.schema import TEMPLATE, model_schema, one_of, plain, structured, text_or
from dagster_metaxy.engines import Engine
from dagster_metaxy.extras import MissingExtra, require
from dagster_metaxy.increment.artifacts import check_root
from dagster_metaxy.increment.quarantine import Quarantine
from dagster_metaxy.locations import is_url
from dagster_metaxy.report.checks import CHECKS

if TYPE_CHECKING:
    from dagster_metaxy.components._graph import ProjectFeatures


_ABOVE_ZERO = text_or({"pattern": TEMPLATE}, {"exclusiveMinimum": 0})

CheckName = Literal[
    "no_failed_samples", "nothing_stale", "nothing_missing", "no_duplicate_ids", "no_null_ids"
]


class RetryPolicyModel(BaseModel):
    """When a failed run of an asset is tried again."""

    model_config = ConfigDict(extra="forbid")

    max_retries: int = Field(
        default=1, ge=0, description="How often it is tried again.", examples=[3]
    )
    delay: float | None = Field(
        default=None, ge=0, description="Seconds to wait before.", examples=[30]
    )
    backoff: Literal["linear", "exponential"] | None = Field(
        default=None, description="How the delay grows.", examples=["exponential"]
    )

    def policy(self) -> dg.RetryPolicy:
        """Dagster's policy."""
        backoff = dg.Backoff[self.backoff.upper()] if self.backoff else None
        return dg.RetryPolicy(self.max_retries, self.delay, backoff)


class BackfillPolicyModel(BaseModel):
    """How many partitions a run of a backfill takes."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["single_run", "multi_run"] = Field(
        description="One run for any range of partitions, or several.", examples=["multi_run"]
    )
    max_partitions_per_run: int = Field(
        default=1, ge=1, description="Of several runs, how many each takes.", examples=[10]
    )

    def policy(self) -> dg.BackfillPolicy:
        """Dagster's policy."""
        if self.type == "single_run":
            return dg.BackfillPolicy.single_run()
        return dg.BackfillPolicy.multi_run(self.max_partitions_per_run)


class LocatedComponent(dg.Component, dg.Model, dg.Resolvable):
    """A component whose errors say where in the YAML they are."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # The attributes whose variables from the environment are read when a run starts.
    late: ClassVar[frozenset[str]] = frozenset()

    _context: dg.ResolutionContext | None = PrivateAttr(default=None)
    # What is wrong with this component; it is raised when definitions are built, so that those of
    # other components are told with it.
    _error: ResolutionException | None = PrivateAttr(default=None)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model of the YAML; what does not fit it is told by `resolve_from_model`."""
        return forgiving(cls.model())

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Any:
        """The component of a YAML model, or of an empty one."""
        # Dagster gives none for `attributes: {}`.
        return super().load(attributes or cls.get_model_cls().model_validate({}), context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        """The component of a YAML model, which remembers where in the YAML it stands."""
        values = written(model)
        try:
            check_written(context, model, cls.late)
            component = super().resolve_from_model(context, model)
        except (ResolutionException, ValidationError) as raised:
            if isinstance(raised, ValidationError):
                error: ResolutionException = located_validation_error(context, raised, values)
            else:
                error = located_template_error(context, raised, values)
            component = cls.model_construct(**values)
            component._error = error.with_traceback(None)
            # Kept only where it is what the user's own code raised.
            component._error.__cause__ = raised.__cause__
        component._context = context
        return component

    def position(self, *path: str | int) -> Position | None:
        """Where the attribute at `path` stands; None where the component was built in Python."""
        return position(self._context, *path)

    def error(self, message: str, *path: str | int) -> LocatedError:
        """An error about the attribute at `path`, with file, line and column where there are any."""
        return located(self._context, message, *path)


class FeatureComponent(LocatedComponent):
    """A component that declares features, each of which becomes an asset."""

    _default_engine: ClassVar[Engine] = "threads"

    group_name: Annotated[
        str | None,
        plain(description="Group of the assets in the Dagster UI.", examples=["clips"]),
    ] = None
    kinds: Annotated[
        list[str] | None,
        plain(
            model_field_type=list[str] | str | None,
            description="Kinds shown on the assets, beside `metaxy`.",
            examples=[["video"]],
        ),
    ] = None
    tags: Annotated[
        dict[str, str] | None,
        plain(
            model_field_type=dict[str, str] | str | None,
            description="Tags of the assets.",
            examples=[{"domain": "media"}],
        ),
    ] = None
    owners: Annotated[
        list[str] | None,
        plain(
            model_field_type=list[str] | str | None,
            description="Owners of the assets: e-mail addresses, or `team:` and a name.",
            examples=[["team:media"]],
        ),
    ] = None
    automation_condition: Annotated[
        dg.AutomationCondition | None,
        dg.Resolver.default(
            model_field_type=str | None,
            description="When Dagster materializes the assets by itself; a template.",
            examples=["{{ dg.AutomationCondition.eager() }}"],
        ),
    ] = None
    freshness_policy: Annotated[
        dg.FreshnessPolicy | None,
        dg.Resolver.default(
            model_field_type=str | None,
            description="How fresh the assets have to be; a template.",
            examples=[
                "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(days=1)) }}"
            ],
        ),
    ] = None
    retry_policy: Annotated[
        # The constraints are hidden from Dagster, which takes none in nested models.
        Annotated[RetryPolicyModel, Field()] | None,
        structured(
            {"if": {"type": "object"}, "then": model_schema(RetryPolicyModel)},
            "object",
            nullable=True,
            description="When a failed run of an asset is tried again. A failed sample alone is no"
            " failed run: see `transient_errors`.",
            examples=[{"max_retries": 3, "delay": 30}],
        ),
    ] = None
    transient_errors: Annotated[
        list[str],
        plain(
            model_field_type=list[str] | str | None,
            description="Names of error classes, with or without their module, that may pass: of the"
            " network, of a server that is away. Samples that failed with one of them, or with one that"
            " inherits from it, are tried again by the next runs, up to `max_attempts`; others are held"
            " back until their input or code version changes, or a run is asked for them"
            " (`retry_quarantined`).",
            examples=[["TimeoutError", "httpx.TransportError"]],
        ),
    ] = []  # noqa: RUF012 - pydantic copies it
    max_attempts: Annotated[
        int,
        structured(
            text_or({"pattern": TEMPLATE}, {"type": "integer", "minimum": 1}),
            "integer",
            description="How often, in all, a sample that failed with one of `transient_errors` is"
            " tried.",
            examples=[5],
        ),
    ] = 3
    backfill_policy: Annotated[
        Annotated[BackfillPolicyModel, Field()] | None,
        structured(
            {"if": {"type": "object"}, "then": model_schema(BackfillPolicyModel)},
            "object",
            nullable=True,
            description="How many partitions a run of a backfill takes; all of a range if left out.",
            examples=[{"type": "multi_run", "max_partitions_per_run": 10}],
        ),
    ] = None
    pool: Annotated[
        str | None,
        plain(
            description="The Dagster pool that limits how many of the assets run at once.",
            examples=["gpu"],
        ),
    ] = None
    op_tags: Annotated[
        dict[str, str] | None,
        plain(
            model_field_type=dict[str, str] | str | None,
            description="Tags of the ops, for run launchers and executors.",
            examples=[{"dagster-k8s/config": "..."}],
        ),
    ] = None
    store: Annotated[
        str | None,
        plain(
            description="Name of the store in metaxy.toml; its default store if left out.",
            examples=["dev"],
        ),
    ] = None
    io_manager_key: Annotated[
        str | None,
        plain(
            description="Key of the Dagster resource by which downstream assets load a feature as an"
            " input, such as Metaxy's `MetaxyIOManager`. If left out, no resource is needed.",
            examples=["metaxy_io_manager"],
        ),
    ] = None

    checks: Annotated[
        list[CheckName],
        structured(
            {"items": one_of(tuple(CHECKS))},
            "array",
            description="The asset checks, all of them warnings that stop nothing: all if left out,"
            " `[]` for none. " + " ".join(f"`{name}`: {what}" for name, what in CHECKS.items()),
            examples=[["no_failed_samples", "nothing_stale"], []],
        ),
    ] = list(CHECKS)  # type: ignore[assignment]  # noqa: RUF012 - pydantic copies it

    artifacts: Annotated[
        str,
        plain(
            description="Where the files that computes write lie: a folder, absolute or below the"
            " project's root, or a place in an object store (`s3://bucket/prefix`, `gs://`, `az://`),"
            " which needs `dagster-metaxy[object-store]`, and finds its credentials in the environment"
            " (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).",
            examples=["data/artifacts", "s3://bucket/artifacts"],
        ),
    ] = "data/artifacts"

    engine: Annotated[
        Literal["threads", "processes"] | None,
        structured(
            one_of(("threads", "processes")),
            "string",
            nullable=True,
            description="Where samples are computed: in threads of the run, or in processes of their"
            " own, so that one that crashes (a native library, memory that ran out) fails its sample"
            " alone. If left out: processes for videos, which native libraries read, and where there"
            " is a time_limit; threads elsewhere.",
            examples=["processes"],
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        structured(
            _ABOVE_ZERO,
            "number",
            nullable=True,
            description="The seconds that a sample may take: then its process is ended, and it counts"
            " as failed. A batch may take as much for each of its samples. Making the instance of a"
            " class is not counted.",
            examples=[60],
        ),
    ] = None
    chunk_samples: Annotated[
        int,
        structured(
            text_or({"pattern": TEMPLATE}, {"type": "integer", "minimum": 1}),
            "integer",
            description="Rows are written when so many samples are computed, or earlier by"
            " chunk_seconds. What is written, no killed run loses.",
            examples=[100],
        ),
    ] = 1_000
    chunk_seconds: Annotated[
        float,
        structured(
            _ABOVE_ZERO,
            "number",
            description="Rows are written when the oldest computed sample has waited for so many"
            " seconds, or earlier by chunk_samples.",
            examples=[30],
        ),
    ] = 5.0

    @field_validator("chunk_samples")
    @classmethod
    def _check_one_or_more(cls, number: int) -> int:
        if number < 1:
            raise ValueError("must be 1 or more")
        return number

    @field_validator("time_limit", "chunk_seconds")
    @classmethod
    def _check_above_zero(cls, seconds: float | None) -> float | None:
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ValueError("must be more than 0")
        return seconds

    # The features of the whole project, once they are registered; see `_graph`.
    _features: ProjectFeatures | None = PrivateAttr(default=None)

    @field_validator("max_attempts")
    @classmethod
    def _check_attempts(cls, attempts: int) -> int:
        if attempts < 1:
            raise ValueError("at least 1")
        return attempts

    @field_validator("artifacts")
    @classmethod
    def _check_artifacts(cls, written: str) -> str:
        check_root(written)
        if is_url(written):
            try:
                require("artifacts in an object store", "object-store", "obstore")
            except MissingExtra as error:
                raise ValueError(str(error)) from None
        return written

    @field_validator("transient_errors")
    @classmethod
    def _check_errors(cls, names: list[str]) -> list[str]:
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(
                    f"{name!r} is no name of an error class, such as TimeoutError or"
                    " httpx.TransportError"
                )
        return names

    @property
    def quarantine(self) -> Quarantine:
        """Which samples that failed are tried again by themselves."""
        return Quarantine(frozenset(self.transient_errors), self.max_attempts)

    @abstractmethod
    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The features that this component declares, upstream first."""

    @property
    @abstractmethod
    def key_attribute(self) -> str:
        """The attribute that the keys of the features are, or begin with."""

    def get_asset_spec(self, asset: FeatureAsset) -> dg.AssetSpec:
        """What Dagster shows of a feature; override it to add or change something.

        Args:
            asset: The feature, with what it takes from its upstream.
        """
        return asset.spec()

    def execute(
        self, context: dg.AssetExecutionContext, asset: FeatureAsset, project: MetaxyProject
    ) -> Iterator[Any]:
        """Materialize a feature; override it to do something before, after or instead.

        Args:
            context: Dagster's.
            asset: The feature.
            project: For its store.

        Yields:
            What an asset yields.
        """
        yield from asset.materialize(context, project)

    def asset_definitions(self, features: ProjectFeatures) -> list[dg.AssetsDefinition]:
        """The assets of this component's features."""
        project = features.project

        def executed_by(asset: FeatureAsset) -> Any:
            return lambda context: self.execute(context, asset, project)

        return [
            asset.assets_def(project, self.get_asset_spec(asset), executed_by(asset))
            for asset in features.of(self)
        ]

    def op_options(self) -> dict[str, Any]:
        """The shared arguments of `FeatureAsset` for its op."""
        return {
            "io_manager_key": self.io_manager_key,
            "op_tags": self.op_tags or {},
            "retry_policy": self.retry_policy.policy() if self.retry_policy else None,
            "pool": self.pool,
            "checks": self.checks,
            "backfill_policy": self.backfill_policy.policy() if self.backfill_policy else None,
        }

    def update_options(self) -> dict[str, Any]:
        """The shared arguments of what computes samples."""
        if self.time_limit is not None and self.engine == "threads":
            raise self.error(
                "a time_limit needs `engine: processes`, since a thread cannot be ended: remove engine,"
                " or time_limit",
                "time_limit",
            )
        return {
            "engine": self.engine
            or (self._default_engine if self.time_limit is None else "processes"),
            "time_limit": self.time_limit,
            "chunk_samples": self.chunk_samples,
            "chunk_seconds": self.chunk_seconds,
            "quarantine": self.quarantine,
        }

    def asset_attributes(self, **more: Any) -> Mapping[str, Any]:
        """The shared arguments of `dg.AssetSpec`, and `more`; what is None is left out."""
        attributes = {
            "group_name": self.group_name,
            "kinds": set(self.kinds) if self.kinds else None,
            "tags": self.tags,
            "owners": self.owners,
            "automation_condition": self.automation_condition,
            "freshness_policy": self.freshness_policy,
            **more,
        }
        return {name: value for name, value in attributes.items() if value is not None}
