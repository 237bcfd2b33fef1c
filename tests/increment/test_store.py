"""The traps of Metaxy and of its stores that were met by hand: each is closed, or still as we
believe it to be."""

from __future__ import annotations

import dagster as dg
import deltalake
import metaxy as mx
import metaxy.ext.dagster as mxd
import narwhals as nw
import polars as pl
import pytest
from worlds import RUNTIME, World
from worlds import update as updating

from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.selection import Scope


def _frame(doc: str, pages: int | None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "doc": [doc],
            "pages": [pages],
            "metaxy_provenance_by_field": [{"text": "1", "title": "1"}],
        },
        schema_overrides={"pages": pl.Int64},
    )


def test_a_column_that_is_null_in_one_chunk_and_typed_in_the_next(world: World) -> None:
    world.put(**{f"d{n}": ("1", "1", n) for n in range(4)})
    from dagster_metaxy.declare.columns import Column
    from dagster_metaxy.declare.feature import Feature

    feature = world.define(
        Feature(
            "t/maybe",
            ("doc",),
            {"value": Column("float", nullable=True), "tags": Column("list[str]", nullable=True)},
            deps=({"feature": "t/docs"},),
        )
    )

    def compute(sample: dict[str, int]) -> dict[str, object]:
        odd = sample["pages"] % 2
        return {"value": 0.5 if odd else None, "tags": ["x"] if odd else None}

    update = updating(world, feature, compute, chunk_rows=1)
    assert update.run(world.store, Scope(), RUNTIME).failed == []
    assert {row["value"] for row in world.rows("t/maybe")} == {None, 0.5}


def test_small_appends_are_compacted(world: World) -> None:
    with world.store.open("w") as store:
        for n in range(stores.SMALL_FILES + 5):
            stores.append(store, "t/docs", _frame(f"d{n}", n))
        uri = store.get_store_info("t/docs")["uri"]
        assert len(deltalake.DeltaTable(uri).file_uris()) > stores.SMALL_FILES
        stores.compact(store, "t/docs")
        assert len(deltalake.DeltaTable(uri).file_uris()) < 5
        assert len(store.read("t/docs").collect()) == stores.SMALL_FILES + 5


def test_deleting_by_ids_of_several_columns(world: World) -> None:
    feature = world.pages()
    world.put(a=("1", "1", 3), b=("1", "1", 3))
    updating(world, feature, lambda s: [{"page": n} for n in range(3)]).run(
        world.store, Scope(), RUNTIME
    )
    with world.store.open("w") as store:
        stores.delete(store, "t/pages", ["doc", "page"], [("a", 1), ("b", 2), ("c", 1)])
    left = {(row["doc"], row["page"]) for row in world.rows("t/pages")}
    assert left == {("a", 0), ("a", 2), ("b", 0), ("b", 1)}


def test_a_deleted_sample_that_is_listed_again_comes_back(world: World) -> None:
    update = updating(world, world.words(), lambda s: {"words": 1})
    world.put(a=("1", "1", 1))
    update.run(world.store, Scope(), RUNTIME)
    world.drop("a")
    assert update.run(world.store, Scope(), RUNTIME).total.orphaned == 1
    world.put(a=("1", "1", 1))
    assert update.run(world.store, Scope(), RUNTIME).total.new == 1
    assert len(world.rows("t/words")) == 1


def test_registering_again_replaces_and_a_class_of_ones_own_conflicts(world: World) -> None:
    world.words()
    version = mx.current_graph().get_feature_version("t/words")
    world.words(description="another")
    assert mx.current_graph().get_feature_version("t/words") == version
    spec = mx.FeatureSpec(key="t/words", id_columns=["doc"])
    with pytest.raises(ValueError, match="already registered"):

        class Words(mx.BaseFeature, spec=spec):
            doc: str


def test_generated_classes_serve_metaxify(world: World) -> None:
    world.words(description="Words.")
    spec = mxd.metaxify()(dg.AssetSpec(["t", "words"], metadata={"metaxy/feature": "t/words"}))
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["t", "docs"])]
    assert spec.description == "Words."
    names = {column.name for column in spec.metadata["dagster/column_schema"].columns}
    assert {"doc", "words"} <= names


def test_threads_do_not_see_the_active_graph_unless_it_is_carried(world: World) -> None:
    from dagster_metaxy.engines import local

    world.words()
    keys = [
        result[1]
        for result in local.run(
            range(4), lambda _: mx.current_graph().get_feature_version("t/words"), workers=2
        )
        if result is not None
    ]
    assert len(set(keys)) == 1
    assert isinstance(keys[0], str)


def test_upstream_that_was_never_written_raises_in_metaxy(world: World) -> None:
    world.words()
    with world.store.open("r") as store, pytest.raises(Exception, match="not found"):
        store.resolve_update("t/words")
    with world.store.open("r") as store:
        assert stores.read(store, "t/docs") is None


def test_metaxy_calls_all_orphaned_after_a_code_version_changed_upstream(world: World) -> None:
    from dataclasses import replace

    update = updating(world, world.words(), lambda s: {"words": 1})
    world.put(a=("1", "1", 1))
    update.run(world.store, Scope(), RUNTIME)
    fields = ({"key": "text"}, {"key": "title", "code_version": "2"})
    replace(world.docs, fields=fields).register("t")
    with world.store.open("r") as store:
        assert len(store.resolve_update("t/words").orphaned) == 1
        rows = stores.stranded(store, "t/docs", ["doc"])
        assert rows is not None
        assert rows.rows() == [("a",)]
    world.docs.register("t")  # reverted: the rows are seen again, whatever came in between
    with world.store.open("r") as store:
        assert stores.stranded(store, "t/docs", ["doc"]) is None


def test_history_is_kept_and_reads_give_the_last(world: World) -> None:
    for pages in (1, 2, 3):
        world.put(a=("1", "1", pages))
    with world.store.open("r") as store:
        assert len(store.read("t/docs", with_sample_history=True).collect()) == 3
    assert [row["pages"] for row in world.rows("t/docs")] == [3]
    with world.store.open("r") as store:
        assert len(store.read("t/docs", filters=[nw.col("pages") < 3]).collect()) == 0
