"""Root features, by their updates."""

from __future__ import annotations

from dataclasses import replace

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


def _docs(world: World) -> list[object]:
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
