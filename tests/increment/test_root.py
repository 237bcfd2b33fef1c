"""Root features, by their updates."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from worlds import RUNTIME, World

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.root import Root
from dagster_metaxy.increment.selection import Scope


@pytest.fixture
def feature() -> Feature:
    feature = Feature(
        "t/root", ("doc",), {"doc": Column("str"), "v": Column("str")}, fields=({"key": "text"},)
    )
    feature.register("t")
    return feature


def _root(feature: Feature, listing: object) -> Root:
    return Root(feature, Compute(listing, lists=True), {"text": "v"})  # type: ignore[arg-type]


def _docs(world: World) -> list[str]:
    return sorted(str(row["doc"]) for row in world.rows("t/root"))


@pytest.mark.parametrize("hard", [False, True])
def test_what_another_run_writes_while_this_one_lists_stays(
    world: World, feature: Feature, hard: bool
) -> None:
    there = {"a": "1", "b": "1"}

    def listing() -> list[dict[str, str]]:
        return [{"doc": doc, "v": version} for doc, version in there.items()]

    _root(feature, listing).run(world.store, Scope(), RUNTIME)

    def slow() -> list[dict[str, str]]:
        # b is away while this run lists; meanwhile it comes back changed, beside a new one.
        there.update(b="2", c="1")
        _root(feature, listing).run(world.store, Scope(), RUNTIME)
        return [{"doc": "a", "v": "1"}]

    outcome = replace(_root(feature, slow), hard_delete=hard).run(world.store, Scope(), RUNTIME)
    assert outcome.total.orphaned == 0
    assert _docs(world) == ["a", "b", "c"]
    del there["b"]
    _root(feature, listing).run(world.store, Scope(), RUNTIME)
    assert _docs(world) == ["a", "c"]


def test_a_frame_is_compared_as_rows_are(world: World) -> None:
    columns = {
        "doc": Column("str"),
        "size": Column("float", nullable=True),
        "tags": Column("list[str]", nullable=True),
    }
    day = datetime.date(2026, 1, 5)
    rows = [
        {"doc": "a", "size": float("nan"), "tags": ["x", "y"], "v": day},
        {"doc": "b", "size": None, "tags": None, "v": day},
        {"doc": "c", "size": 1.0, "tags": [], "v": day},
    ]
    for names in (("doc", "size"), ("doc", "size", "tags")):
        feature = Feature(
            f"t/of_{len(names)}",
            ("doc",),
            {name: columns[name] for name in names},
            fields=({"key": "text"},),
        )
        feature.register("t")

        def run(
            rows: list[dict[str, Any]], as_frame: bool, names: Any = names, feature: Any = feature
        ):
            given: Any = [{name: row[name] for name in (*names, "v")} for row in rows]
            if as_frame:
                given = pl.DataFrame(given)
            return _root(feature, lambda: given).run(world.store, Scope(), RUNTIME)

        assert run(rows, True).total.new == 3
        for as_frame in (False, True):  # the same versions and values, either way
            outcome = run(rows, as_frame)
            assert (outcome.written, outcome.total.stale) == (0, 0)
        other = [{**rows[0], "size": 2.0}, {**rows[1], "v": day.replace(day=6)}, rows[2]]
        outcome = run(other, True)
        assert (outcome.written, outcome.total.stale, outcome.total.new) == (2, 1, 0)
        assert run(other, False).written == 0
        # What is wrong is named as in rows, and stops no other.
        for as_frame in (False, True):
            outcome = run([*other, other[0], {**rows[2], "doc": None}], as_frame)
            assert [str(failure) for failure in outcome.failed] == [
                "doc=None: ColumnError: column 'doc' is null, but not declared nullable"
            ]
            assert (outcome.written, outcome.total.orphaned) == (0, 0)
