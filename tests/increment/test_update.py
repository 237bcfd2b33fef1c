"""The update of a computed feature, on a real store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds import RUNTIME, World
from worlds import update as updating

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.engines import local
from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.artifacts.base import safe_name
from dagster_metaxy.increment.artifacts.disk import DiskArtifacts as Artifacts
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.outcome import Counts, Outcome
from dagster_metaxy.increment.selection import Scope, Selection
from dagster_metaxy.increment.update import ComputeError, Update

Sample = Mapping[str, Any]


def _run(world: World, update: Update, scope: Scope | None = None) -> Outcome:
    return update.run(world.store, scope or Scope(), RUNTIME)


class Calls:
    """A compute that remembers what it was called with."""

    def __init__(self) -> None:
        self.docs: list[str] = []

    def __call__(self, sample: Sample) -> dict[str, int]:
        self.docs.append(sample["doc"])
        return {"words": sample["pages"] * 100}


def test_only_what_changed_is_computed(world: World) -> None:
    calls = Calls()
    update = updating(world, world.words(), calls)
    world.put(a=("1", "1", 1), b=("1", "1", 2), c=("1", "1", 3))
    assert _run(world, update).total == Counts(new=3)
    assert _run(world, update).total == Counts()
    world.put(a=("2", "1", 1), b=("1", "2", 2))  # of b only the title, which words do not read
    world.drop("c")
    calls.docs.clear()
    outcome = _run(world, update)
    assert outcome.total == Counts(stale=1, orphaned=1)
    assert calls.docs == ["a"]
    assert outcome.written == 1
    assert {row["doc"] for row in world.rows("t/words")} == {"a", "b"}


def test_upstream_that_was_never_written(world: World) -> None:
    outcome = _run(world, updating(world, world.words(), Calls()))
    assert outcome.total == Counts()
    assert outcome.notes == ["nothing to do: t/docs has no rows yet"]


def test_the_compute_sees_upstream_columns_and_none_of_metaxys(world: World) -> None:
    seen: list[Sample] = []

    def compute(sample: Sample) -> dict[str, int]:
        seen.append(sample)
        return {"words": 1}

    world.put(a=("1", "1", 1))
    _run(world, updating(world, world.words(), compute))
    assert seen == [{"doc": "a", "pages": 1}]


def test_chunks_are_durable_one_by_one(world: World) -> None:
    world.put(**{f"d{n:02}": ("1", "1", n) for n in range(25)})
    feature = world.words()
    durable: list[int] = []

    def compute(sample: Sample) -> dict[str, int]:
        with world.store.open("r") as store:
            durable.append(
                len(store.read("t/words").collect()) if store.has_feature("t/words") else 0
            )
        return {"words": 1}

    _run(world, updating(world, feature, compute, chunk_rows=10))
    assert set(durable) == {0, 10, 20}
    # At most two samples are computed while a chunk is written.
    assert all(n - 12 <= rows <= n for n, rows in enumerate(durable))
    durable.clear()
    world.put(**{f"d{n:02}": ("2", "1", n) for n in range(3)})
    _run(world, updating(world, feature, compute, chunk_seconds=0))
    assert len(durable) == 3


@pytest.mark.parametrize("workers", [1, 4])
def test_failing_samples_are_named_and_quarantined(world: World, workers: int) -> None:
    world.put(a=("1", "1", 1), b=("1", "1", 0), c=("1", "1", 3))
    feature = world.words()
    outcome = _run(
        world, updating(world, feature, lambda s: {"words": 100 // s["pages"]}, workers=workers)
    )
    assert outcome.total == Counts(new=3, failed=1)
    (failed,) = outcome.failed
    assert str(failed).startswith("doc=b: ZeroDivisionError: ")
    assert {row["doc"] for row in world.rows("t/words")} == {"a", "c"}
    mended = updating(world, feature, lambda s: {"words": 1})
    outcome = _run(world, mended)
    assert outcome.total == Counts(quarantined=1)
    assert [str(failure) for failure in outcome.quarantined] == [str(failed)]
    assert "with `retry_quarantined: true`" in outcome.notes[0]
    runtime = replace(RUNTIME, selection=Selection(retry_quarantined=True))
    assert mended.run(world.store, Scope(), runtime).total == Counts(new=1)


def test_a_wrong_compute_ends_the_update_and_keeps_what_was_done(world: World) -> None:
    world.put(a=("1", "1", 1), b=("1", "1", 2))
    done: list[str] = []

    def compute(sample: Sample) -> dict[str, int]:
        done.append(sample["doc"])
        return {"words": 1} if len(done) == 1 else {"word": 1}

    with pytest.raises(ComputeError, match=f"sample doc={'b'}|sample doc={'a'}"):
        _run(world, updating(world, world.words(), compute))
    assert [row["doc"] for row in world.rows("t/words")] == done[:1]


def test_orphans_are_kept_until_the_upstream_has_run_at_its_new_version(world: World) -> None:
    world.put(a=("1", "1", 1), b=("1", "1", 2), c=("1", "1", 3))
    update = updating(world, world.words(), Calls())
    _run(world, update)
    # A new code version of a field that `words` does not depend on.
    world.docs = Feature(
        "t/docs",
        ("doc",),
        world.docs.columns,
        fields=({"key": "text"}, {"key": "title", "code_version": "2"}),
    )
    world.docs.register("t")
    outcome = _run(world, update)
    assert outcome.total.orphaned == 0
    assert "kept" in outcome.notes[0]
    world.put(a=("1", "9", 1))  # a run of the upstream that was killed after one sample
    assert _run(world, update).total.orphaned == 0
    assert len(world.rows("t/words")) == 3
    world.put(b=("1", "9", 2))
    world.drop("b")  # and this one is really gone
    world.put(c=("1", "9", 3))
    assert _run(world, update).total.orphaned == 1
    assert {row["doc"] for row in world.rows("t/words")} == {"a", "c"}


def test_null_ids_are_refused(world: World) -> None:
    with world.store.open("w") as store:
        versions = {"text": "1", "title": "1"}
        store.write(
            "t/docs",
            pl.DataFrame(
                {
                    "doc": ["a", None],
                    "pages": [1, 1],
                    "metaxy_provenance_by_field": [versions, versions],
                }
            ),
        )
    outcome = _run(world, updating(world, world.words(), Calls()))
    assert [f.error for f in outcome.failed] == ["NullId"]
    assert [row["doc"] for row in world.rows("t/words")] == ["a"]


def test_renamed_id_columns(world: World) -> None:
    dep = {"feature": "t/docs", "rename": {"doc": "d2"}}
    fields = ({"key": "n", "deps": [{"feature": "t/docs", "fields": ["text"]}]},)
    feature = Feature("t/named", ("d2",), {"n": Column("int")}, fields=fields, deps=(dep,))
    feature = world.define(feature)
    compute = updating(world, feature, lambda s: {"n": s["pages"]})
    world.put(a=("1", "1", 1), b=("1", "1", 2))
    outcome = _run(world, compute, Scope(lambda s: s["d2"]))
    assert outcome.up_to_date == {"a", "b"}
    bumped = ({"key": "text"}, {"key": "title", "code_version": "2"})
    replace(world.docs, fields=bumped).register("t")
    assert _run(world, compute).total.orphaned == 0
    assert len(world.rows("t/named")) == 2


def test_ids_that_engines_write_otherwise_than_python(world: World) -> None:
    shots = Feature(
        "t/shots",
        ("cam", "at", "on"),
        {"cam": Column("str"), "at": Column("datetime"), "on": Column("bool")},
    )
    shots.register("t")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    frame = pl.DataFrame(
        [
            {"cam": cam, "at": at, "on": on, "metaxy_provenance_by_field": {"default": "1"}}
            for cam in ("a", "b")
            for on in (True, False)
        ]
    )
    with world.store.open("w") as store:
        store.write("t/shots", frame)
        stores.delete(store, "t/shots", ["cam", "at", "on"], [("a", at, True), ("b", at, False)])
        left = store.read("t/shots").select("cam", "on").collect().rows()
    assert sorted(left) == [("a", False), ("b", True)]


def test_samples_that_went_while_the_code_version_changed(world: World) -> None:
    root = world.root / "artifacts"

    def feature(version: str) -> Feature:
        return world.define(
            Feature(
                "t/pages",
                ("doc", "page"),
                {"page": Column("int"), "file": Column("str")},
                fields=({"key": "default", "code_version": version},),
                deps=({"feature": "t/docs", "lineage": expansion(["doc"])},),
            )
        )

    world.put(a=("1", "1", 3), b=("1", "1", 1))
    _run(world, updating(world, feature("1"), TestArtifacts.write))
    world.drop("b")
    outcome = _run(world, updating(world, feature("2"), TestArtifacts.write))
    assert outcome.total == Counts(stale=1, orphaned=1)
    assert not (root / "t__pages/b").exists()
    # Code that is reverted finds its rows again, with their files.
    _run(world, updating(world, feature("1"), TestArtifacts.write))
    rows = world.rows("t/pages")
    assert len(rows) == 3
    assert all(Path(str(row["file"])).is_file() for row in rows)


class TestExpansion:
    @staticmethod
    def pages(sample: Sample) -> list[dict[str, int]]:
        return [{"page": n} for n in range(sample["pages"])]

    def _pages(self, world: World) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in world.rows("t/pages"):
            found.setdefault(str(row["doc"]), []).append(row["page"])  # type: ignore[arg-type]
        return {doc: sorted(pages) for doc, pages in found.items()}

    def test_children_that_are_gone_are_deleted(self, world: World) -> None:
        update = updating(world, world.pages(), self.pages)
        world.put(a=("1", "1", 3), b=("1", "1", 2), c=("1", "1", 1))
        assert _run(world, update).total == Counts(new=3)
        assert self._pages(world) == {"a": [0, 1, 2], "b": [0, 1], "c": [0]}
        world.put(a=("2", "1", 1), c=("2", "1", 2))
        world.drop("b")
        assert _run(world, update).total == Counts(stale=2, orphaned=1)
        assert self._pages(world) == {"a": [0], "c": [0, 1]}
        assert _run(world, update).total == Counts()

    def test_all_children_of_a_parent_come_in_one_commit(self, world: World) -> None:
        commits: list[int] = []
        world.put(a=("1", "1", 30), b=("1", "1", 30))

        def compute(sample: Sample) -> list[dict[str, int]]:
            while sample["doc"] == "b" and not commits:
                with world.store.open("r") as store:
                    if store.has_feature("t/pages"):
                        commits.append(len(store.read("t/pages").collect()))
            return self.pages(sample)

        _run(world, updating(world, world.pages(), compute, chunk_rows=10))
        assert commits == [30]

    def test_killed_between_deleting_the_old_and_writing_the_new(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update = updating(world, world.pages(), self.pages)
        world.put(a=("1", "1", 3))
        _run(world, update)
        world.put(a=("2", "1", 1))
        with monkeypatch.context() as patched:
            patched.setattr(stores, "append", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                _run(world, update)
        assert _run(world, update).total == Counts(new=1)
        assert self._pages(world) == {"a": [0]}

    @pytest.mark.parametrize("kept", [0, 3])
    @pytest.mark.parametrize("step", range(4))
    def test_a_forced_run_that_is_killed(
        self, world: World, monkeypatch: pytest.MonkeyPatch, step: int, kept: int
    ) -> None:
        """At each write of it: the deletion, the rows, the ledger; or not at all."""
        world.put(a=("1", "1", 1))
        numbers = [0, 1, 2]
        update = updating(world, world.pages(), lambda s: [{"page": n} for n in numbers])
        _run(world, update)
        numbers[:] = [n + 1 for n in range(kept)]
        steps = iter(range(100))

        def killed(function: Any) -> Any:
            def write(*arguments: Any, **options: Any) -> Any:
                if next(steps) == step:
                    raise KeyboardInterrupt
                return function(*arguments, **options)

            return write

        forced = replace(RUNTIME, selection=Selection(force=True))
        ends = step >= (3 if kept else 2)
        with monkeypatch.context() as patched:
            for name in ("append", "delete"):
                patched.setattr(stores, name, killed(getattr(stores, name)))
            with contextlib.nullcontext() if ends else pytest.raises(KeyboardInterrupt):
                update.run(world.store, Scope(), forced)
        if step == 0:
            assert self._pages(world) == {"a": [0, 1, 2]}  # what was there before
            return
        total = _run(world, update).total
        assert total.new + total.stale == (1 if step == 1 else 0)
        assert self._pages(world) == ({"a": numbers} if kept else {})
        assert _run(world, update).total == Counts()

    def test_wrong_children(self, world: World) -> None:
        world.put(a=("1", "1", 1))
        feature = world.pages()
        outcome = _run(world, updating(world, feature, lambda s: [{"page": 1}, {"page": 1}]))
        assert "two rows for doc=a, page=1" in outcome.failed[0].message


class TestArtifacts:
    @staticmethod
    def write(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
        rows = []
        for page in range(sample["pages"]):
            file = context.artifacts / f"{page}.txt"
            file.write_text(sample["doc"])
            rows.append({"page": page, "file": file})
        return rows

    def test_files_follow_their_rows(self, world: World) -> None:
        root = world.root / "artifacts"
        update = updating(world, world.pages(artifact=True), self.write)
        awkward = {"a": ("1", "1", 2), "../x": ("1", "1", 1), "ü" * 90: ("1", "1", 1)}
        world.put(**awkward)

        def check() -> None:
            named = {str(row["file"]) for row in world.rows("t/pages")}
            there = {str(p) for p in root.rglob("*") if p.is_file()}
            assert named == there
            assert all(str(root / "t__pages") in os.path.realpath(file) for file in named)

        _run(world, update)
        check()
        world.put(a=("2", "1", 1))
        world.drop("../x")
        assert _run(world, update).total == Counts(stale=1, orphaned=1)
        check()

    def test_a_forced_run_that_is_killed_leaves_rows_and_files(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ["a.png"]

        def compute(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
            file = context.artifact(names[0])
            file.write_text("x")
            return [{"page": 0, "file": file}]

        def files() -> list[str]:
            return [str(row["file"]) for row in world.rows("t/pages")]

        world.put(a=("1", "1", 1))
        update = updating(world, world.pages(artifact=True), compute)
        forced = replace(RUNTIME, selection=Selection(force=True))
        _run(world, update)
        names[0] = "a.jpg"

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(stores, "append", killed)
            with pytest.raises(KeyboardInterrupt):
                update.run(world.store, Scope(), forced)
        (file,) = files()
        assert file.endswith("a.png")
        assert os.path.exists(file)
        for _ in range(2):
            update.run(world.store, Scope(), forced)
            (file,) = files()
            assert file.endswith("a.jpg")
            assert os.path.exists(file)
        # What was replaced is gone; what the killed run left is garbage, which is collected.
        assert len([*(world.root / "artifacts").rglob("a.*")]) == 2

    def test_a_failed_compute_leaves_no_file(self, world: World) -> None:
        def compute(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
            (context.artifacts / "half.txt").write_text("x")
            raise OSError("disk full")

        world.put(a=("1", "1", 1))
        root = world.root / "artifacts"
        outcome = _run(world, updating(world, world.pages(artifact=True), compute))
        assert outcome.total.failed == 1
        assert [p for p in root.rglob("*") if p.is_file()] == []

    def test_what_dead_runs_left_is_removed(self, tmp_path: Path) -> None:
        artifacts = Artifacts(tmp_path, "a/b")
        assert artifacts.folder == tmp_path / "a__b"
        for name, age in (("dead", 90_000), ("alive", 0)):
            left = artifacts.folder / ".work" / name
            left.mkdir(parents=True)
            os.utime(left, (time.time() - age, time.time() - age))
        mine = artifacts.unfinished()
        assert mine.is_dir()
        left = {p.name for p in (artifacts.folder / ".work").iterdir()}
        assert left == {"alive", mine.parent.name}
        artifacts.close()
        assert not mine.exists()

    def test_two_runs_publish_one_version_at_once(self, tmp_path: Path) -> None:
        def publish(_: int) -> None:
            run = Artifacts(tmp_path, "a/b")
            unfinished = run.unfinished()
            (unfinished / "x").write_text("x")
            published = run.publish(unfinished, ("id",), "version")
            assert published.name.startswith("version")
            assert (published / "x").read_text() == "x"
            run.close()

        found = [r for r in local.run(range(300), publish, workers=4) if r is not None]
        assert [result for _, result in found] == [None] * 300
        assert len([*(tmp_path / "a__b/id").glob("version*/x")]) == 300  # each has its own

    @pytest.mark.parametrize(
        "ids",
        [("a",), ("a/b",), ("..",), (".",), ("",), (".work",), ("x" * 300,), ("é 代",), ("a", 3),
         ("A.",), ("NUL",), ("com1.txt",), ("aux." + "x" * 300,)],
    )  # fmt: skip
    def test_names_are_safe(self, ids: tuple[Any, ...]) -> None:
        name = safe_name(ids)
        assert name not in ("", ".", "..", ".work")
        assert "/" not in name
        assert len(name.encode()) < 200
        assert not name.endswith(".")
        assert name.lower().partition(".")[0] not in ("nul", "com1", "aux")  # of Windows

    def test_names_differ_where_ids_do(self) -> None:
        ids = [("a/b",), ("a%2Fb",), ("a", "b"), ("a,b",), ("",), ("%",), (".",), ("%2E",),
               ("x" * 300,), ("x" * 301,), ("A/b",), ("Clip",), ("clip",), ("CLIP",), ("clip.",)]  # fmt: skip
        # Also where the file system knows no case, and drops dots at the end.
        assert len({safe_name(i).lower().rstrip(".") for i in ids}) == len(ids)


def test_scope_limits_to_partitions_and_counts_by_them(world: World) -> None:
    world.put(a1=("1", "1", 1), a2=("1", "1", 0), b1=("1", "1", 1))
    update = updating(world, world.words(), lambda s: {"words": 1 // s["pages"]})
    key_of = lambda sample: sample["doc"][0]  # noqa: E731
    outcome = _run(world, update, Scope(key_of, {"a"}))
    assert outcome.partitions == {"a": Counts(new=2, failed=1)}
    assert outcome.up_to_date == set()
    assert [row["doc"] for row in world.rows("t/words")] == ["a1"]
    outcome = _run(world, update, Scope(key_of))
    assert outcome.partitions == {"a": Counts(quarantined=1), "b": Counts(new=1)}
    assert outcome.up_to_date == {"b"}
    world.drop("b1", "a1")
    outcome = _run(world, update, Scope(key_of, {"a"}))
    assert outcome.total.orphaned == 1
    assert [row["doc"] for row in world.rows("t/words")] == ["b1"]
