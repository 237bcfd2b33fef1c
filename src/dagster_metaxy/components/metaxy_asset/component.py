"""MetaxyAssetComponent: one feature, one asset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dagster_metaxy.components._asset import FeatureAsset, Runner
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.components._columns import (
    COLUMNS_SCHEMA,
    TYPE_NAMES,
    ColumnModels,
    declared_columns,
)
from dagster_metaxy.components._external import Elsewhere, ExternalAsset
from dagster_metaxy.components._graph import project_features
from dagster_metaxy.components.metaxy_asset.scaffolder import MetaxyAssetScaffolder
from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.declare.feature import (
    ExternalFeature,
    Feature,
    aggregation,
    expansion,
    identity,
    registered_keys,
)
from dagster_metaxy.declare.mappings import MAPPING_SCHEMA, AnyMapping, partition_mapping
from dagster_metaxy.declare.partitions import (
    PARTITIONS_SCHEMA,
    Partitioning,
    Partitions,
    keys_of,
    partition_columns,
    partitions_definition,
)
from dagster_metaxy.declare.project import CONFIG_FILE
from dagster_metaxy.declare.references import resolve_function
from dagster_metaxy.declare.schema import TEMPLATE, model_schema, one_of, plain, structured, text_or
from dagster_metaxy.increment.artifacts import root_of
from dagster_metaxy.increment.compute import Compute, SignatureError
from dagster_metaxy.increment.root import Root
from dagster_metaxy.increment.update import Update


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FieldDepModel(_Strict):
    """What a field depends on, of one upstream feature."""

    feature: str = Field(description="Key of the upstream feature.", examples=["clips/videos"])
    fields: list[str] | Literal["all"] = Field(
        default="all",
        description="The upstream fields whose change makes this field stale.",
        examples=[["audio"]],
    )


class FieldModel(_Strict):
    """A field in full."""

    key: str = Field(description="Name of the field.", examples=["default"])
    code_version: str | int | None = Field(
        default=None,
        description="Version of the compute, as far as this field goes: a new one recomputes every"
        " sample.",
        examples=["2"],
    )
    deps: list[FieldDepModel] | Literal["all"] | None = Field(
        default=None,
        description="The upstream fields it depends on. If left out, upstream fields of the same"
        " name, else all.",
        examples=[[{"feature": "clips/videos", "fields": ["audio"]}]],
    )

    def spec(self) -> dict[str, Any]:
        """The field in the shape of Metaxy's `FieldSpec`."""
        spec: dict[str, Any] = {"key": self.key}
        if self.code_version is not None:
            spec["code_version"] = str(self.code_version)
        if self.deps == "all":
            spec["deps"] = "__METAXY_ALL_DEP__"
        elif self.deps is not None:
            spec["deps"] = [
                {"feature": dep.feature}
                if dep.fields == "all"
                else {"feature": dep.feature, "fields": dep.fields}
                for dep in self.deps
            ]
        return spec


def _admit_on(schema: dict[str, Any]) -> None:
    # `dg check yaml` sees the key as True (below), which no schema can name.
    schema.pop("additionalProperties", None)


class LineageModel(_Strict):
    """How many upstream samples a sample is computed from."""

    model_config = ConfigDict(json_schema_extra=_admit_on)

    type: Literal["identity", "aggregation", "expansion"] = Field(
        description="`identity`: one from one. `aggregation`: one from all of a group; the compute"
        " takes a list of samples. `expansion`: many from one; the compute returns an iterable of"
        " mappings.",
        examples=["aggregation"],
    )
    on: list[str] | None = Field(
        default=None,
        description="Aggregation: the columns that name the group; all id columns if left out."
        " Expansion: the columns that name the upstream sample.",
        examples=[["video_id"]],
    )

    @model_validator(mode="before")
    @classmethod
    def _read_on(cls, values: Any) -> Any:
        # Dagster reads YAML 1.1, in which an unquoted `on` is a word for true.
        if isinstance(values, dict) and True in values:
            return {"on" if key is True else key: value for key, value in values.items()}
        return values

    def spec(self) -> dict[str, Any]:
        """The lineage in the shape of Metaxy's `LineageRelationship`."""
        if self.type == "identity":
            return identity()
        if self.type == "aggregation":
            return aggregation(self.on)
        return expansion(self.on or [])


class FieldsMappingModel(_Strict):
    """Which fields of the upstream a field depends on, where it does not say so itself."""

    match_suffix: bool = Field(
        default=False,
        description="Whether `french` matches the upstream field `audio/french`.",
        examples=[True],
    )
    exclude: list[str] = Field(
        default_factory=list, description="Upstream fields that match nothing.", examples=[["raw"]]
    )
    explicit: dict[str, list[str]] | None = Field(
        default=None,
        description="Upstream fields by field, instead of matching by name.",
        examples=[{"faces": ["video"]}],
    )

    def spec(self) -> dict[str, Any]:
        """The mapping in the shape of Metaxy's `FieldsMapping`."""
        if self.explicit is not None:
            return {"type": "specific", "mapping": self.explicit}
        return {
            "type": "default",
            "match_suffix": self.match_suffix,
            "exclude_fields": self.exclude,
        }


def _mapping_schema(schema: dict[str, Any]) -> None:
    schema.pop("anyOf", None)
    schema.update({"if": {"type": "null"}, "else": MAPPING_SCHEMA})


class DepModel(_Strict):
    """A dependency in full."""

    feature: str = Field(description="Key of the upstream feature.", examples=["clips/frames"])
    columns: list[str] | None = Field(
        default=None,
        description="Columns of the upstream that the compute sees, beside the id columns, by the"
        " names they have after `rename`; all if left out.",
        examples=[["path"]],
    )
    rename: dict[str, str] | None = Field(
        default=None,
        description="New names of upstream columns, where those of two upstreams are alike.",
        examples=[{"path": "frame_path"}],
    )
    filters: list[str] | None = Field(
        default=None,
        description="Conditions, as SQL writes them, that upstream samples must meet.",
        examples=[["duration > 3", "audio_codec IS NOT NULL"]],
    )
    optional: bool = Field(
        default=False,
        description="Whether samples that this upstream does not have are computed all the same,"
        " with nulls for its columns.",
        examples=[True],
    )
    lineage: LineageModel | Literal["identity", "aggregation"] | None = Field(
        default=None,
        description="How many upstream samples a sample is computed from: `identity` (one, if left"
        " out), `aggregation` (all of a group), or type and `on`.",
        examples=[{"type": "expansion", "on": ["video_id"]}],
    )
    fields_mapping: FieldsMappingModel | Literal["default", "all", "none"] | None = Field(
        default=None,
        description="Which upstream fields a field depends on, where its own `deps` do not say so:"
        " those of the same name, else all (`default`); `all`; `none`; or a mapping.",
        examples=["all", {"match_suffix": True}],
    )
    partition_mapping: AnyMapping | None = Field(
        default=None,
        description="Which partitions of the upstream asset those of this one depend on: `identity`,"
        " `all`, `last`, `time_window`, `multi_to_single`, or type and options; a template may give a"
        " `dg.PartitionMapping`. Dagster's default if left out. It is for Dagster's automation and"
        " backfills: samples are found by `partition_by` in any case.",
        examples=["all", {"type": "time_window", "start_offset": -1}],
        json_schema_extra=_mapping_schema,
    )

    @field_validator("lineage", mode="before")
    @classmethod
    def _check_word(cls, lineage: Any) -> Any:
        if lineage == "expansion":
            raise ValueError(
                "an expansion says what names the upstream sample: {type: expansion, on: [video_id]}"
            )
        return lineage

    @model_validator(mode="after")
    def _check_lineage(self) -> DepModel:
        lineage = self.lineage
        if isinstance(lineage, LineageModel) and lineage.type == "expansion" and not lineage.on:
            raise ValueError("an expansion needs `on`: the columns that name the upstream sample")
        return self

    def spec(self) -> dict[str, Any]:
        """The dependency in the shape of Metaxy's `FeatureDep`."""
        spec: dict[str, Any] = {"feature": self.feature}
        if self.columns is not None:
            spec["select"] = tuple(self.columns)
        if self.rename:
            spec["rename"] = self.rename
        if self.filters:
            spec["filters"] = self.filters
        if self.optional:
            spec["optional"] = True
        if self.lineage is not None:
            lineage = self.lineage
            if isinstance(lineage, str):
                lineage = LineageModel(type=lineage)
            spec["lineage"] = lineage.spec()
        if self.fields_mapping is not None:
            mapping = self.fields_mapping
            spec["fields_mapping"] = {
                "mapping": {"type": mapping} if isinstance(mapping, str) else mapping.spec()
            }
        return spec


_EVERY_FIELD = "*"

_OF_COMPUTES = (
    "backfill_policy",
    "batch_size",
    "chunk_samples",
    "chunk_seconds",
    "engine",
    "max_attempts",
    "on_error",
    "op_tags",
    "orphans",
    "params",
    "params_in_code_version",
    "pool",
    "retry_policy",
    "time_limit",
    "transient_errors",
    "workers",
)
"""Attributes that say how a feature is computed."""

_ANY_TEXT: dict[str, Any] = {"type": "string"}


class ExternalModel(_Strict):
    """Where an external feature is produced."""

    project: str | None = Field(
        default=None,
        description="The Metaxy project that produces it; this one if left out.",
        examples=["ingest"],
    )
    field_versions: dict[str, str] = Field(
        default_factory=dict,
        description="The versions of its fields, where its own upstream is not declared here and"
        " its project does not push definitions (`mx push`).",
        examples=[{"default": "9f86d081884c7d65"}],
    )


def _named(items: Any, name: str) -> Any:
    """Items of a list in full, where some are given by name alone."""
    if not isinstance(items, list):
        return items
    return [{name: item} if isinstance(item, str) else item for item in items]


@dg.scaffold_with(MetaxyAssetScaffolder)
class MetaxyAssetComponent(FeatureComponent):
    """A Metaxy feature, computed by a plain Python function, as a Dagster asset.

    The function takes a sample, which is a mapping of the upstream's columns, and returns a
    mapping of this feature's columns. It is called for new and stale samples only: which these
    are, Metaxy knows from the versions of the upstream's fields. Samples whose upstream is gone
    are deleted, and one that fails is named and stops no other.

    Without `deps` it is a root feature: the function takes no sample and returns all there are.
    With the key alone, it is the feature of a Python class that metaxy.toml's entrypoints declare.
    With `external` it is produced elsewhere, and only observed.

    Scaffold it with

        dg scaffold defs MetaxyAssetComponent brightness --feature clips/brightness --depends-on clips/frames

    `--feature` is its key (the folder's name if left out), `--depends-on` the key of an upstream
    feature, which may be repeated, `--id-columns` a column that names a sample, which may be, too.
    """

    feature: Annotated[
        str,
        plain(
            description="Key of the feature; the asset has the same.", examples=["clips/brightness"]
        ),
    ]
    id_columns: Annotated[
        list[str] | None,
        plain(
            model_field_type=list[str] | str | None,
            description="The columns that name a sample; those of the upstream feature.",
            examples=[["video_id"]],
        ),
    ] = None
    columns: Annotated[
        ColumnModels | None,
        structured(
            COLUMNS_SCHEMA,
            "object",
            nullable=True,
            description="The columns that the compute returns, each a type, or type, nullable and"
            f" description. A type is one of {TYPE_NAMES}.",
            examples=[{"brightness": {"type": "float", "description": "0 to 255."}}],
        ),
    ] = None
    deps: Annotated[
        # Hidden from Dagster, which takes no mapping in nested models.
        list[Annotated[DepModel, Field()]] | None,
        structured(
            {"items": text_or(_ANY_TEXT, model_schema(DepModel))},
            "array",
            nullable=True,
            description="Keys of the upstream features; or in full: columns to bring along, renames,"
            " filters, lineage (one sample from one, from a group, or many from one), and which of"
            " its fields count. Without any it is a root feature, whose compute takes no sample and"
            " returns all there are.",
            examples=[
                ["clips/frames"],
                [{"feature": "clips/frames", "columns": ["path"], "lineage": "aggregation"}],
            ],
        ),
    ] = None
    compute: Annotated[
        Callable[..., Any] | None,
        dg.Resolver(
            resolve_function,
            model_field_type=str | None,
            description="What computes a sample: `.module.function` beside this file, or"
            " `package.module.function`. It takes a sample and returns a mapping of this feature's"
            " columns; of an aggregation it takes a list of samples, of an expansion it returns an"
            " iterable of mappings. With its first parameter annotated as `pl.DataFrame` it takes"
            " and returns frames of many samples. Of a root feature it takes no sample and returns"
            " all there are. Of a class, `__call__` is called, and one is made"
            " per worker. Further parameters are found by name: `context` (log, run_id,"
            " partition_keys, artifacts: a folder for files), a constant of `params`, else a Dagster"
            " resource.",
            examples=[".compute.brightness"],
        ),
    ] = None
    version_columns: Annotated[
        dict[str, str] | None,
        structured(
            {
                "if": {"type": "object"},
                "then": {"additionalProperties": {"type": "string"}},
            },
            "object",
            "string",
            nullable=True,
            description="Of a root feature: the column that the compute returns a sample's version"
            " in (an ETag, a checksum, a time of change), or one for each field. It is kept if"
            " `columns` has it. If left out, the compute returns `metaxy_provenance_by_field`, a"
            " mapping of fields to versions.",
            examples=["etag", {"video": "video_md5", "audio": "audio_md5"}],
        ),
    ] = None
    external: Annotated[
        Annotated[ExternalModel, Field()] | bool,
        structured(
            {"if": {"type": "object"}, "then": model_schema(ExternalModel)},
            "boolean",
            "object",
            description="Whether the feature is produced elsewhere: the asset is then observed (row"
            " count, data version), never materialized.",
            examples=[True, {"project": "ingest"}],
        ),
    ] = False
    description: Annotated[
        str | None,
        plain(
            description="What a sample of this feature is.",
            examples=["How bright each frame is."],
        ),
    ] = None
    fields: Annotated[
        list[FieldModel] | None,
        structured(
            {"items": text_or(_ANY_TEXT, model_schema(FieldModel))},
            "array",
            nullable=True,
            description="Parts of the feature's content that are versioned apart: names, or key,"
            " code_version and deps. One field named `default` if left out.",
            examples=[[{"key": "default", "code_version": "1"}]],
        ),
    ] = None
    params: Annotated[
        dict[str, Any],
        structured(
            {},
            "object",
            description="Constants for parameters of the compute.",
            examples=[{"threshold": 0.5}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it
    params_in_code_version: Annotated[
        bool,
        dg.Resolver.default(
            description="Whether other `params` make another code version, which recomputes every"
            " sample.",
            examples=[True],
        ),
    ] = False
    orphans: Annotated[
        Literal["soft", "hard"],
        structured(
            one_of(("soft", "hard")),
            "string",
            description="How samples whose upstream is gone are deleted: `soft` marks them and keeps"
            " them in the history, `hard` removes them from the store (needs pyarrow).",
            examples=["soft", "hard"],
        ),
    ] = "soft"
    on_error: Annotated[
        Literal["quarantine", "fail"],
        structured(
            one_of(("quarantine", "fail")),
            "string",
            description="What a sample that fails does: it is named, the others are computed, and it"
            " is held back until its input or the code version changes, or a run is asked for it"
            " (`quarantine`); or the run stops, after what is done was written, and the next one tries"
            " it again (`fail`).",
            examples=["quarantine", "fail"],
        ),
    ] = "quarantine"
    workers: Annotated[
        int,
        structured(
            text_or({"pattern": TEMPLATE}, {"type": "integer", "minimum": 1}),
            "integer",
            description="How many samples, or batches, are computed at once, in threads or processes"
            " (`engine`). The compute must bear it.",
            examples=[4],
        ),
    ] = 1
    batch_size: Annotated[
        int,
        structured(
            text_or({"pattern": TEMPLATE}, {"type": "integer", "minimum": 1}),
            "integer",
            description="How many samples a compute that takes frames gets at a time.",
            examples=[64],
        ),
    ] = 256
    metadata: Annotated[
        dict[str, Any],
        structured(
            {},
            "object",
            description="Metaxy's metadata of the feature, also shown on the asset.",
            examples=[{"model": "blazeface"}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it
    partitions_def: Annotated[
        Partitions | dg.PartitionsDefinition | None,
        structured(
            {"if": {"type": "null"}, "else": PARTITIONS_SCHEMA},
            "object",
            nullable=True,
            description="How the asset is partitioned; `partition_by` says which partition a sample"
            " belongs to.",
            examples=[
                {"type": "dynamic", "name": "clips"},
                {"type": "daily", "start_date": "2026-01-01", "end_offset": 1},
            ],
        ),
    ] = None
    partition_by: Annotated[
        str | dict[str, str] | None,
        structured(
            {},
            "string",
            "object",
            nullable=True,
            description="The column that says which partition a sample belongs to: any column that"
            " the compute sees; of multi partitions, one for each dimension. It becomes a column of"
            " this feature, too, and is filled in. A text is the partition key, or, for time windows,"
            " a date or time in ISO 8601; a date or datetime lies in a window, by the time zone of"
            " the partitions. A sample where it is null, or lies in no window, is computed by runs"
            " over all partitions only. If left out: as upstream, where that is partitioned alike;"
            " else the columns named like the dimensions of multi partitions, or the first id column.",
            examples=["recorded_on", {"date": "recorded_on", "camera": "camera"}],
        ),
    ] = None

    @field_validator("version_columns", mode="before")
    @classmethod
    def _normalize_version_columns(cls, columns: Any) -> Any:
        return {_EVERY_FIELD: columns} if isinstance(columns, str) else columns

    @field_validator("workers", "batch_size")
    @classmethod
    def _check_positive(cls, number: int) -> int:
        if number < 1:
            raise ValueError("must be 1 or more")
        return number

    @field_validator("fields", mode="before")
    @classmethod
    def _normalize_fields(cls, fields: Any) -> Any:
        return _named(fields, "key")

    @field_validator("partitions_def", mode="before")
    @classmethod
    def _check_partitions_def(cls, partitions: Any) -> Any:
        if isinstance(partitions, str):
            example = "name: clips" if partitions == "dynamic" else 'start_date: "2026-01-01"'
            raise ValueError(f"is a mapping, such as {{type: {partitions}, {example}}}")
        return partitions

    @field_validator("deps", mode="before")
    @classmethod
    def _normalize_deps(cls, deps: Any) -> Any:
        return _named(deps, "feature")

    @property
    def key_attribute(self) -> str:
        """The attribute that the feature's key comes from."""
        return "feature"

    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The one feature of this component."""
        if self.orphans == "hard" and find_spec("pyarrow") is None:
            raise self.error(
                "removing rows for good needs pyarrow: pip install 'dagster-metaxy[hard-delete]'",
                "orphans",
            )
        # A dep that says no more than how partitions are mapped declares nothing.
        depends = any(
            set(dep.spec()) - {"feature"} or not dep.partition_mapping for dep in self.deps or ()
        )
        if depends or any(v is not None for v in (self.id_columns, self.columns, self.fields)):
            feature = self._declared_feature()
        else:
            feature = self._known_feature()
        description = self.description or feature.description
        asset = ExternalAsset if self.external else FeatureAsset
        return [
            asset(
                self._runner(feature, project_root),
                store=self.store,
                partitioning=self._partitioning(),
                partition_mappings={
                    dep.feature: partition_mapping(dep.partition_mapping)
                    for dep in self.deps or ()
                    if dep.partition_mapping is not None
                },
                attributes=self.asset_attributes(description=description),
                metadata=self.metadata,
                source=self.compute,
                **self.op_options(),
            )
        ]

    def _known_feature(self) -> Feature:
        """The feature of a Python class, or of metaxy.lock."""
        feature = Feature.known(self.feature)
        if feature is None:
            raise self.error(
                f"nothing declares {self.feature!r}. Declare it here, with id_columns, columns and"
                " deps; or name the module of its Python class among the entrypoints of"
                f" {CONFIG_FILE}." + did_you_mean(self.feature, registered_keys()),
                "feature",
            )
        for index, dep in enumerate(self.deps or ()):
            if dep.feature not in feature.upstream:
                raise self.error(
                    f"{self.feature!r} does not depend on {dep.feature!r}, but on"
                    f" {', '.join(feature.upstream) or 'nothing'}",
                    *("deps", index),
                )
        if self.params_in_code_version:
            raise self.error(
                f"{self.feature!r} is declared by a Python class, which says its code versions itself",
                "params_in_code_version",
            )
        return feature

    def _declared_feature(self) -> Feature:
        if not self.id_columns:
            raise self.error(
                "id_columns is missing: the columns that name a sample of this feature", "feature"
            )
        if self.columns is None and not self.external:
            raise self.error(
                "columns is missing: those that the compute returns, and the type of each",
                "feature",
            )
        fields = self.fields or [FieldModel(key="default")]
        options: dict[str, Any] = {
            "key": self.feature,
            "id_columns": tuple(self.id_columns),
            "columns": declared_columns(self.columns or {}),
            "fields": tuple(self._field(f) for f in fields),
            "deps": tuple(dep.spec() for dep in self.deps or ()),
            "description": self.description,
            "metadata": self.metadata,
        }
        if not self.external:
            return Feature(**options)
        more = self.external.model_dump() if isinstance(self.external, ExternalModel) else {}
        return ExternalFeature(**options, **more)

    def _runner(self, feature: Feature, project_root: Path) -> Runner:
        is_root = not feature.deps
        if self.version_columns and (self.external or not is_root):
            raise self.error(
                "version_columns is for root features that are computed here; of others, Metaxy makes"
                " the versions from those of the upstream",
                "version_columns",
            )
        if self.external:
            if self.compute is not None:
                raise self.error(
                    "an external feature is not computed here: remove compute, or external",
                    "compute",
                )
            for name in _OF_COMPUTES:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise self.error(
                        f"an external feature is not computed here: remove {name}, or external",
                        name,
                    )
            return Elsewhere(feature)
        if self.compute is None:
            raise self.error(
                "compute is missing: the function that computes a sample, such as .compute.function",
                "feature",
            )
        compute = Compute(self.compute, self.params, lists=is_root)
        try:
            compute.check(takes_many=feature.aggregates, gives_many=bool(feature.expansion))
        except SignatureError as error:
            name = getattr(self.compute, "__qualname__", repr(self.compute))
            raise self.error(f"{name} {error}", "compute") from None
        options = self.update_options()
        if options["engine"] == "processes":
            self._check_sendable(compute, is_root)
        if is_root:
            return Root(
                feature,
                compute,
                version_columns=self._version_columns(feature),
                hard_delete=self.orphans == "hard",
            )
        return Update(
            feature,
            compute,
            artifacts=root_of(self.artifacts, project_root),
            workers=self.workers,
            batch_size=self.batch_size,
            hard_delete=self.orphans == "hard",
            on_error=self.on_error,
            **options,
        )

    def _check_sendable(self, compute: Compute, is_root: bool) -> None:
        """Refuse what cannot be computed in processes."""
        if is_root:
            name = "engine" if self.engine else "time_limit"
            raise self.error(
                "the compute of a root feature, which lists all samples, is called in the run's own"
                f" process: remove {name}",
                name,
            )
        try:
            compute.check_sendable()
        except SignatureError as error:
            raise self.error(str(error), "compute") from None

    def _version_columns(self, feature: Feature) -> Mapping[str, str]:
        """The column of each field's version."""
        fields = [field["key"] for field in feature.fields]
        given = self.version_columns or {}
        if _EVERY_FIELD in given:
            return dict.fromkeys(fields, given[_EVERY_FIELD])
        if given and set(given) != set(fields):
            raise self.error(
                f"version_columns is about the fields {', '.join(given)}; this feature has"
                f" {', '.join(fields)}",
                "version_columns",
            )
        return given

    def _partitioning(self) -> Partitioning | None:
        if self.partitions_def is None:
            if self.partition_by is not None:
                raise self.error("partition_by needs partitions_def", "partition_by")
            return None
        definition = partitions_definition(
            lambda message, *path: self.error(message, "partitions_def", *path), self.partitions_def
        )
        columns = partition_columns(
            lambda message: self.error(message, "partition_by"), definition, self.partition_by
        )
        return Partitioning(definition, columns, keys_of(definition))

    def _field(self, field: FieldModel) -> dict[str, Any]:
        spec = field.spec()
        if self.params and self.params_in_code_version:
            params = json.dumps(self.params, sort_keys=True, default=str)
            spec["code_version"] = ";".join(filter(None, [spec.get("code_version"), params]))
        return spec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The asset."""
        features = project_features(context, self)
        with features.project.use():
            return dg.Definitions(assets=self.asset_definitions(features))


__all__ = ["MetaxyAssetComponent"]
