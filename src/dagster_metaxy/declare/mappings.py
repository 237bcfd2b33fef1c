"""Partition mappings in YAML: which partitions of an upstream those of a feature depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema

from dagster_metaxy.declare.beta import chosen_beta
from dagster_metaxy.declare.schema import one_of, tagged, text_or


class _Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        raise NotImplementedError


class Identity(_Mapping):
    """The partition with the same key."""

    type: Literal["identity"] = Field(
        description="The upstream partition with the same key.", examples=["identity"]
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.IdentityPartitionMapping()


class All(_Mapping):
    """All partitions."""

    type: Literal["all"] = Field(description="All upstream partitions.", examples=["all"])

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.AllPartitionMapping()


class Last(_Mapping):
    """The last partition."""

    type: Literal["last"] = Field(description="The last upstream partition.", examples=["last"])

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.LastPartitionMapping()


class TimeWindow(_Mapping):
    """The windows that overlap with one's own, or with those some windows from it."""

    type: Literal["time_window"] = Field(
        description="The upstream windows that overlap with the window, both being time windows.",
        examples=["time_window"],
    )
    start_offset: int = Field(
        default=0,
        description="By how many windows the start is moved: with -1, the window before counts,"
        " too.",
        examples=[-1],
    )
    end_offset: int = Field(
        default=0, description="By how many windows the end is moved.", examples=[-1]
    )
    allow_nonexistent_upstream_partitions: bool = Field(
        default=False,
        description="Whether upstream windows that do not exist, before the first, are passed over.",
        examples=[True],
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.TimeWindowPartitionMapping(
            self.start_offset, self.end_offset, self.allow_nonexistent_upstream_partitions
        )


class Static(_Mapping):
    """Given pairs of keys."""

    type: Literal["static"] = Field(
        description="Given pairs of keys, both partitions being static.", examples=["static"]
    )
    downstream_partition_keys_by_upstream_partition_key: dict[str, str | list[str]] = Field(
        description="The keys of this feature's partitions, by the key of the upstream partition"
        " that they depend on.",
        examples=[{"cam_a": "indoors", "cam_b": ["outdoors", "night"]}],
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.StaticPartitionMapping(self.downstream_partition_keys_by_upstream_partition_key)


class Specific(_Mapping):
    """Given partitions, whichever one's own is."""

    type: Literal["specific"] = Field(
        description="Given upstream partitions, for every partition.", examples=["specific"]
    )
    partition_keys: list[str] = Field(
        min_length=1, description="Keys of upstream partitions.", examples=[["cam_a"]]
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.SpecificPartitionsPartitionMapping(self.partition_keys)


class MultiToSingle(_Mapping):
    """The partitions with the same key in one dimension."""

    type: Literal["multi_to_single"] = Field(
        description="The same key in one dimension, where one of both has multi partitions, of which"
        " a dimension is partitioned like the other.",
        examples=["multi_to_single"],
    )
    partition_dimension_name: str | None = Field(
        default=None,
        description="The dimension; may be left out where only one fits.",
        examples=["date"],
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        with chosen_beta():
            return dg.MultiToSingleDimensionPartitionMapping(self.partition_dimension_name)


_Simple = Annotated[
    Identity | All | Last | TimeWindow | Static | Specific, Field(discriminator="type")
]
_SIMPLE: Mapping[str, type[BaseModel]] = {
    "identity": Identity,
    "all": All,
    "last": Last,
    "time_window": TimeWindow,
    "static": Static,
    "specific": Specific,
}
# Those that have no option that must be given.
_Name = Literal["identity", "all", "last", "time_window"]
_NAMES = ("identity", "all", "last", "time_window")


def _mapping_schema(schema: dict[str, Any]) -> None:
    schema.pop("anyOf")
    schema.update(text_or(one_of(_NAMES), tagged(_SIMPLE)))


class DimensionMapping(BaseModel):
    """Which keys of an upstream dimension those of one's own depend on."""

    model_config = ConfigDict(extra="forbid")

    dimension_name: str = Field(
        description="The dimension of this feature's partitions.", examples=["date"]
    )
    partition_mapping: _Name | _Simple | SkipJsonSchema[InstanceOf[dg.PartitionMapping]] = Field(
        default="identity",
        description="Which keys of the upstream dimension those of this one depend on.",
        examples=["identity", {"type": "time_window", "start_offset": -1}],
        json_schema_extra=_mapping_schema,
    )


class Multi(_Mapping):
    """Dimension by dimension."""

    type: Literal["multi"] = Field(
        description="Dimension by dimension, both having multi partitions.", examples=["multi"]
    )
    downstream_mappings_by_upstream_dimension: dict[str, DimensionMapping] = Field(
        description="By upstream dimension, the dimension of this feature that depends on it, and"
        " how. A dimension that is not named depends on all keys.",
        examples=[{"date": {"dimension_name": "date", "partition_mapping": "identity"}}],
    )

    def mapping(self) -> dg.PartitionMapping:
        """Dagster's mapping."""
        return dg.MultiPartitionMapping(
            {
                upstream: dg.DimensionPartitionMapping(
                    own.dimension_name, partition_mapping(own.partition_mapping)
                )
                for upstream, own in self.downstream_mappings_by_upstream_dimension.items()
            }
        )


AnyMapping = (
    Literal["identity", "all", "last", "time_window", "multi_to_single"]
    | Annotated[
        Identity | All | Last | TimeWindow | Static | Specific | MultiToSingle | Multi,
        Field(discriminator="type"),
    ]
    | SkipJsonSchema[InstanceOf[dg.PartitionMapping]]
)
"""What a `partition_mapping:` may be."""

MAPPING_SCHEMA = text_or(
    one_of((*_NAMES, "multi_to_single")),
    tagged({**_SIMPLE, "multi_to_single": MultiToSingle, "multi": Multi}),
)

_BY_NAME: Mapping[str, type[_Mapping]] = {
    "identity": Identity,
    "all": All,
    "last": Last,
    "time_window": TimeWindow,
    "multi_to_single": MultiToSingle,
}


def partition_mapping(mapping: AnyMapping) -> dg.PartitionMapping:
    """Dagster's mapping of a `partition_mapping:`, or of what a template gave for it."""
    if isinstance(mapping, str):
        return _BY_NAME[mapping](type=mapping).mapping()  # type: ignore[call-arg]
    return mapping if isinstance(mapping, dg.PartitionMapping) else mapping.mapping()
