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
from dagster_metaxy.declare.columns import TYPE_PATTERN, Column, ColumnError
from dagster_metaxy.declare.errors import located
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import (
    Partitioning,
    PartitionsModel,
    resolve_partitions_def,
)
from dagster_metaxy.declare.references import resolve_function
from dagster_metaxy.increment.update import Update

_TYPES = "str, int, float, bool, bytes, date, datetime, or list[...] of one"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


ColumnType = Annotated[str, Field(pattern=TYPE_PATTERN)]


class ColumnModel(_Strict):
    """A column in full."""

    type: ColumnType = Field(description=f"One of {_TYPES}.", examples=["float"])
    nullable: bool = Field(
        default=False, description="Whether the column may hold null.", examples=[True]
    )
    description: str | None = Field(
        default=None,
        description="What the column means, with its unit.",
        examples=["Mean brightness of the frame, 0 to 255."],
    )


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


class DepModel(_Strict):
    """A dependency in full."""

    feature: str = Field(description="Key of the upstream feature.", examples=["clips/frames"])
    columns: list[str] | None = Field(
        default=None,
        description="Columns of the upstream that the compute sees, beside the id columns; all if"
        " left out.",
        examples=[["path"]],
    )


def _plain(value: Any) -> Any:
    """YAML models as the mappings they were written as."""
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value


def _columns(columns: Mapping[str, Any]) -> dict[str, Column]:
    """Columns from types, mappings, or columns."""
    resolved = {}
    for name, column in columns.items():
        if name.startswith("metaxy_"):
            raise ColumnError(f"column {name!r}: names that begin with metaxy_ are Metaxy's own")
        if not isinstance(column, Column):
            options: dict[str, Any] = {"type": column} if isinstance(column, str) else dict(column)
            column = Column(**options)
        resolved[name] = column
    return resolved


def _fields(fields: Sequence[Any]) -> list[dict[str, Any]]:
    """Fields in Metaxy's shape, from names or mappings."""
    resolved = []
    for item in fields:
        field: dict[str, Any] = {"key": item} if isinstance(item, str) else dict(item)
        if "code_version" in field:
            field["code_version"] = str(field["code_version"])
        if field.get("deps") == "all":
            field["deps"] = "__METAXY_ALL_DEP__"
        elif "deps" in field:
            field["deps"] = [
                {k: v for k, v in dep.items() if (k, v) != ("fields", "all")}
                for dep in field["deps"]
            ]
        resolved.append(field)
    return resolved


def _deps(deps: Sequence[Any]) -> list[dict[str, Any]]:
    """Dependencies in Metaxy's shape, from keys or mappings."""
    resolved = []
    for item in deps:
        dep: dict[str, Any] = {"feature": item} if isinstance(item, str) else dict(item)
        if "columns" in dep:
            dep["select"] = tuple(dep.pop("columns"))
        resolved.append(dep)
    return resolved


def _resolve_columns(context: dg.ResolutionContext, columns: Any) -> dict[str, Column]:
    resolved = {}
    for name, column in columns.items():
        plain = context.at_path(name).resolve_value(_plain(column))
        try:
            resolved.update(_columns({name: plain}))
        except ColumnError as error:
            raise located(context, str(error), name) from None
    return resolved


def _resolve_list(context: dg.ResolutionContext, items: Any) -> list[Any]:
    return list(context.resolve_value([_plain(item) for item in items]))


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
        dict[str, Column],
        dg.Resolver(
            _resolve_columns,
            model_field_type=dict[str, ColumnType | ColumnModel],
            description="The columns that the compute returns, each a type, or type, nullable and"
            f" description. A type is one of {_TYPES}.",
            examples=[{"brightness": {"type": "float", "description": "0 to 255."}}],
        ),
    ]
    deps: Annotated[
        list[dict[str, Any]],
        dg.Resolver(
            _resolve_list,
            model_field_type=list[str | DepModel],
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
        list[dict[str, Any]],
        dg.Resolver(
            _resolve_list,
            model_field_type=list[str | FieldModel],
            description="Parts of the feature's content that are versioned apart: names, or key,"
            " code_version and deps. One field named `default` if left out.",
            examples=[[{"key": "default", "code_version": "1"}]],
        ),
    ] = [{"key": "default"}]  # noqa: RUF012 - pydantic copies it
    partitions_def: Annotated[
        dg.PartitionsDefinition | None,
        dg.Resolver(
            resolve_partitions_def,
            model_field_type=PartitionsModel | str | None,
            description="How the asset is partitioned. A sample belongs to the partition that its"
            " upstream sample belongs to where both are partitioned alike, else to the one that its"
            " first id column names.",
            examples=[{"type": "dynamic", "name": "clips"}],
        ),
    ] = None

    @field_validator("columns", mode="before")
    @classmethod
    def _normalize_columns(cls, columns: Mapping[str, Any]) -> dict[str, Column]:
        return _columns(columns)

    @field_validator("fields", mode="before")
    @classmethod
    def _normalize_fields(cls, fields: Sequence[Any]) -> list[dict[str, Any]]:
        return _fields(fields)

    @field_validator("deps", mode="before")
    @classmethod
    def _normalize_deps(cls, deps: Sequence[Any]) -> list[dict[str, Any]]:
        return _deps(deps)

    def feature_assets(self, project_root: Path) -> Sequence[FeatureAsset]:
        """The one feature that this component declares."""
        feature = Feature(
            key=self.feature,
            id_columns=tuple(self.id_columns),
            columns=self.columns,
            fields=tuple(self.fields),
            deps=tuple(self.deps),
            description=self.description,
        )
        if not self.deps:
            raise self.error(
                "deps is empty: a sample is computed from one of an upstream feature", "deps"
            )
        partitioning = None
        if self.partitions_def is not None:
            partitioning = Partitioning(self.partitions_def, self.id_columns[0])
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
