"""Deleting chosen samples: what goes with them, what stays, and what a kill leaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds import RUNTIME, World
from worlds import update as updating

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation
from dagster_metaxy.increment import deletion, store
from dagster_metaxy.increment.artifacts.disk import DiskArtifacts as Artifacts
from dagster_metaxy.increment.collection import find_garbage, remove
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.deletion import Deletion, delete, plan_deletion
from dagster_metaxy.increment.outcome import Counts, UpdateError
from dagster_metaxy.increment.selection import Sample, Scope


def pages(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
    rows = []
    for page in range(sample["pages"]):
        file = context.artifacts / f"{page}.txt"
        file.write_text(sample["doc"])
        rows.append({"page": page, "file": file})
    return rows


class Chain:
    """`t/pages` (1:N, with files) and `t/words` (1:1) from `t/docs`; `t/numbers` (N:1) from pages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.updates = [
            updating(world, world.pages(artifact=True), pages),
            updating(world, world.words(), lambda s: {"words": s["pages"]}),
            updating(world, self._numbers(), lambda group: {"count": len(group)}),
        ]

    def _numbers(self) -> Feature:
        """N:1: how many documents have a page of each number."""
        feature = Feature(
            "t/numbers",
            ("page",),
            {"page": Column("int"), "count": Column("int")},
            deps=({"feature": "t/pages", "lineage": aggregation(["page"])},),
        )
        return self.world.define(feature)

    def run(self) -> list[Counts]:
        return [u.run(self.world.store, Scope(), RUNTIME).total for u in self.updates]

    def plan(self, key: str, condition: str) -> dict[str, Deletion]:
        folders = {u.feature.key: u.artifacts for u in self.updates}
        with self.world.store.open("r") as opened:
            return {d.key: d for d in plan_deletion(lambda _: opened, key, condition, folders)}

    def delete(self, key: str, condition: str, hard: bool = False) -> None:
        planned = self.plan(key, condition)
        with self.world.store.open("w") as opened:
            delete(lambda _: opened, list(planned.values()), hard=hard)

    def ids(self, key: str, *columns: str) -> set[Any]:
        return {tuple(row[c] for c in columns) for row in self.world.rows(key)}

    @property
    def folder(self) -> Path:
        return self.world.root / "artifacts/t__pages"

    def collect(self) -> None:
        """Remove the files that no row names."""
        with self.world.store.open("r") as opened:
            feature = self.updates[0].feature
            remove(find_garbage(feature, self.folder.parent, [opened], time.time() + 1))

    @property
    def files(self) -> set[Path]:
        return set((self.world.root / "artifacts").rglob("*.txt"))

    def files_follow_rows(self) -> bool:
        return self.files == {Path(str(row["file"])) for row in self.world.rows("t/pages")}


@pytest.fixture
def chain(world: World) -> Chain:
    made = Chain(world)
    world.put(a=("1", "1", 1), b=("1", "1", 3), c=("1", "1", 1))
    made.run()
    return made


def test_what_would_go(chain: Chain) -> None:
    planned = chain.plan("t/docs", "doc = 'b'")
    assert set(planned) == {"t/docs", "t/pages", "t/words", "t/numbers"}
    assert planned["t/docs"].samples == [("b",)]
    assert planned["t/words"].samples == [("b",)]
    assert planned["t/pages"].samples == [("b", 0), ("b", 1), ("b", 2)]
    assert planned["t/pages"].folders == [*chain.folder.glob("b/*")]
    # The group of page 0 has other members, those of 1 and 2 have none left.
    assert planned["t/numbers"].samples == [(1,), (2,)]
    assert planned["t/numbers"].stale == [(0,)]
    assert planned["t/docs"].names(5) == ["doc=b"]
    assert chain.ids("t/docs", "doc") == {("a",), ("b",), ("c",)}  # nothing was touched
    assert len(chain.files) == 5


@pytest.mark.parametrize("hard", [False, True])
def test_exactly_that_goes(chain: Chain, hard: bool) -> None:
    chain.delete("t/docs", "doc = 'b'", hard)
    assert chain.ids("t/docs", "doc") == {("a",), ("c",)}
    assert chain.ids("t/words", "doc") == {("a",), ("c",)}
    assert chain.ids("t/pages", "doc", "page") == {("a", 0), ("c", 0)}
    assert chain.ids("t/numbers", "page", "count") == {(0, 3)}
    assert chain.files_follow_rows()
    # Only the group that lost a member is left to do.
    assert chain.run() == [Counts(), Counts(), Counts(stale=1)]
    assert chain.ids("t/numbers", "page", "count") == {(0, 2)}
    if hard:
        with chain.world.store.open("r") as opened:
            rows = store.read(
                opened, "t/pages", with_sample_history=True, include_soft_deleted=True
            )
            assert rows is not None
            assert "b" not in rows["doc"]


def test_of_a_computed_feature_only_what_is_downstream(chain: Chain) -> None:
    chain.delete("t/pages", "doc = 'b'")
    assert chain.ids("t/docs", "doc") == {("a",), ("b",), ("c",)}
    assert chain.ids("t/words", "doc") == {("a",), ("b",), ("c",)}
    assert chain.ids("t/numbers", "page") == {(0,)}
    assert chain.files_follow_rows()
    # Its upstream is there: it is new again.
    assert chain.run()[0] == Counts(new=1)
    assert chain.files_follow_rows()


def test_some_children_of_a_parent_go_with_their_files(chain: Chain) -> None:
    planned = chain.plan("t/pages", "page = 1 OR doc = 'a'")["t/pages"]
    assert planned.samples == [("a", 0), ("b", 1)]
    assert planned.folders == [*chain.folder.glob("a/*")]
    assert [file.name for file in planned.files] == ["1.txt"]
    chain.delete("t/pages", "page = 1 OR doc = 'a'")
    assert chain.ids("t/pages", "doc", "page") == {("b", 0), ("b", 2), ("c", 0)}
    assert chain.files_follow_rows()


@pytest.mark.parametrize("hard", [False, True])
def test_rows_of_older_code_go_too(chain: Chain, hard: bool) -> None:
    world = chain.world
    older = world.words()
    deps = [{"feature": "t/docs", "fields": ["text"]}]
    fields = ({"key": "words", "code_version": "2", "deps": deps},)
    Feature("t/words", ("doc",), older.columns, fields=fields, deps=older.deps).register("t")
    planned = chain.plan("t/docs", "doc = 'b'")["t/words"]
    assert (planned.samples, planned.older) == ([("b",)], 1)
    chain.delete("t/docs", "doc = 'b'", hard)
    assert chain.plan("t/words", "doc = 'b'")["t/words"].samples == []
    # They are gone for code that is reverted, too, as their files are.
    older.register("t")
    assert ("b",) not in chain.ids("t/words", "doc")
    assert chain.run()[1] == Counts()
    assert chain.ids("t/words", "doc") == {("a",), ("c",)}


def test_renamed_filtered_and_optional_upstreams(world: World) -> None:
    filtered = world.define(
        Feature(
            "t/long",
            ("d",),
            {"n": Column("int")},
            deps=({"feature": "t/docs", "rename": {"doc": "d"}, "filters": ["pages > 1"]},),
        )
    )
    both = world.define(
        Feature(
            "t/both",
            ("doc",),
            {"n": Column("int")},
            deps=(
                {"feature": "t/docs", "select": ()},
                {"feature": "t/long", "rename": {"d": "doc"}, "optional": True},
            ),
        )
    )
    world.put(a=("1", "1", 1), b=("1", "1", 3))
    for feature in (filtered, both):
        updating(world, feature, lambda s: {"n": 1}).run(world.store, Scope(), RUNTIME)
    with world.store.open("w") as opened:
        planned = {d.key: d for d in plan_deletion(lambda _: opened, "t/long", "d = 'b'", {})}
        assert planned["t/both"].samples == []
        assert planned["t/both"].stale == [("b",)]
        planned = {d.key: d for d in plan_deletion(lambda _: opened, "t/docs", "doc = 'b'", {})}
        assert planned["t/long"].samples == [("b",)]
        assert planned["t/both"].samples == [("b",)]
        assert planned["t/both"].stale == []


def test_a_group_whose_other_members_do_not_count(world: World) -> None:
    groups = world.define(
        Feature(
            "t/groups",
            ("pages",),
            {"pages": Column("int"), "n": Column("int")},
            deps=(
                {"feature": "t/docs", "filters": ["doc != 'x'"], "lineage": aggregation(["pages"])},
            ),
        )
    )
    world.put(a=("1", "1", 1), x=("1", "1", 1), b=("1", "1", 2), c=("1", "1", 2))
    updating(world, groups, lambda group: {"n": len(group)}).run(world.store, Scope(), RUNTIME)
    with world.store.open("r") as opened:
        planned = {
            d.key: d
            for d in plan_deletion(lambda _: opened, "t/docs", "doc IN ('a', 'b', 'x')", {})
        }
        assert planned["t/groups"].samples == [(1,)]
        assert planned["t/groups"].stale == [(2,)]
        # One that the dependency filters out is no member.
        planned = {d.key: d for d in plan_deletion(lambda _: opened, "t/docs", "doc = 'x'", {})}
        assert (planned["t/groups"].samples, planned["t/groups"].stale) == ([], [])


@pytest.mark.parametrize("hard", [False, True])
def test_null_ids(world: World, hard: bool) -> None:
    versions = {"text": "1", "title": "1"}
    frame = {
        "doc": ["a", None],
        "pages": [1, 1],
        "metaxy_provenance_by_field": [versions, versions],
    }
    with world.store.open("w") as opened:
        opened.write("t/docs", pl.DataFrame(frame))
        planned = plan_deletion(lambda _: opened, "t/docs", "doc IS NULL", {})
        assert planned[0].samples == [(None,)]
        delete(lambda _: opened, planned, hard=hard)
    assert [row["doc"] for row in world.rows("t/docs")] == ["a"]


def test_two_id_columns_one_of_them_null(world: World) -> None:
    Feature("t/shots", ("cam", "at"), {"cam": Column("str"), "at": Column("int")}).register("t")
    rows = [
        {"cam": cam, "at": at, "metaxy_provenance_by_field": {"default": "1"}}
        for cam, at in (("a", None), ("a", 1), ("b", None))
    ]
    with world.store.open("w") as opened:
        opened.write("t/shots", pl.DataFrame(rows))
        delete(lambda _: opened, plan_deletion(lambda _: opened, "t/shots", "cam = 'a'", {}))
    assert [(r["cam"], r["at"]) for r in world.rows("t/shots")] == [("b", None)]


def test_nothing_to_delete(chain: Chain, world: World) -> None:
    assert not any(d.samples for d in chain.plan("t/docs", "doc = 'z'").values())
    world.words()
    Feature("t/never", ("doc",), {"doc": Column("str")}).register("t")
    assert chain.plan("t/never", "doc = 'z'")["t/never"] == Deletion("t/never", ("doc",), [], 0, [])


@pytest.mark.parametrize(
    ("key", "condition", "message"),
    [
        ("t/doc", "doc = 'a'", r"there is no feature 't/doc'; there are: .*t/docs.* Did you mean 't/docs'\?"),
        ("t/docs", "doc = ", r"^the filter 'doc = ' is no condition that Metaxy reads \(.*\); write it like .*$"),
        ("t/docs", "", "cannot be empty"),
        ("t/docs", "upper(doc) = 'A'", r"\(Unsupported operand: UPPER\(doc\)\)"),
        ("t/docs", "dok = 'a'", r"names a column that t/docs does not have; it has: doc, pages"),
        ("t/docs", "doc = 3", r"'doc = 3' cannot be applied to t/docs: cannot compare string"),
        ("t/docs", "doc", "cannot be applied to t/docs"),
    ],
)  # fmt: skip
def test_errors_in_one_sentence(chain: Chain, key: str, condition: str, message: str) -> None:
    with pytest.raises(UpdateError, match=message) as caught:
        chain.plan(key, condition)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kill_after", range(7))
@pytest.mark.parametrize("then", ["repeat", "run"])
def test_killed_in_between(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, kill_after: int, then: str
) -> None:
    """Stopped at each step of it; then repeated, or followed by an ordinary run."""
    steps = 0

    def counted(function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            if steps == kill_after:
                raise KeyboardInterrupt
            steps += 1
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(deletion.stores, "delete", counted(store.delete))
        patched.setattr(Artifacts, "retire", counted(Artifacts.retire))
        if kill_after < 5:
            with pytest.raises(KeyboardInterrupt):
                chain.delete("t/docs", "doc = 'b'")
        else:
            chain.delete("t/docs", "doc = 'b'")
            assert steps == 5
    rows = {Path(str(row["file"])) for row in chain.world.rows("t/pages")}
    assert rows <= chain.files  # no row without its file
    if then == "repeat":
        chain.delete("t/docs", "doc = 'b'")
        assert chain.ids("t/docs", "doc") == {("a",), ("c",)}
    chain.run()
    chain.collect()
    assert chain.files_follow_rows()
    assert chain.ids("t/pages", "doc") == chain.ids("t/docs", "doc") == chain.ids("t/words", "doc")
    assert chain.run() == [Counts()] * 3


def test_files_of_a_feature_that_was_deleted_itself_and_killed(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Artifacts, "retire", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chain.delete("t/pages", "doc = 'b'")
    assert not chain.files_follow_rows()
    chain.delete("t/pages", "doc = 'b'")
    assert chain.files_follow_rows()


def test_beside_a_run_that_has_published_and_not_written_yet(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.world.put(b=("2", "1", 2))
    append = store.append
    deleted: list[str] = []

    def delete_first(opened: Any, key: str, rows: pl.DataFrame) -> None:
        if key == "t/pages" and not deleted:
            deleted.append(key)
            chain.delete("t/pages", "doc = 'b'")
        append(opened, key, rows)

    monkeypatch.setattr(store, "append", delete_first)
    assert chain.run()[0] == Counts(stale=1)
    assert deleted
    assert chain.ids("t/pages", "doc", "page") == {("a", 0), ("b", 0), ("b", 1), ("c", 0)}
    assert chain.files_follow_rows()


def test_orphans_beside_a_run_that_has_published_and_not_written_yet(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample came back with other contents."""
    theirs = Artifacts(chain.folder.parent, "t/pages")
    unfinished = theirs.unfinished()
    (unfinished / "0.txt").write_text("x")
    published = theirs.publish(unfinished, ("b",), "other")
    chain.world.drop("b")
    assert chain.run()[0] == Counts(orphaned=1)
    assert [*chain.folder.glob("b/*")] == [published]
    assert (published / "0.txt").is_file()
