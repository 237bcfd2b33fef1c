"""MetaxyAssetComponent: one feature, one asset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.components._base import FeatureComponent
from dagster_metaxy.components._graph import project_features
from dagster_metaxy.components.metaxy_asset.scaffolder import MetaxyAssetScaffolder
from dagster_metaxy.declare.columns import TYPE_PATTERN, Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import (
    PARTITIONS_SCHEMA,
    Partitioning,
    Partitions,
    partitions_definition,
)
from dagster_metaxy.declare.references import resolve_function
from dagster_metaxy.declare.schema import TEMPLATE, model_schema, structured, text_or
from dagster_metaxy.increment.update import Update

_TYPES = "str, int, float, bool, bytes, date, datetime, or list[...] of one"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ColumnModel(_Strict):
    """A column in full."""

    type: str = Field(
        description=f"One of {_TYPES}.",
        examples=["float", "list[str]"],
        json_schema_extra={"pattern": f"{TYPE_PATTERN}|{TEMPLATE}"},
    )
    nullable: bool = Field(
        default=False, description="Whether the column may hold null.", examples=[True]
    )
    description: str | None = Field(
        default=None,
        description="What the column means, with its unit.",
        examples=["Mean brightness of the frame, 0 to 255."],
    )

    @field_validator("type")
    @classmethod
    def _check_type(cls, name: str) -> str:
        return Column(name).type


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


class DepModel(_Strict):
    """A dependency in full."""

    feature: str = Field(description="Key of the upstream feature.", examples=["clips/frames"])
    columns: list[str] | None = Field(
        default=None,
        description="Columns of the upstream that the compute sees, beside the id columns; all if"
        " left out.",
        examples=[["path"]],
    )

    def spec(self) -> dict[str, Any]:
        """The dependency in the shape of Metaxy's `FeatureDep`."""
        select = {} if self.columns is None else {"select": tuple(self.columns)}
        return {"feature": self.feature, **select}


_ANY_TEXT: dict[str, Any] = {"type": "string"}


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

    Scaffold it with

        dg scaffold defs MetaxyAssetComponent brightness --feature clips/brightness --depends-on clips/frames
    """

    feature: Annotated[
        str,
        dg.Resolver.default(
            description="Key of the feature; the asset has the same.", examples=["clips/brightness"]
        ),
    ]
    id_columns: Annotated[
        list[str],
        dg.Resolver.default(
            description="The columns that name a sample; those of the upstream feature.",
            examples=[["video_id"]],
        ),
    ]
    columns: Annotated[
        dict[str, ColumnModel],
        structured(
            {
                "additionalProperties": text_or(
                    {"pattern": f"{TYPE_PATTERN}|{TEMPLATE}"}, model_schema(ColumnModel)
                )
            },
            "object",
            description="The columns that the compute returns, each a type, or type, nullable and"
            f" description. A type is one of {_TYPES}.",
            examples=[{"brightness": {"type": "float", "description": "0 to 255."}}],
        ),
    ]
    deps: Annotated[
        list[DepModel],
        structured(
            {"items": text_or(_ANY_TEXT, model_schema(DepModel))},
            "array",
            description="Keys of the upstream features, or key and columns to bring along.",
            examples=[["clips/frames"]],
        ),
    ]
    compute: Annotated[
        Callable[..., Any],
        dg.Resolver(
            resolve_function,
            model_field_type=str,
            description="The function that computes a sample: `.module.function` beside this file,"
            " or `package.module.function`.",
            examples=[".compute.brightness"],
        ),
    ]
    description: Annotated[
        str | None,
        dg.Resolver.default(
            description="What a sample of this feature is.",
            examples=["How bright each frame is."],
        ),
    ] = None
    fields: Annotated[
        list[FieldModel],
        structured(
            {"items": text_or(_ANY_TEXT, model_schema(FieldModel))},
            "array",
            description="Parts of the feature's content that are versioned apart: names, or key,"
            " code_version and deps. One field named `default` if left out.",
            examples=[[{"key": "default", "code_version": "1"}]],
        ),
    ] = [FieldModel(key="default")]  # noqa: RUF012 - pydantic copies it
    partitions_def: Annotated[
        Partitions | dg.PartitionsDefinition | None,
        structured(
            {"if": {"type": "null"}, "else": PARTITIONS_SCHEMA},
            "object",
            nullable=True,
            description="How the asset is partitioned. A sample belongs to the partition that its"
            " upstream sample belongs to where both are partitioned alike, else to the one that its"
            " first id column names.",
            examples=[{"type": "dynamic", "name": "clips"}],
        ),
    ] = None

    @field_validator("columns", mode="before")
    @classmethod
    def _normalize_columns(cls, columns: Any) -> Any:
        if not isinstance(columns, Mapping):
            return columns
        for name in columns:
            if name.startswith("metaxy_"):
                raise ValueError(f"{name!r}: names that begin with metaxy_ are Metaxy's own")
        return {
            name: {"type": column} if isinstance(column, str) else column
            for name, column in columns.items()
        }

    @field_validator("fields", mode="before")
    @classmethod
    def _normalize_fields(cls, fields: Any) -> Any:
        return _named(fields, "key")

    @field_validator("deps", mode="before")
    @classmethod
    def _normalize_deps(cls, deps: Any) -> Any:
        return _named(deps, "feature")

    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The one feature that this component declares."""
        feature = Feature(
            key=self.feature,
            id_columns=tuple(self.id_columns),
            columns={name: Column(**c.model_dump()) for name, c in self.columns.items()},
            fields=tuple(f.spec() for f in self.fields),
            deps=tuple(dep.spec() for dep in self.deps),
            description=self.description,
        )
        if not self.deps:
            raise self.error(
                "deps is empty: a sample is computed from one of an upstream feature", "deps"
            )
        partitioning = None
        if self.partitions_def is not None:
            definition = partitions_definition(
                lambda message, *path: self.error(message, "partitions_def", *path),
                self.partitions_def,
            )
            partitioning = Partitioning(definition, self.id_columns[0])
        return [
            FeatureAsset(
                Update(feature, self.compute),
                store=self.store,
                partitioning=partitioning,
                attributes=self.asset_attributes(description=self.description),
            )
        ]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The asset."""
        features = project_features(context, self)
        with features.project.use():
            return dg.Definitions(
                assets=[asset.assets_def(features.project) for asset in features.of(self)]
            )


__all__ = ["MetaxyAssetComponent"]
