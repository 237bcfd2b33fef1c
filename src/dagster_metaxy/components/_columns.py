"""Columns, as they are written in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from dagster_metaxy.declare.columns import TYPES, Column
from dagster_metaxy.declare.schema import model_schema, one_of, text_or

TYPE_NAMES = "str, int, float, bool, bytes, date, datetime, or list[...] of one"


class ColumnModel(BaseModel):
    """A column in full."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(
        description=f"One of {TYPE_NAMES}.",
        examples=["float", "list[str]"],
        json_schema_extra=one_of(TYPES),
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


def _normalized(columns: Any) -> Any:
    if not isinstance(columns, Mapping):
        return columns
    for name in columns:
        if name.startswith("metaxy_"):
            raise ValueError(f"{name!r}: names that begin with metaxy_ are Metaxy's own")
    return {
        name: {"type": column} if isinstance(column, str) else column
        for name, column in columns.items()
    }


ColumnModels = Annotated[dict[str, ColumnModel], BeforeValidator(_normalized)]
"""Columns by name: each a type, or in full."""

COLUMNS_SCHEMA = {"additionalProperties": text_or(one_of(TYPES), model_schema(ColumnModel))}
"""What these may be in YAML."""


def declared_columns(columns: Mapping[str, ColumnModel]) -> dict[str, Column]:
    """The columns as the feature has them."""
    return {name: Column(**column.model_dump()) for name, column in columns.items()}
