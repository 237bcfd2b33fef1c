"""What discovery makes of files that come, change, move and go: on a disk, and in an object store."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from objects import SECRET, Bucket, Proxy
from projects import CLIPS
from worlds import RUNTIME, World

from dagster_metaxy import locations
from dagster_metaxy.discovery.files import SourceError
from dagster_metaxy.discovery.sources import Files
from dagster_metaxy.discovery.videos import Videos, videos_feature
from dagster_metaxy.increment.outcome import Counts, Outcome
from dagster_metaxy.increment.selection import Scope

BIKES = (CLIPS / "bikes.mp4").read_bytes()
BUNNY = (CLIPS / "bigbuckbunny.mp4").read_bytes()
PORTRAIT = (CLIPS / "portrait.mp4").read_bytes()


class Disk:
    """A folder of videos."""

    def __init__(self, root: Path) -> None:
        self.root: Path | str = root
        root.mkdir()

    def put(self, name: str, data: bytes, modified: float | None = None) -> None:
        file = Path(self.root, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if modified:
            os.utime(file, (modified, modified))

    def delete(self, name: str) -> None:
        Path(self.root, name).unlink()


class Prefix:
    """A prefix of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.root: Path | str = f"{bucket.url}/all"
        self._bucket = bucket

    def put(self, name: str, data: bytes, modified: float | None = None) -> None:
        self._bucket.put(f"{self.root}/{name}", data)

    def delete(self, name: str) -> None:
        self._bucket.delete(f"{self.root}/{name}")


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Disk | Prefix:
    if request.param == "disk":
        return Disk(tmp_path / "videos")
    return Prefix(request.getfixturevalue("bucket"))


class Collection:
    """The videos of a place, and what a run says of them."""

    def __init__(self, world: World, place: Any, **options: Any) -> None:
        feature = videos_feature("t")
        feature.register("t")
        self.world = world
        self.videos = Videos(feature, Files(place.root), **{"workers": 2, **options})

    def run(self) -> Outcome:
        return self.videos.run(self.world.store, Scope(), RUNTIME)

    def counts(self) -> Counts:
        return self.run().total

    def rows(self) -> dict[str, dict[str, Any]]:
        return {str(row["video_id"]): row for row in self.world.rows("t/videos")}


@pytest.fixture
def collection(world: World, place: Any) -> Collection:
    return Collection(world, place)


def muted(data: bytes, folder: Path) -> bytes:
    """A video with another sound: none."""
    source, target = folder / "sounding.mp4", folder / "muted.mp4"
    source.write_bytes(data)
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        to = after.add_stream_from_template(stream)
        for packet in before.demux(stream):
            if packet.dts is not None:
                packet.stream = to
                after.mux(packet)
    return target.read_bytes()


def test_new_and_unchanged(collection: Collection, place: Any) -> None:
    place.put("bikes.mp4", BIKES)
    assert collection.counts() == Counts(new=1)
    (row,) = collection.rows().values()
    assert row["size"] == len(BIKES)
    assert row["path"] == str(place.root) + "/bikes.mp4"
    assert (row["etag"] is None) == isinstance(place, Disk)
    outcome = collection.run()
    assert outcome.total == Counts()
    assert outcome.written == 0


def test_changed(collection: Collection, place: Any, tmp_path: Path) -> None:
    place.put("bunny.mp4", BUNNY)
    collection.run()
    before = collection.rows()["bunny"]["metaxy_provenance_by_field"]
    place.put("bunny.mp4", muted(BUNNY, tmp_path))
    assert collection.counts() == Counts(stale=1)
    after = collection.rows()["bunny"]["metaxy_provenance_by_field"]
    assert after["video"] == before["video"]
    assert after["audio"] != before["audio"]


def test_changed_with_an_older_time(collection: Collection, place: Any, tmp_path: Path) -> None:
    place.put("bunny.mp4", BUNNY)
    collection.run()
    place.put("bunny.mp4", muted(BUNNY, tmp_path), modified=1_000_000_000)
    assert collection.counts() == Counts(stale=1)


def test_deleted(collection: Collection, place: Any) -> None:
    place.put("bikes.mp4", BIKES)
    place.put("portrait.mp4", PORTRAIT)
    collection.run()
    place.delete("bikes.mp4")
    assert collection.counts() == Counts(orphaned=1)
    assert set(collection.rows()) == {"portrait"}


def test_renamed(collection: Collection, place: Any) -> None:
    place.put("bikes.mp4", BIKES)
    place.put("portrait.mp4", PORTRAIT)
    collection.run()
    before = collection.rows()["bikes"]
    place.delete("bikes.mp4")
    place.put("there/cycling.mp4", BIKES)
    assert collection.counts() == Counts()  # nothing is stale
    after = collection.rows()["bikes"]
    assert after["relative_path"] == "there/cycling.mp4"
    assert after["path"] == str(place.root) + "/there/cycling.mp4"
    assert after["metaxy_provenance"] == before["metaxy_provenance"]
    assert collection.run().written == 0


def test_written_again_as_it_was(collection: Collection, place: Any) -> None:
    place.put("bikes.mp4", BIKES, modified=1_700_000_000)
    collection.run()
    place.put("bikes.mp4", BIKES, modified=1_700_000_100)
    outcome = collection.run()
    assert outcome.total == Counts()
    assert outcome.written == (1 if isinstance(place, Disk) else 0)  # its ETag is the same


def test_the_same_content_twice(collection: Collection, place: Any) -> None:
    place.put("a.mp4", BIKES)
    place.put("b.mp4", BIKES)
    assert collection.counts() == Counts(new=2)
    rows = collection.rows()
    assert set(rows) == {"a", "b"}
    assert len({str(row["metaxy_provenance_by_field"]) for row in rows.values()}) == 1
    place.delete("a.mp4")
    assert collection.counts() == Counts(orphaned=1)
    assert set(collection.rows()) == {"b"}


def test_the_same_name_twice(collection: Collection, place: Any) -> None:
    place.put("one/bikes.mp4", BIKES)
    place.put("two/bikes.mp4", PORTRAIT)
    place.put("two/bikes.mov", PORTRAIT)
    assert collection.counts() == Counts(new=3)
    assert set(collection.rows()) == {"one/bikes", "two/bikes", "two/bikes.mp4"}
    assert collection.run().written == 0


@pytest.mark.parametrize(
    "name",
    [
        "my holidays, part 1.mp4",
        "übung ☃ 映画.mp4",
        "..two..dots...mp4",
        "100% #1 [x]{y} 'q'?&=+.mp4",
        "%41%2fA.mp4",
        f"{'long/' * 40}{'n' * 100}.mp4",
        "UPPER.MP4",
    ],
)
def test_odd_names(collection: Collection, place: Any, name: str) -> None:
    place.put(name, BIKES)
    hidden = name.startswith(".")
    assert collection.counts() == (Counts() if hidden else Counts(new=1))
    if not hidden:
        (row,) = collection.rows().values()
        assert row["relative_path"] == name
        assert locations.status(row["path"]).size == len(BIKES)
    assert collection.run().written == 0


def test_broken(collection: Collection, place: Any) -> None:
    place.put("bikes.mp4", BIKES[:-20_000])
    place.put("portrait.mp4", PORTRAIT)
    place.put("empty.mp4", b"")
    outcome = collection.run()
    assert outcome.total == Counts(new=1, failed=2)
    assert {f.sample["video_id"] for f in outcome.failed} == {"bikes", "empty"}
    outcome = collection.run()
    assert outcome.failed == []
    assert outcome.total == Counts(quarantined=2)
    place.put("bikes.mp4", BIKES)
    assert collection.counts() == Counts(new=1, quarantined=1)


class TestDisk:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Disk:
        return Disk(tmp_path / "videos")

    def test_half_copied(self, world: World, place: Disk) -> None:
        collection = Collection(world, place, settle_seconds=60)
        place.put("portrait.mp4", PORTRAIT)
        place.put("bikes.mp4", BIKES[:-20_000])
        outcome = collection.run()
        assert outcome.total == Counts(new=1)  # it is no failure
        assert "1 file is still being written, such as 'bikes.mp4'" in outcome.notes[-1]
        assert set(collection.rows()) == {"portrait"}
        place.put("bikes.mp4", BIKES)
        assert collection.counts() == Counts(new=1)

    def test_half_a_file_that_nobody_goes_on_with(self, world: World, place: Disk) -> None:
        collection = Collection(world, place, settle_seconds=60)
        place.put("bikes.mp4", BIKES[:-20_000], modified=time.time() - 61)
        assert collection.counts() == Counts(failed=1)

    def test_a_size_that_grows(
        self, world: World, place: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While it is read, again and again."""
        collection = Collection(world, place)
        place.put("bikes.mp4", BIKES)
        real = locations.status
        sizes = iter(range(1_000))

        def growing(location: Any) -> locations.Status:
            return replace(real(location), size=next(sizes))

        with monkeypatch.context() as patched:
            patched.setattr(locations, "status", growing)
            outcome = collection.run()
        assert outcome.total == Counts()
        assert "still being written" in outcome.notes[-1]
        assert collection.counts() == Counts(new=1)

    def test_a_link_loop(self, collection: Collection, place: Disk) -> None:
        place.put("in/bikes.mp4", BIKES)
        (Path(place.root) / "in/again").symlink_to(place.root, target_is_directory=True)
        (Path(place.root) / "self.mp4").symlink_to("self.mp4")
        outcome = collection.run()
        assert outcome.total == Counts(new=1, failed=1)
        assert "self.mp4: Too many levels of symbolic links" in outcome.failed[0].message

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_an_unreadable_file(self, collection: Collection, place: Disk) -> None:
        place.put("bikes.mp4", BIKES)
        (Path(place.root) / "bikes.mp4").chmod(0)
        outcome = collection.run()
        assert outcome.total == Counts(failed=1)
        assert "Permission denied" in outcome.failed[0].message

    def test_a_pipe(self, collection: Collection, place: Disk) -> None:
        """It would be waited for for ever."""
        place.put("bikes.mp4", BIKES)
        subprocess.run(["mkfifo", str(Path(place.root) / "pipe.mp4")], check=True)
        outcome = collection.run()
        assert outcome.total == Counts(new=1, failed=1)
        assert "is no regular file" in outcome.failed[0].message


class TestObjectStore:
    @pytest.fixture
    def place(self, bucket: Bucket, proxy: Proxy) -> Prefix:
        return Prefix(bucket)

    def test_no_more_list_requests_than_pages(
        self, collection: Collection, place: Prefix, proxy: Proxy
    ) -> None:
        for number in range(1_050):
            place.put(f"{number}.txt", b"")
        place.put("bikes.mp4", BIKES)
        listing = collection.videos.listing()
        assert [file.relative_path for file in listing.files] == ["bikes.mp4"]
        assert len(proxy.requests) == 2

    def test_only_what_is_read_is_loaded(
        self, collection: Collection, place: Prefix, proxy: Proxy
    ) -> None:
        place.put("bikes.mp4", BIKES)
        collection.run()
        gets = [path for method, path, _ in proxy.requests if method == "GET" and "bikes" in path]
        assert len(gets) <= 2
        proxy.requests.clear()
        collection.run()
        assert [method for method, _, _ in proxy.requests] == ["GET"]  # the listing

    @pytest.mark.parametrize("fault", [503, 0, "cut", "slow"])
    def test_a_fault_that_passes(
        self, collection: Collection, place: Prefix, proxy: Proxy, fault: int | str
    ) -> None:
        place.put("bikes.mp4", BIKES)
        left = iter([fault] * 3)
        proxy.fault = lambda method, path: next(left, None)
        assert collection.counts() == Counts(new=1)
        assert next(left, None) is None

    @pytest.mark.parametrize("fault", [503, "cut"])
    def test_a_fault_that_stays(
        self,
        collection: Collection,
        place: Prefix,
        proxy: Proxy,
        fault: int | str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The object is named, others are read, and the next run tries it again."""
        monkeypatch.setattr(locations, "_RETRY", {**locations._RETRY, "max_retries": 2})
        monkeypatch.setattr(locations, "_BREAKS", 2)
        locations._object_store.cache_clear()
        place.put("bikes.mp4", BIKES)
        place.put("portrait.mp4", PORTRAIT)
        proxy.fault = lambda method, path: fault if "bikes" in path else None
        outcome = collection.run()
        assert [f.sample["video_id"] for f in outcome.failed] == ["bikes"], outcome.failed
        assert outcome.total == Counts(new=1, failed=1)
        assert f"{place.root}/bikes.mp4" in outcome.failed[0].message
        assert SECRET not in outcome.failed[0].message
        proxy.fault = lambda method, path: None
        assert collection.counts() == Counts(new=1)

    def test_a_list_that_breaks_off_deletes_nothing(
        self, collection: Collection, place: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.put("bikes.mp4", BIKES)
        collection.run()
        monkeypatch.setattr(locations, "_RETRY", {**locations._RETRY, "max_retries": 1})
        locations._object_store.cache_clear()
        proxy.fault = lambda method, path: 503
        with pytest.raises(SourceError, match=f"cannot list {place.root}: .*503"):
            collection.run()
        assert set(collection.rows()) == {"bikes"}

    def test_an_object_that_changes_while_it_is_read(
        self, collection: Collection, place: Prefix, proxy: Proxy
    ) -> None:
        place.put("bikes.mp4", BIKES)
        changed: list[bool] = []

        def change(method: str, path: str) -> None:
            if method == "GET" and "bikes" in path and not changed:
                changed.append(True)
                place.put("bikes.mp4", PORTRAIT)

        proxy.fault = change
        assert collection.counts() == Counts(new=1)
        (row,) = collection.rows().values()
        assert row["size"] == len(PORTRAIT)
        collection.run()  # its ETag is that of the listing before: it is read again, and is the same
        assert collection.run().written == 0

    def test_an_empty_bucket_deletes_nothing(self, collection: Collection, place: Prefix) -> None:
        place.put("bikes.mp4", BIKES)
        collection.run()
        place.delete("bikes.mp4")
        outcome = collection.run()
        assert outcome.total == Counts()
        assert f"the source {place.root} is empty" in " ".join(outcome.notes)

    def test_no_such_bucket(self, world: World, place: Prefix) -> None:
        place.root = "s3://no-such-bucket/all"
        with pytest.raises(SourceError, match="cannot list s3://no-such-bucket/all: "):
            Collection(world, place).run()

    def test_processes(self, world: World, place: Prefix) -> None:
        place.put("bikes.mp4", BIKES)
        assert Collection(world, place, engine="processes").counts() == Counts(new=1)
