"""Garbage collection: what no row names goes, and never anything else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
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
from dagster_metaxy.increment import store
from dagster_metaxy.increment.artifacts import disk as artifacts_module
from dagster_metaxy.increment.artifacts.base import safe_name
from dagster_metaxy.increment.artifacts.disk import DiskArtifacts as Artifacts
from dagster_metaxy.increment.collection import Collection, find_garbage, remove
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.outcome import Counts
from dagster_metaxy.increment.selection import Sample, Scope, Selection

FORCED = replace(RUNTIME, selection=Selection(force=True))

# Runs an update of `t/pages`, each sample with a file per page, and ends as told.
PROCESS = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    import metaxy as mx
    from worlds import RUNTIME, World
    from worlds import update as updating
    from dagster_metaxy.increment import store
    from dagster_metaxy.increment.selection import Scope
    from test_collection import FORCED, pages

    if {killed}:
        store.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    with mx.FeatureGraph().use():
        world = World(Path({root!r}))
        update = updating(world, world.pages(artifact=True), pages, workers=2, chunk_rows=20)
        update.run(world.store, Scope(), {runtime})
    """


def pages(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
    rows = []
    for page in range(sample["pages"]):
        file = context.artifact(f"{page}/text.txt")
        file.write_text("x" * 1000)
        rows.append({"page": page, "file": file})
    (context.artifacts / "unnamed.log").write_text("x")
    return rows


class Library:
    """`t/pages` (1:N) of `t/docs`, with files."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.root = world.root / "artifacts"
        self.feature = world.pages(artifact=True)
        self.folder = self.root / "t__pages"

    def code(self, version: str) -> None:
        """Declare the feature with a code version."""
        self.feature = self.world.define(
            Feature(
                "t/pages",
                ("doc", "page"),
                {"page": Column("int"), "file": Column("str")},
                fields=({"key": "default", "code_version": version},),
                deps=({"feature": "t/docs", "lineage": expansion(["doc"])},),
            )
        )

    def run(self) -> Counts:
        update = updating(self.world, self.feature, pages)
        return update.run(self.world.store, Scope(), RUNTIME).total

    def process(self, *, killed: bool, force: bool = False) -> subprocess.Popen[bytes]:
        script = self.world.root / "run.py"
        tests = Path(__file__).parents[1]
        script.write_text(
            textwrap.dedent(PROCESS).format(
                tests=str(tests),
                killed=killed,
                root=str(self.world.root),
                runtime="FORCED" if force else "RUNTIME",
            )
        )
        paths = os.pathsep.join([str(tests), str(tests / "increment")])
        return subprocess.Popen(
            [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}
        )

    def killed(self, force: bool = False) -> None:
        """A process that is killed between publishing files and writing their rows."""
        assert self.process(killed=True, force=force).wait() == -signal.SIGKILL

    def find(self, before: float | None = None, **options: Any) -> Collection:
        """The garbage, by default of whatever age."""
        with self.world.store.open("r") as opened:
            return find_garbage(
                self.feature, self.root, [opened], before or time.time() + 1, **options
            )

    def garbage(self, **options: Any) -> set[str]:
        """Samples of which versions would go, or folders of dead runs; `a` or `.work`."""
        return {str(one.folder.parent.name) for one in self.find(**options).garbage}

    def collect(self, before: float | None = None, **options: Any) -> Collection:
        found = self.find(before, **options)
        remove(found)
        return found

    @property
    def tree(self) -> dict[str, int]:
        """Everything below the feature's folder, with its inode."""
        return {str(p.relative_to(self.folder)): p.lstat().st_ino for p in self.folder.rglob("*")}

    @property
    def versions(self) -> set[Path]:
        """The folders of versions of samples."""
        return {p for p in self.folder.glob("[!.]*/*") if p.is_dir()}

    @property
    def named(self) -> set[Path]:
        """The folders of versions that live rows name."""
        files = [Path(str(row["file"])) for row in self.world.rows("t/pages")]
        assert all(file.is_file() for file in files)
        return {file.parents[1] for file in files}


@pytest.fixture
def library(world: World) -> Library:
    made = Library(world)
    world.put(a=("1", "1", 2), b=("1", "1", 1))
    made.run()
    return made


def test_what_a_killed_run_left(library: Library) -> None:
    library.world.put(a=("2", "1", 2), c=("1", "1", 3))
    live = library.versions
    library.killed()
    left = library.versions - live
    assert {folder.parent.name for folder in left} == {"a", "c"}
    before = library.tree
    found = library.find()
    assert library.tree == before  # finding changes nothing
    (run,) = library.folder.glob(".work/*")
    assert {one.folder for one in found.garbage} == {*left, run}
    sizes = {one.folder: (one.files, one.size) for one in found.garbage}
    (c,) = (folder for folder in left if folder.parent.name == "c")
    assert sizes[c] == (4, 3001)
    assert [one.folder for one in remove(found)] == [one.folder for one in found.garbage]
    assert not found.errors
    assert library.versions == live == library.named
    assert not (library.folder / "c").exists()  # a folder that became empty goes with it
    assert list(library.folder.glob(".work/*")) == []
    assert library.run() == Counts(new=1, stale=1)
    assert library.garbage() == set()
    assert library.versions == library.named


def test_what_replaced_and_orphaned_rows_left(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed, or refused, when it removed files."""
    monkeypatch.setattr(Artifacts, "retire", lambda *_: None)
    library.world.put(a=("2", "1", 1))
    library.world.drop("b")
    assert library.run() == Counts(stale=1, orphaned=1)
    assert library.garbage() == {"a", "b"}
    library.collect()
    assert library.versions == library.named
    assert {folder.parent.name for folder in library.versions} == {"a"}


def test_of_a_running_update_nothing_goes(library: Library) -> None:
    began = time.time() - 1
    library.world.put(c=("1", "1", 1))
    library.killed()
    # A file that was copied with its times, as old as it may be.
    for file in (library.folder / "c").rglob("*"):
        os.utime(file, (0, 0))
    found = library.collect(began)
    assert found.garbage == []
    assert found.notes == ["t/pages: 2 folders without a row may be of a run that goes on"]
    assert library.garbage() == {"c", ".work"}


def test_rows_that_are_written_while_it_looks(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.world.put(c=("1", "1", 1))
    has_feature = type(library.world.store).has_feature
    ran: list[Counts] = []

    def first_run(opened: Any, *arguments: Any, **options: Any) -> Any:
        if not ran:  # between looking at files and reading rows
            ran.append(Counts())
            ran.append(library.run())
        return has_feature(opened, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(library.world.store), "has_feature", first_run)
        found = library.find()
    assert ran[1] == Counts(new=1)
    assert found.garbage == []


def test_what_a_killed_forced_run_left(library: Library) -> None:
    """It lies beside what the live rows name, of the same version."""
    live = library.versions
    library.killed(force=True)
    left = library.versions - live
    assert {folder.parent.name for folder in left} == {"a", "b"}
    assert library.named == live
    library.collect()
    assert library.versions == library.named == live


def test_files_that_no_row_names_computed_again(world: World) -> None:
    """Of the same version, nobody can tell which is whose: both stay until the version changes."""

    def compute(sample: Sample, context: ComputeContext) -> dict[str, int]:
        context.artifact("thumb.jpg").write_text("x")
        return {"words": 1}

    world.put(a=("1", "1", 1))
    update = updating(world, world.words(), compute)
    update.run(world.store, Scope(), RUNTIME)
    update.run(world.store, Scope(), FORCED)
    folder = world.root / "artifacts"
    assert len([*folder.rglob("thumb.jpg")]) == 2
    with world.store.open("r") as opened:
        found = find_garbage(update.feature, folder, [opened], time.time() + 1)
    assert found.garbage == []
    world.put(a=("2", "1", 1))
    update.run(world.store, Scope(), RUNTIME)
    assert len([*folder.rglob("thumb.jpg")]) == 1


@pytest.mark.parametrize("moment", ["before the last look", "after it"])
def test_what_was_garbage_and_is_published_again(
    library: Library, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The next run computes what the killed one had, and so under the same name."""
    library.world.put(c=("1", "1", 3), d=("1", "1", 3))
    library.killed()
    before = time.time()
    time.sleep(0.05)
    found = library.find(before)
    assert {one.folder.parent.name for one in found.garbage} == {"c", "d", ".work"}
    if moment == "before the last look":
        library.run()
    else:
        discard = Artifacts.discard

        def run_first(artifacts: Artifacts, folder: Path, inode: int) -> None:
            if folder.parent.name == "c":
                assert library.run() == Counts(new=2)
            discard(artifacts, folder, inode)

        monkeypatch.setattr(Artifacts, "discard", run_first)
    remove(found)
    assert not found.errors
    assert {row["doc"] for row in library.world.rows("t/pages")} == {"a", "b", "c", "d"}
    assert library.versions == library.named


def test_beside_a_run_that_publishes_all_of_it_again(world: World) -> None:
    """Real processes: one that collects what a killed run left, and one that computes it anew."""
    library = Library(world)
    world.put(**{f"d{n:03}": ("1", "1", 2) for n in range(300)})
    artifacts = Artifacts(library.root, "t/pages")
    with world.store.open("r") as opened:
        new = opened.resolve_update("t/pages").to_polars().new
    for doc, version in new.select("doc", store.PROVENANCE).iter_rows():
        unfinished = artifacts.unfinished()
        (unfinished / "old.txt").write_text("old")
        artifacts.publish(unfinished, (doc,), version)
    before = time.time()
    time.sleep(0.05)
    library.killed()
    running = library.process(killed=False)
    collected = 0
    try:
        while running.poll() is None:
            found = library.find(before)
            collected += len(remove(found))
            assert not found.errors
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0
    library.collect()
    assert len(library.named) == 300  # each row has its file
    assert library.versions == library.named
    assert collected


def test_an_empty_folder_that_goes_while_a_run_publishes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = Artifacts(tmp_path, "t/pages")
    unfinished = artifacts.unfinished()
    (unfinished / "x").write_text("x")
    rename = os.rename
    gone: list[Path] = []

    def collected_first(source: Path, target: Path) -> None:
        if Path(target).name == "version" and not gone:
            gone.append(Path(target).parent)
            gone[0].rmdir()
        rename(source, target)

    monkeypatch.setattr(artifacts_module.os, "rename", collected_first)
    assert (artifacts.publish(unfinished, ("a",), "version") / "x").read_text() == "x"
    assert gone


ODD = [
    "é 代",
    "..",
    ".",
    "a/b",
    "../../x",
    "x" * 300,
    "x" * 301,
    "None",
    "null",
    " ",
    "%",
    ".work",
    "a,b",
    "A",
    "a\nb",
    "'; --",
    "\U0001f600",
    "-",
    "\u202e",
]


def test_odd_ids(world: World) -> None:
    library = Library(world)
    world.put(**dict.fromkeys(ODD, ("1", "1", 1)))
    assert library.run() == Counts(new=len(ODD))
    assert len(library.versions) == len(ODD)
    live = library.tree
    assert library.collect().garbage == []
    assert {p: i for p, i in library.tree.items() if not p.startswith(".work")} == {
        p: i for p, i in live.items() if not p.startswith(".work")
    }
    artifacts = Artifacts(library.root, "t/pages")
    for doc in ODD:
        artifacts.publish(artifacts.unfinished(), (doc,), "other")
    found = library.collect()
    assert {one.folder for one in found.garbage if one.folder.parent.name != ".work"} == {
        library.folder / safe_name((doc,)) / "other" for doc in ODD
    }
    assert library.versions == library.named
    assert len(library.versions) == len(ODD)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ("int", [0, -1, 2**40]),
        ("bool", [True, False]),
        ("float", [1.0, 1e300, -0.0]),
        ("datetime", [datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)]),
        ("date", [datetime(2026, 1, 2).date()]),
    ],
)
def test_ids_that_are_no_text(world: World, column: str, ids: list[Any]) -> None:
    """Files whose rows do not name them, so that ids and versions have to tell."""
    shots = Feature("t/shots", ("cam", "at"), {"cam": Column("str"), "at": Column(column)})
    shots.register("t")
    thumbs = Feature(
        "t/thumbs", ("cam", "at"), {"n": Column("int")}, deps=({"feature": "t/shots"},)
    ).with_id_types({"t/shots": shots})
    thumbs.register("t")
    rows = [
        {"cam": "a", "at": at, "metaxy_provenance_by_field": {"default": str(n)}}
        for n, at in enumerate(ids)
    ]

    def compute(sample: Sample, context: ComputeContext) -> dict[str, Any]:
        context.artifact("thumb.jpg").write_text("x")
        return {"n": 1}

    with world.store.open("w") as opened:
        opened.write("t/shots", pl.DataFrame(rows))
    updating(world, thumbs, compute).run(world.store, Scope(), RUNTIME)
    with world.store.open("r") as opened:
        found = find_garbage(thumbs, world.root / "artifacts", [opened], time.time() + 1)
    assert found.garbage == []
    assert len([*(world.root / "artifacts").rglob("thumb.jpg")]) == len(ids)


class TestOlderCode:
    def test_code_that_is_reverted_finds_its_rows_and_files(self, library: Library) -> None:
        library.code("2")
        assert library.run() == Counts(stale=2)
        assert library.garbage() == set()
        assert len(library.versions) == 4
        library.collect()
        library.code("")
        library.world.pages(artifact=True)
        assert library.garbage() == set()
        assert len(library.named) == 2  # rows and files of the first code

    def test_or_not_if_so_asked(self, library: Library) -> None:
        first = library.versions
        library.code("2")
        # What was not computed anew yet stays.
        assert library.garbage(keep_older=False) == set()
        library.run()
        found = library.collect(keep_older=False)
        assert {one.folder for one in found.garbage} == first
        assert library.versions == library.named

    def test_a_sample_that_was_deleted_since(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library.code("2")
        library.run()
        monkeypatch.setattr(Artifacts, "retire", lambda *_: None)
        library.world.drop("b")
        assert library.run() == Counts(orphaned=1)
        found = library.find()
        assert [one.folder.parent.name for one in found.garbage] == ["b", "b"]
        assert sorted(one.folder.parent.name for one in library.find(keep_older=False).garbage) == [
            "a",
            "b",
            "b",
        ]

    def test_fewer_children_than_before(self, library: Library) -> None:
        """A child of older code alone does not keep what its parent had then."""
        library.code("2")
        library.world.put(a=("2", "1", 1))
        library.run()
        library.collect(keep_older=False)
        assert library.versions == library.named

    def test_the_code_that_is_declared_counts_even_if_older(self, library: Library) -> None:
        first = library.versions
        library.code("2")
        library.run()
        library.feature = library.world.pages(artifact=True)
        library.collect(keep_older=False)
        assert library.versions == first == library.named


class TestRowsThatNameFiles:
    """Rows that others wrote, whose version is not that of the folder."""

    @pytest.fixture
    def folder(self, library: Library) -> Path:
        artifacts = Artifacts(library.root, "t/pages")
        unfinished = artifacts.unfinished()
        (unfinished / "x.txt").write_text("x")
        return artifacts.publish(unfinished, ("z",), "theirs")

    def write(self, library: Library, **row: Any) -> None:
        frame = pl.DataFrame(
            [
                {
                    "doc": "z",
                    "page": 0,
                    **row,
                    store.PROVENANCE: "other",
                    store.PROVENANCE_BY_FIELD: {"default": "other"},
                }
            ]
        )
        with library.world.store.open("w") as opened:
            opened.write("t/pages", frame)

    @pytest.mark.parametrize("name", ["{}/x.txt", "{}", "{}/deeper/y", "file://{}/x.txt"])
    def test_by_a_path(self, library: Library, folder: Path, name: str) -> None:
        assert "z" in library.garbage()
        self.write(library, file=name.format(folder))
        assert "z" not in library.garbage()

    def test_in_a_list(self, library: Library, folder: Path) -> None:
        self.write(library, file="x", files=["y", str(folder / "x.txt")])
        assert "z" not in library.garbage()

    def test_by_where_the_project_was(self, library: Library, folder: Path) -> None:
        self.write(library, file=f"/elsewhere/t__pages/{folder.parent.name}/theirs/x.txt")
        assert "z" not in library.garbage()

    def test_a_deleted_row_names_nothing(self, library: Library, folder: Path) -> None:
        self.write(library, file=str(folder / "x.txt"))
        with library.world.store.open("w") as opened:
            store.delete(opened, "t/pages", ["doc"], {("z",)})
        assert "z" in library.garbage()


def test_links_are_not_followed(library: Library, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "version").mkdir(parents=True)
    (outside / "version/precious").write_text("x")
    (library.folder / "linked").symlink_to(outside)
    (library.folder / "a/linked").symlink_to(outside)
    (library.folder / "notes.txt").write_text("mine")
    garbage = library.folder / "z/version"
    garbage.mkdir(parents=True)
    (garbage / "linked").symlink_to(outside)
    (garbage / "dangling").symlink_to("nowhere")
    found = library.collect()
    assert [one.folder for one in found.garbage] == [garbage]
    assert found.garbage[0].files == 2
    (note,) = found.notes
    assert note.startswith("links, and files that no update has put there, are left alone: ")
    assert all(name in note for name in ("a/linked", "/linked", "notes.txt"))
    assert not garbage.exists()
    assert (outside / "version/precious").read_text() == "x"
    assert (library.folder / "linked").is_symlink()


def test_a_feature_folder_that_is_a_link(library: Library, tmp_path: Path) -> None:
    library.folder.rename(tmp_path / "elsewhere")
    library.folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/z/version").mkdir(parents=True)
    found = library.collect()
    assert (found.garbage, len(found.notes)) == ([], 1)
    assert (tmp_path / "elsewhere/z/version").is_dir()


def test_empty_folders(library: Library) -> None:
    (library.folder / "z").mkdir()
    (library.folder / "y/version/deep").mkdir(parents=True)
    found = library.find()
    assert [one.folder.name for one in found.garbage] == ["version", "z"]
    (library.folder / "z/new").mkdir()  # in between, a run has published into it
    remove(found)
    assert not found.errors
    assert not (library.folder / "y").exists()
    assert (library.folder / "z/new").is_dir()


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_killed_while_it_removes(
    library: Library, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    """No half of a folder stays under its name; the next collection removes the rest."""
    for name in ("x", "y"):
        (library.folder / name / "version").mkdir(parents=True)
        for n in range(3):
            (library.folder / name / f"version/{n}").write_text("x")
    found = library.find()
    unlink, calls = os.unlink, iter(range(100))

    def killed(*arguments: Any, **options: Any) -> None:
        if next(calls) == kill_after:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(artifacts_module.os, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(found)
    for name in ("x", "y"):
        there = library.folder / name / "version"
        assert not there.exists() or len([*there.iterdir()]) == 3
    assert ".work" in library.garbage()
    library.collect()
    assert library.versions == library.named
    assert list(library.folder.glob(".work/*")) == []


def test_a_folder_that_cannot_be_removed(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "y", "z"):
        (library.folder / name / "version").mkdir(parents=True)
    rename = os.replace

    def refused(source: Path, target: Path) -> None:
        if Path(source).parent.name == "y":
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(artifacts_module.os, "replace", refused)
    found = library.collect()
    assert found.errors == [f"{library.folder}/y/version: Permission denied"]
    assert [p.parent.name for p in library.versions - library.named] == ["y"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(library: Library) -> None:
    for name in ("x", "y"):
        (library.folder / name / "version").mkdir(parents=True)
    with _locked(library.folder / "x/version"):
        found = library.collect()
    assert found.errors == [f"{library.folder}/x/version: Permission denied"]
    assert not (library.folder / "y").exists()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.chmod(0)
    try:
        yield
    finally:
        folder.chmod(0o700)


def test_a_place_where_nothing_can_be_put(library: Library) -> None:
    """A real fault for every user: there is a file where folders are renamed to."""
    (library.folder / ".work").rmdir()
    (library.folder / ".work").write_text("x")
    (library.folder / "x/version").mkdir(parents=True)
    found = library.collect()
    assert len(found.errors) == 1
    assert found.errors[0].startswith(f"{library.folder}/x/version: ")
    assert (library.folder / "x/version").is_dir()


def test_a_feature_that_was_never_written(world: World) -> None:
    library = Library(world)
    assert library.find().garbage == []  # there is no folder either
    world.put(a=("1", "1", 1))
    library.killed()
    found = library.find()
    assert not found.written
    assert {one.folder.parent.name for one in found.garbage} == {"a", ".work"}


def test_rows_of_each_store_count(library: Library, tmp_path: Path) -> None:
    from metaxy.ext.polars.handlers.delta import DeltaMetadataStore

    other = DeltaMetadataStore(tmp_path / "other")
    find: Callable[..., Collection] = lambda *opened: find_garbage(  # noqa: E731
        library.feature, library.root, opened, time.time() + 1
    )
    with library.world.store.open("r") as first, other.open("r") as second:
        assert find(first, second).garbage == find(second, first).garbage == []
        assert len(find(second).garbage) == 2
        assert (find(second).written, find(second, first).written) == (False, True)
