"""Artifacts in an object store: whatever happens, each row's files are there, and no others for long."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from objects import KEY_ID, SECRET, Bucket, Proxy
from worlds import RUNTIME, World

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.artifacts import check_root, objects
from dagster_metaxy.increment.artifacts.objects import ObjectArtifacts, Url
from dagster_metaxy.increment.collection import Collection, find_garbage, remove
from dagster_metaxy.increment.compute import Compute, ComputeContext
from dagster_metaxy.increment.deletion import Deletion, delete, plan_deletion
from dagster_metaxy.increment.outcome import Counts, Outcome
from dagster_metaxy.increment.selection import Sample, Scope, Selection
from dagster_metaxy.increment.store import StoreError
from dagster_metaxy.increment.update import Update

REMOVING = ("POST", "DELETE")
"""Requests that remove many objects, or one at a time as obstore did before."""

FORCED = replace(RUNTIME, selection=Selection(force=True))


def pages(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
    rows = []
    for page in range(sample["pages"]):
        file = context.artifact(f"{page}/text of it.txt")
        file.write_text(f"{sample['doc']} {page}")
        rows.append({"page": page, "file": file})
    (context.artifacts / "unnamed.jpg").write_bytes(b"x")
    return rows


class Shelf:
    """`t/pages` (1:N) of `t/docs`, with its files in a bucket."""

    def __init__(self, world: World, bucket: Bucket) -> None:
        self.world = world
        self.bucket = bucket
        self.feature = world.pages(artifact=True)
        self.folder = f"{bucket.url}/t__pages"

    def update(self, **options: Any) -> Update:
        return Update(self.feature, Compute(pages), artifacts=self.bucket.url, **options)

    def run(self, runtime: Any = RUNTIME, **options: Any) -> Outcome:
        return self.update(**options).run(self.world.store, Scope(), runtime)

    def killed(self) -> None:
        """A process that is killed after it has uploaded all files, before it writes a row."""
        script = self.world.root / "run.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import os, signal
                from pathlib import Path
                import metaxy as mx
                from objects import Bucket
                from worlds import World
                from dagster_metaxy.increment import store
                from test_object_artifacts import RUNTIME, Scope, Compute, Update, pages

                store.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
                with mx.FeatureGraph().use():
                    world = World(Path({str(self.world.root)!r}))
                    feature = world.pages(artifact=True)
                    update = Update(feature, Compute(pages), artifacts={self.bucket.url!r})
                    update.run(world.store, Scope(), RUNTIME)
                """
            )
        )
        tests = Path(__file__).parents[1]
        paths = os.pathsep.join([str(tests), str(tests / "increment")])
        ran = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": paths})
        assert ran.returncode == -signal.SIGKILL

    def collect(self, before: float | None = None, *, dry_run: bool = False) -> Collection:
        """Of whatever age, if not told otherwise; clocks of servers tell whole seconds."""
        with self.world.store.open("r") as opened:
            found = find_garbage(self.feature, self.bucket.url, [opened], before or time.time() + 2)
        if not dry_run:
            remove(found)
        return found

    def plan(self, condition: str, key: str = "t/docs") -> list[Deletion]:
        with self.world.store.open("r") as opened:
            places = {"t/pages": self.bucket.url}
            return plan_deletion(lambda _: opened, key, condition, places)

    @property
    def named(self) -> set[str]:
        """The objects that live rows name, and the one beside them that none does."""
        found = set()
        for row in self.world.rows("t/pages"):
            file = str(row["file"])
            assert self.bucket.read(file).decode() == f"{row['doc']} {row['page']}"
            found |= {file, f"{file.rsplit('/', 2)[0]}/unnamed.jpg"}
        return found

    def check(self) -> None:
        """There is what live rows name, and nothing else."""
        assert self.bucket.urls == self.named


@pytest.fixture
def shelf(world: World, bucket: Bucket) -> Shelf:
    made = Shelf(world, bucket)
    world.put(a=("1", "1", 2), b=("1", "1", 1))
    assert made.run().total == Counts(new=2)
    return made


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few retries, and quick ones."""
    backoff = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5)}
    monkeypatch.setattr(objects, "_RETRY", {"max_retries": 3, "backoff": backoff})


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for unfinished files: whatever has happened, none is left by runs that ended."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_rows_name_their_objects(shelf: Shelf, temporary: Path) -> None:
    (row,) = (row for row in shelf.world.rows("t/pages") if (row["doc"], row["page"]) == ("a", 1))
    file = str(row["file"])
    assert file.startswith(f"{shelf.folder}/a/{row['metaxy_provenance']}-")
    assert file.endswith("/1/text~20of~20it.txt")
    assert shelf.bucket.content_type(file) == "text/plain"
    assert {shelf.bucket.content_type(u) for u in shelf.bucket.urls} == {"text/plain", "image/jpeg"}
    shelf.check()
    assert [*temporary.iterdir()] == []


def test_new_stale_orphaned(shelf: Shelf) -> None:
    shelf.world.put(a=("2", "1", 1), c=("1", "1", 3))  # of `a`, fewer pages
    shelf.world.drop("b")
    with shelf.world.store.open("r") as opened:
        plan = shelf.update().plan(opened)
    assert [str(f).rpartition("/")[0] for f in plan.artifacts] == [
        f"{shelf.folder}/a",
        f"{shelf.folder}/b",
    ]
    outcome = shelf.run()
    assert outcome.total == Counts(new=1, stale=1, orphaned=1)
    assert outcome.artifacts == {"text/plain": (4, 12), "image/jpeg": (2, 2)}
    assert outcome.costs.total.bytes_written == 14
    assert {row["doc"] for row in shelf.world.rows("t/pages")} == {"a", "c"}
    shelf.check()
    assert shelf.run().total == Counts()


def test_computed_again_from_the_same(shelf: Shelf) -> None:
    before = shelf.bucket.urls
    assert shelf.run(FORCED).total.stale == 2
    assert not before & shelf.bucket.urls
    shelf.check()


def test_killed_before_rows_are_written(shelf: Shelf) -> None:
    live = shelf.bucket.urls
    shelf.world.put(a=("2", "1", 2), c=("1", "1", 3))
    shelf.killed()
    left = shelf.bucket.urls - live
    assert len(left) == 3 + 4
    assert shelf.named == live
    young = shelf.collect(time.time() - 3600)
    assert (young.garbage, len(young.notes)) == ([], 1)
    found = shelf.collect(dry_run=True)
    assert sorted((one.folder.parent.name, one.files) for one in found.garbage) == [
        ("a", 3),
        ("c", 4),
    ]
    assert sum(one.size for one in found.garbage) == 2 + 5 * 3
    assert shelf.bucket.urls == live | left  # finding changes nothing
    shelf.collect()
    assert shelf.bucket.urls == live
    assert shelf.run().total == Counts(new=1, stale=1)
    shelf.check()
    assert shelf.collect().garbage == []


def test_collection_leaves_what_a_run_uploads_meanwhile(shelf: Shelf) -> None:
    artifacts = ObjectArtifacts(shelf.bucket.url, "t/pages")

    def publish(name: str) -> None:
        unfinished = artifacts.unfinished()
        (unfinished / name).write_text("x")
        artifacts.publish(unfinished, ("z",), "version")

    publish("old")
    time.sleep(4)
    before = time.time() - 1.5  # servers tell whole seconds
    found = shelf.collect(before, dry_run=True)
    (folder,) = [one.folder for one in found.garbage if one.folder.parent.name == "z"]
    shelf.bucket.put(f"{folder}/new")  # as one that has not come to an end
    assert remove(found) == []
    assert shelf.bucket.urls >= {f"{folder}/new", f"{folder}/old"}
    artifacts.close()


def test_what_no_update_has_put_there(shelf: Shelf) -> None:
    others = {f"{shelf.folder}/notes.txt", f"{shelf.folder}/a/mine", f"{shelf.folder}_/x/y/z"}
    for url in others:
        shelf.bucket.put(url)
    shelf.bucket.put(f"{shelf.folder}/z/version/garbage")
    found = shelf.collect()
    assert [str(one.folder) for one in found.garbage] == [f"{shelf.folder}/z/version"]
    (note,) = found.notes
    assert "/a/mine" in note
    assert "notes.txt" in note
    assert shelf.bucket.urls == shelf.named | others


@pytest.mark.parametrize("hard", [False, True])
def test_deletion(shelf: Shelf, hard: bool) -> None:
    planned = shelf.plan("doc = 'a'")
    assert [str(f).split("/t__pages/")[1][:2] for f in planned[1].folders] == ["a/"]
    with shelf.world.store.open("w") as opened:
        delete(lambda _: opened, planned, hard=hard)
    assert {row["doc"] for row in shelf.world.rows("t/pages")} == {"b"}
    shelf.check()


def test_deletion_of_one_child(shelf: Shelf) -> None:
    planned = shelf.plan("doc = 'a' AND page = 1", "t/pages")
    (file,) = planned[0].files
    assert not planned[0].folders
    assert file in {Url(url) for url in shelf.bucket.urls}
    with shelf.world.store.open("w") as opened:
        delete(lambda _: opened, planned)
        delete(lambda _: opened, planned)  # gone already
    shelf.check()


def test_in_processes(world: World, bucket: Bucket, temporary: Path) -> None:
    shelf = Shelf(world, bucket)
    world.put(**{f"d{n}": ("1", "1", n) for n in range(6)})
    outcome = shelf.run(engine="processes", workers=2)
    assert outcome.total == Counts(new=6)
    assert len(world.rows("t/pages")) == 15
    assert len(shelf.named) == 15 + 5
    assert [*temporary.iterdir()] == []


def test_what_is_sent_to_processes_holds_no_secret(bucket: Bucket) -> None:
    artifacts = ObjectArtifacts(bucket.url, "t/pages")
    assert not artifacts.any  # it is connected
    sent = pickle.dumps(artifacts)
    assert SECRET.encode() not in sent
    again = pickle.loads(sent)
    unfinished = again.unfinished()
    (unfinished / "x").write_text("x")
    folder = again.publish(unfinished, ("a",), "version")
    assert artifacts.of(("a",), "version") == {folder}
    artifacts.close()


ODD = [
    "é 代",
    "..",
    "a/b",
    "../../x",
    "x" * 300,
    " ",
    "%",
    "%2e",
    "a,b",
    "A",
    "a\nb",
    "?q#f",
    "~",
    "\\",
]


def test_odd_ids_and_names(world: World, bucket: Bucket) -> None:
    """Whoever reads the URLs of rows, finds the objects."""

    def compute(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
        rows = []
        for page, name in enumerate(["a b.txt", "50%.txt", "a%20b.txt", "é#?.txt", "~", "a=1,b"]):
            file = context.artifact(name)
            file.write_text(f"{sample['doc']} {name}")
            rows.append({"page": page, "file": file})
        return rows

    from obstore.store import from_url

    world.put(**dict.fromkeys(ODD, ("1", "1", 1)))
    feature = world.pages(artifact=True)
    update = Update(feature, Compute(compute), artifacts=bucket.url)
    assert update.run(world.store, Scope(), RUNTIME).total == Counts(new=len(ODD))
    rows = world.rows("t/pages")
    assert {str(row["file"]) for row in rows} == bucket.urls
    assert len(bucket.urls) == 6 * len(ODD)
    for row in rows[:12]:
        folder, _, name = str(row["file"]).rpartition("/")
        assert bytes(from_url(folder).get(name).bytes()).decode().startswith(str(row["doc"]))
    with world.store.open("r") as opened:
        assert find_garbage(feature, bucket.url, [opened], time.time() + 2).garbage == []


def test_files_that_no_row_names(world: World, bucket: Bucket) -> None:
    """They are of the rows' version, and go with it."""

    def compute(sample: Sample, context: ComputeContext) -> dict[str, int]:
        context.artifact("thumb.jpg").write_text("x")
        return {"words": 1}

    update = Update(world.words(), Compute(compute), artifacts=bucket.url)
    world.put(a=("1", "1", 1), b=("1", "1", 1))
    update.run(world.store, Scope(), RUNTIME)
    first = bucket.urls
    with world.store.open("r") as opened:
        assert not find_garbage(update.feature, bucket.url, [opened], time.time() + 2).garbage
    world.put(a=("2", "1", 1))
    world.drop("b")
    update.run(world.store, Scope(), RUNTIME)
    assert len(bucket.urls) == 1
    assert not first & bucket.urls


def test_a_large_file(world: World, bucket: Bucket) -> None:
    """In parts, which obstore begins with 5 MiB."""
    content = os.urandom(12 * 1024 * 1024)

    def compute(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
        file = context.artifact("big.bin")
        file.write_bytes(content)
        return [{"page": 0, "file": file}]

    world.put(a=("1", "1", 1))
    update = Update(world.pages(artifact=True), Compute(compute), artifacts=bucket.url)
    update.run(world.store, Scope(), RUNTIME)
    (url,) = bucket.urls
    assert bucket.read(url) == content
    assert bucket.content_type(url) == "application/octet-stream"


def test_a_failed_compute_leaves_nothing(world: World, bucket: Bucket, temporary: Path) -> None:
    def compute(sample: Sample, context: ComputeContext) -> list[dict[str, Any]]:
        context.artifact("half.txt").write_text("x")
        raise ValueError("no")

    world.put(a=("1", "1", 1))
    update = Update(world.pages(artifact=True), Compute(compute), artifacts=bucket.url)
    assert update.run(world.store, Scope(), RUNTIME).total.failed == 1
    assert bucket.urls == set()
    assert [*temporary.iterdir()] == []


def test_what_dead_runs_left_on_disk_is_removed(bucket: Bucket, temporary: Path) -> None:
    for name, age in (("dead", 90_000), ("alive", 0)):
        left = temporary / f"dagster-metaxy-artifacts-{name}"
        left.mkdir()
        os.utime(left, (time.time() - age, time.time() - age))
    artifacts = ObjectArtifacts(bucket.url, "t/pages")
    artifacts.unfinished()
    artifacts.close()
    assert [p.name for p in temporary.iterdir()] == ["dagster-metaxy-artifacts-alive"]


class TestFaults:
    @pytest.mark.parametrize("status", [503, 0])
    @pytest.mark.parametrize("what", ["PUT", "GET", "removing"])
    def test_that_pass(
        self, shelf: Shelf, proxy: Proxy, hasty: None, status: int, what: str
    ) -> None:
        """Each request is answered only when it is repeated."""
        seen: set[str] = set()

        def fault(asked: str, path: str) -> int | None:
            if asked not in REMOVING if what == "removing" else asked != what:
                return None
            if path in seen:
                return None
            seen.add(path)
            return status

        proxy.fault = fault
        shelf.world.put(a=("2", "1", 2), c=("1", "1", 3))
        outcome = shelf.run()
        assert outcome.total == Counts(new=1, stale=1)
        if what == "removing" and status == 0 and outcome.notes:
            # It may have been heard: obstore does not repeat what may not be done twice.
            assert "left for metaxy_collect" in outcome.notes[0]
            shelf.collect()
        assert seen
        shelf.check()

    @pytest.mark.parametrize("status", [503, 403, 0])
    def test_that_stay(self, shelf: Shelf, proxy: Proxy, hasty: None, status: int) -> None:
        live = shelf.bucket.urls
        shelf.world.put(c=("1", "1", 3), d=("1", "1", 1))
        proxy.fault = lambda method, path: status if "/d/" in path and method == "PUT" else None
        with pytest.raises(StoreError) as caught:
            shelf.run(chunk_samples=1)
        told = str(caught.value)
        assert told.startswith(f"{shelf.folder}/d/")
        assert "cannot be written" in told
        assert "Of the samples that this run computed, " in told
        assert status != 403 or "Refused: Not now" in told
        assert KEY_ID not in told
        assert "\n" not in told
        # What was computed before is kept, and of the other one there is no row.
        assert {row["doc"] for row in shelf.world.rows("t/pages")} <= {"a", "b", "c"}
        assert shelf.named >= live
        if status == 503:
            tries = [
                path for method, path, _ in proxy.requests if "/d/" in path and method == "PUT"
            ]
            assert max(map(tries.count, tries)) == 4
        proxy.fault = lambda *_: None
        assert shelf.run().total.failed == 0
        assert {row["doc"] for row in shelf.world.rows("t/pages")} == {"a", "b", "c", "d"}
        shelf.collect()
        shelf.check()

    def test_in_processes(
        self, shelf: Shelf, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shelf.world.put(c=("1", "1", 1))
        proxy.fault = lambda method, path: 403 if method == "PUT" else None
        with pytest.raises(StoreError, match="Refused: Not now"):
            shelf.run(engine="processes")

    def test_removing_is_refused(self, shelf: Shelf, proxy: Proxy, hasty: None) -> None:
        """The run goes on, and says what is left; a deletion fails, and can be repeated."""
        shelf.world.put(a=("2", "1", 1), b=("2", "1", 1))
        proxy.fault = lambda method, path: 403 if method in REMOVING else None
        outcome = shelf.run(chunk_samples=1)
        assert outcome.total == Counts(stale=2)
        (note,) = outcome.notes
        assert note.startswith("files of replaced or orphaned rows are left for metaxy_collect")
        found = shelf.collect()
        assert len(found.garbage) == len(found.errors) == 2
        planned = shelf.plan("doc = 'a'")
        with shelf.world.store.open("w") as opened, pytest.raises(StoreError, match="be removed"):
            delete(lambda _: opened, planned)
        proxy.fault = lambda *_: None
        with shelf.world.store.open("w") as opened:
            delete(lambda _: opened, shelf.plan("doc = 'a'"))
        shelf.collect()
        shelf.check()

    def test_nothing_can_be_listed(self, shelf: Shelf, proxy: Proxy, hasty: None) -> None:
        live = shelf.bucket.urls
        proxy.fault = lambda method, path: 503
        found = shelf.collect()
        assert found.garbage == []
        assert found.errors[0].startswith(f"{shelf.folder} cannot be listed: ")
        assert shelf.bucket.urls == live

    def test_a_bucket_that_is_not_there(self, world: World, bucket: Bucket) -> None:
        world.put(a=("1", "1", 1))
        url = "s3://no-such-bucket/x"
        update = Update(world.pages(artifact=True), Compute(pages), artifacts=url)
        with pytest.raises(StoreError, match=f"^{url}/t__pages.*NoSuchBucket"):
            update.run(world.store, Scope(), RUNTIME)


def test_two_that_publish_one_version_at_once_do_not_mix(bucket: Bucket) -> None:
    from dagster_metaxy.engines import local

    def publish(writer: int) -> None:
        artifacts = ObjectArtifacts(bucket.url, "t/pages")
        unfinished = artifacts.unfinished()
        for name in range(3):
            (unfinished / f"{name}").write_text(str(writer))
        folder = artifacts.publish(unfinished, ("a",), "version")
        artifacts.close()
        assert {bucket.read(f"{folder}/{name}") for name in range(3)} == {str(writer).encode()}

    found = [r for r in local.run(range(20), publish, workers=4) if r is not None]
    assert [result for _, result in found] == [None] * 20
    assert len(bucket.urls) == 60


def test_code_that_is_reverted_finds_its_objects(shelf: Shelf) -> None:
    feature = shelf.feature
    shelf.feature = shelf.world.define(
        Feature(
            "t/pages",
            ("doc", "page"),
            {"page": Column("int"), "file": Column("str")},
            fields=({"key": "default", "code_version": "2"},),
            deps=({"feature": "t/docs", "lineage": expansion(["doc"])},),
        )
    )
    assert shelf.run().total == Counts(stale=2)
    assert shelf.collect().garbage == []
    shelf.feature = feature
    shelf.world.pages(artifact=True)
    assert len(shelf.named) == 5


@pytest.mark.parametrize(
    "root",
    ["s3://", "s3:///x", "ftp://a/b", "s3://a/b?c=d", "s3://me:hunter2@a/b", "s3://a/b/../c", "s3://a//b",
     "s3://a/50%", "s3://a/é", "file:///data"],
)  # fmt: skip
def test_urls_that_are_no_place(root: str) -> None:
    with pytest.raises(ValueError, match="is no place for artifacts: write s3://") as caught:
        check_root(root)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["s3://a", "s3://a/", "gs://a.b/c_d/e", "az://a/b", "data", "/a b/é"]
)
def test_places(root: str) -> None:
    check_root(root)
