"""The columns of a feature: a small type language, shared by the YAML, Metaxy and the store."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

SCALARS: Mapping[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "date": datetime.date,
    "datetime": datetime.datetime,
}
"""Names of scalar types, as Python spells them."""

TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))
"""What a column's type may be in YAML: a scalar, or a list of one."""

UNCHECKED = "any"
"""The type of a column that a Python class declares as something else: a mapping, a nested list ..."""


class ColumnError(ValueError):
    """A value, or a set of columns, that does not fit what the feature declares."""


class RowShapeError(ColumnError):
    """A row with other columns than the feature declares: the compute is wrong, not the data."""


@dataclass(frozen=True)
class Column:
    """One column of a feature.

    Attributes:
        type: A name of `SCALARS`, or `list[...]` of one; `UNCHECKED` for what Python classes have
            beyond.
        nullable: Whether the column may hold null.
        description: What the column means, with its unit.
    """

    type: str = "str"
    nullable: bool = False
    description: str | None = None

    def __post_init__(self) -> None:
        if self.type not in (*TYPES, UNCHECKED):
            raise ColumnError(
                f"unknown column type {self.type!r}; use one of {', '.join(SCALARS)},"
                " or list[...] of one"
            )

    @classmethod
    def of_schema(
        cls, schema: Mapping[str, Any], definitions: Mapping[str, Any], *, required: bool
    ) -> Column:
        """The column that a property of a JSON schema describes, as pydantic writes it.

        Args:
            schema: Of the property.
            definitions: What its references point at.
            required: Whether a row must have it.
        """
        alternatives = [_followed(s, definitions) for s in schema.get("anyOf", [schema])]
        types = [s for s in alternatives if s.get("type") != "null"]
        return cls(
            _type_of(types[0], definitions) if len(types) == 1 else UNCHECKED,
            nullable=len(types) < len(alternatives) or not required,
            description=schema.get("description"),
        )

    @property
    def _scalar(self) -> tuple[str, bool]:
        is_list = self.type.startswith("list[")
        return (self.type[5:-1] if is_list else self.type), is_list

    @property
    def annotation(self) -> Any:
        """The Python annotation of a Metaxy feature class."""
        if self.type == UNCHECKED:
            return Any
        scalar, is_list = self._scalar
        annotation: Any = list[SCALARS[scalar]] if is_list else SCALARS[scalar]
        return annotation | None if self.nullable else annotation

    @property
    def dtype(self) -> pl.DataType | None:
        """The polars type that the store writes; None where only the values tell."""
        import polars as pl

        if self.type == UNCHECKED:
            return None

        scalar, is_list = self._scalar
        dtype = {
            "str": pl.String(),
            "int": pl.Int64(),
            "float": pl.Float64(),
            "bool": pl.Boolean(),
            "bytes": pl.Binary(),
            "date": pl.Date(),
            "datetime": pl.Datetime("us", "UTC"),
        }[scalar]
        return pl.List(dtype) if is_list else dtype

    def check(self, value: Any) -> Any:
        """`value` as the store takes it.

        Numpy scalars and arrays become Python's, integers pass for floats, paths for strings,
        and times without a zone are taken as UTC. Nothing else is converted.

        Raises:
            ColumnError: The value is null in a column that is not nullable, or of another type.
        """
        if value is None:
            if not self.nullable:
                raise ColumnError("is null, but not declared nullable")
            return None
        if self.type == UNCHECKED:
            return value
        scalar, is_list = self._scalar
        if is_list:
            value = value.tolist() if hasattr(value, "tolist") else value
            if not isinstance(value, list | tuple):
                raise self._mismatch(value)
            return [self._check_scalar(scalar, item) for item in value]
        return self._check_scalar(scalar, value)

    def _check_scalar(self, scalar: str, value: Any) -> Any:
        if type(value).__module__ == "numpy" and hasattr(value, "item"):
            value = value.item()
        if scalar == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if scalar == "str" and isinstance(value, os.PathLike):
            return os.fspath(value)
        # bool is an int, and datetime is a date, to isinstance
        if type(value) is not SCALARS[scalar]:
            raise self._mismatch(value)
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ColumnError("is no valid text: it holds a lone surrogate") from None
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise ColumnError(f"does not fit into 64 bits: {value}")
        if isinstance(value, datetime.datetime) and value.tzinfo is None:
            return value.replace(tzinfo=datetime.timezone.utc)
        return value

    def _mismatch(self, value: Any) -> ColumnError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ColumnError(f"should be {self.type}, got {type(value).__name__}: {shown}")


_FORMATS = {"date-time": "datetime", "date": "date", "binary": "bytes"}
_JSON_TYPES = {"integer": "int", "number": "float", "boolean": "bool"}


def _followed(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else schema


def _type_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "string":
        return _FORMATS.get(schema.get("format", ""), "str")
    if kind == "array":
        item = _type_of(_followed(schema.get("items", {}), definitions), definitions)
        return f"list[{item}]" if item in SCALARS else UNCHECKED
    return _JSON_TYPES.get(str(kind), UNCHECKED)


def check_row(columns: Mapping[str, Column], row: Any) -> dict[str, Any]:
    """A row that a compute returned, checked against the declared columns.

    Args:
        columns: All columns of the feature.
        row: A mapping with a value for each; nullable columns may be left out.

    Raises:
        RowShapeError: A column is unknown or missing, or the row is no mapping.
        ColumnError: A value is null or of another type than its column.
    """
    if not isinstance(row, Mapping):
        raise RowShapeError(
            f"the compute returned {type(row).__name__}, not a mapping of columns to values"
        )
    declared = f"declared: {', '.join(columns)}"
    if unknown := [name for name in row if name not in columns]:
        raise RowShapeError(f"the compute returned the unknown column {unknown[0]!r} ({declared})")
    checked = {}
    for name, column in columns.items():
        if name not in row and not column.nullable:
            raise RowShapeError(
                f"the compute did not return column {name!r} (returned: {', '.join(row)})"
            )
        try:
            checked[name] = column.check(row.get(name))
        except ColumnError as error:
            raise ColumnError(f"column {name!r} {error}") from None
    return checked
