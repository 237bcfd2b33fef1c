"""Samples whose upstream has not run, or only in part, since its code version was changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from worlds import RUNTIME, World, update

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation
from dagster_metaxy.increment.outcome import Outcome
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import Update


def run(world: World, updating: Update, scope: Scope | None = None, **selection: Any) -> Outcome:
    runtime = replace(RUNTIME, selection=Selection(**selection))
    return updating.run(world.store, scope or Scope(), runtime)


def newest(world: World, feature: Feature) -> list[dict[str, Any]]:
    """The newest row of each sample, of whatever code: upstream's is part of a feature's version."""
    with world.store.open("r") as store:
        return store.read(feature.key, with_feature_history=True).collect().to_native().to_dicts()


class Words:
    """1:1 from the root, with a column `kind`; docs in `bad` fail."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bad: set[str] = set()
        self.feature = self.at("1")

    def at(self, version: str) -> Feature:
        columns = {"words": Column("int"), "kind": Column("str")}
        fields = ({"key": "words", "code_version": version},)
        deps = ({"feature": "t/docs"},)
        self.feature = self.world.define(Feature("t/words", ("doc",), columns, fields, deps))
        return self.feature

    def run(self, **selection: Any) -> None:
        run(self.world, update(self.world, self.feature, self), **selection)

    def __call__(self, sample: Any) -> dict[str, Any]:
        if sample["doc"] in self.bad:
            raise ValueError("bad")
        return {"words": sample["pages"], "kind": "k"}


def test_an_optional_upstream_is_waited_for(world: World) -> None:
    words = Words(world)
    deps = ({"feature": "t/docs"}, {"feature": "t/words", "optional": True})
    feature = Feature("t/sizes", ("doc",), {"size": Column("str")}, deps=deps)
    feature = feature.with_id_types({"t/docs": world.docs, "t/words": words.feature})
    feature.register("t")
    sizes = update(world, feature, lambda sample: {"size": str(sample["words"])})

    def rows() -> dict[object, object]:
        return {row["doc"]: row["size"] for row in newest(world, feature)}

    world.put(a=("1", "1", 1), b=("1", "1", 2))
    words.run()
    run(world, sizes)
    words.at("2")
    feature.register("t")
    world.put(c=("1", "1", 3))  # of which there is no other row of `words`
    outcome = run(world, sizes)
    assert rows() == {"a": "1", "b": "2", "c": "None"}
    assert outcome.total.stale == 0
    assert outcome.remaining is not None
    assert {task.ids for task in outcome.remaining.left} == {("a",), ("b",)}
    assert "2 samples not computed until t/words has run" in " ".join(outcome.notes)
    words.bad.add("a")
    words.run()
    run(world, sizes)
    assert rows() == {"a": "None", "b": "2", "c": "3"}  # what failed is not waited for
    words.at("1")
    feature.register("t")
    run(world, sizes)
    # Reverted, what it has is seen again; and what it has not is waited for.
    assert {row["doc"]: row["size"] for row in world.rows("t/sizes")} == {"a": "1", "b": "2"}


def test_a_group_waits_for_all_of_its_members(world: World) -> None:
    words = Words(world)
    deps = ({"feature": "t/words", "lineage": aggregation(["kind"])},)
    feature = Feature("t/kinds", ("kind",), {"docs": Column("int")}, deps=deps)
    feature = feature.with_id_types({"t/words": words.feature})
    feature.register("t")
    kinds = update(world, feature, lambda samples: {"docs": len(samples)})

    def docs() -> list[object]:
        return [row["docs"] for row in newest(world, feature)]

    world.put(a=("1", "1", 1), b=("1", "1", 2), c=("1", "1", 3))
    words.run()
    run(world, kinds)
    words.at("2")
    feature.register("t")
    words.run(limit=1)
    assert run(world, kinds).total.stale == 0
    assert docs() == [3]
    run(world, kinds, force=True)  # asked for all the same
    assert docs() == [1]
    words.bad.add("c")
    words.run()
    run(world, kinds)
    assert docs() == [2]  # what failed is not waited for
    words.bad.clear()
    words.run(retry_quarantined=True)
    run(world, kinds)
    assert docs() == [3]


def test_an_upstream_with_fewer_id_columns_keeps_what_is_below(world: World) -> None:
    pages = world.pages()
    world.put(a=("1", "1", 2), b=("1", "1", 2))
    run(world, update(world, pages, lambda s: [{"page": n} for n in range(s["pages"])]))
    columns = {"doc": Column("str")}
    meta = Feature("t/meta", ("doc",), columns, ({"key": "lang", "code_version": "1"},))
    meta.register("t")

    def put(version: str, *docs: str) -> None:
        provenance = [{"lang": version}] * len(docs)
        with world.store.open("w") as store:
            store.write(
                "t/meta", pl.DataFrame({"doc": docs, "metaxy_provenance_by_field": provenance})
            )

    def compute(sample: Any, context: Any) -> dict[str, Any]:
        path = context.artifact("page.txt")
        path.write_text("x")
        return {"file": str(path)}

    deps = ({"feature": "t/pages"}, {"feature": "t/meta"})
    feature = Feature("t/both", ("doc", "page"), {"file": Column("str")}, deps=deps)
    feature = feature.with_id_types({"t/pages": pages, "t/meta": meta})
    feature.register("t")
    both = update(world, feature, compute)
    put("1", "a", "b")
    run(world, both)
    put("2", "a")
    with world.store.open("r") as store:
        found = {detail for _, _, detail in both.plan(store).rows()}
    assert len(found) == 1
    assert found.pop().startswith("t/meta: lang ")
    replace(meta, fields=({"key": "lang", "code_version": "2"},)).register("t")
    feature.register("t")
    put("1", "a")
    outcome = run(world, both)
    assert outcome.total.orphaned == 0
    rows = {(row["doc"], row["page"]): Path(row["file"]) for row in newest(world, feature)}
    assert set(rows) == {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    assert all(path.is_file() for path in rows.values())
    put("1", "b")
    run(world, both)
    assert len(world.rows("t/both")) == 4


def test_partitions_are_settled_only_if_all_upstreams_show_their_samples(world: World) -> None:
    words = Words(world)
    deps = ({"feature": "t/docs"}, {"feature": "t/words"})
    feature = Feature("t/sizes", ("doc",), {"size": Column("int")}, deps=deps)
    feature = feature.with_id_types({"t/docs": world.docs, "t/words": words.feature})
    feature.register("t")
    sizes = update(world, feature, lambda sample: {"size": sample["words"]})
    scope = Scope(lambda sample: sample["doc"], columns=("doc",))
    world.put(a=("1", "1", 1), b=("1", "1", 2))
    words.bad.add("b")
    words.run()
    assert run(world, sizes, scope).up_to_date == {"a"}
    words.at("2")
    feature.register("t")
    assert run(world, sizes, scope).up_to_date == set()


def test_partitions_of_parents_without_children_are_settled(world: World) -> None:
    pages = update(world, world.pages(), lambda s: [{"page": n} for n in range(s["pages"])])
    columns = {"page": Column("int"), "pages": Column("int")}
    by_id = Scope(lambda sample: sample["doc"], columns=("doc",))
    world.put(a=("1", "1", 0), b=("1", "1", 1))
    for _ in range(2):
        assert run(world, pages, by_id).up_to_date == {"a", "b"}
    by_pages = Scope(lambda sample: str(sample["pages"]), columns=("pages",))
    other = update(
        world,
        world.define(replace(pages.feature, key="t/others", columns=columns)),
        lambda s: [{"page": n} for n in range(s["pages"])],
    )
    for _ in range(2):
        assert run(world, other, by_pages).up_to_date == {"0", "1"}


def test_what_is_below_an_expansion_is_kept_until_its_parent_is_done(world: World) -> None:
    fields = ({"key": "default", "code_version": "1"},)
    feature = replace(world.pages(), fields=fields)
    feature.register("t")
    below = Feature(
        "t/sizes", ("doc", "page"), {"size": Column("int")}, deps=({"feature": "t/pages"},)
    )
    below = below.with_id_types({"t/pages": feature})
    below.register("t")
    sizes = update(world, below, lambda sample: {"size": 1})
    given = {"a": 2, "b": 2, "c": 1}

    def compute(sample: Any) -> list[dict[str, Any]]:
        return [{"page": n} for n in range(given[sample["doc"]])]

    world.put(a=("1", "1", 1), b=("1", "1", 1), c=("1", "1", 1))
    run(world, update(world, feature, compute))
    run(world, sizes)
    feature = replace(feature, fields=({"key": "default", "code_version": "2"},))
    feature.register("t")
    below.register("t")
    assert run(world, sizes).total.orphaned == 0
    given.update(a=1, c=0)  # fewer children, and none: done all the same
    run(world, update(world, feature, compute), only={"a", "c"})
    assert run(world, sizes).total.orphaned == 2
    assert {(r["doc"], r["page"]) for r in newest(world, below)} == {("a", 0), ("b", 0), ("b", 1)}
