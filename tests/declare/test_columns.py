from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dagster_metaxy.declare.columns import Column, ColumnError, RowShapeError, check_row

NOON = datetime.datetime(2026, 1, 2, 12)


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("str", "x", "x"),
        ("str", Path("a/b"), "a/b"),
        ("int", 3, 3),
        ("int", np.int32(3), 3),
        ("float", 3, 3.0),
        ("float", np.float32(0.5), 0.5),
        ("bool", np.bool_(True), True),
        ("bytes", b"x", b"x"),
        ("date", NOON.date(), NOON.date()),
        ("datetime", NOON, NOON.replace(tzinfo=datetime.timezone.utc)),
        ("list[float]", np.array([1, 2]), [1.0, 2.0]),
        ("list[str]", ("a",), ["a"]),
        ("list[int]", [], []),
    ],
)
def test_values_that_fit(type_: str, value: object, expected: object) -> None:
    checked = Column(type_).check(value)
    assert checked == expected
    assert pl.Series([checked], dtype=Column(type_).dtype).to_list() == [expected]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("str", 3), ("str", b"x"), ("int", "3"), ("int", 3.0), ("int", True), ("float", "3"),
        ("float", True), ("bool", 1), ("date", NOON), ("datetime", NOON.date()), ("list[int]", 3),
        ("list[int]", "ab"), ("list[int]", [1, "2"]), ("list[int]", [None]), ("int", 2**63), ("str", "a\ud800"), ("str", None),
    ],
)  # fmt: skip
def test_values_that_do_not(type_: str, value: object) -> None:
    with pytest.raises(ColumnError):
        Column(type_).check(value)


def test_null_only_where_nullable() -> None:
    assert Column("str", nullable=True).check(None) is None


@pytest.mark.parametrize(
    "type_", ["string", "list", "list[list[int]]", "float32", "", "int | None"]
)
def test_unknown_types(type_: str) -> None:
    with pytest.raises(ColumnError, match="unknown column type"):
        Column(type_)


def test_rows() -> None:
    columns = {"a": Column("int"), "b": Column("str", nullable=True)}
    assert check_row(columns, {"a": 1}) == {"a": 1, "b": None}
    with pytest.raises(RowShapeError, match="unknown column 'c'"):
        check_row(columns, {"a": 1, "c": 2})
    with pytest.raises(RowShapeError, match="did not return column 'a'"):
        check_row(columns, {"b": "x"})
    with pytest.raises(RowShapeError, match="returned NoneType"):
        check_row(columns, None)
    with pytest.raises(ColumnError, match="column 'a' should be int, got str: 'x'") as caught:
        check_row(columns, {"a": "x"})
    assert not isinstance(caught.value, RowShapeError)
