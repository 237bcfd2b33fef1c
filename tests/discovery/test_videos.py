"""Discovery of videos, by updates of the root feature."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from projects import CLIPS
from worlds import RUNTIME, World

from dagster_metaxy.discovery.files import Listing
from dagster_metaxy.discovery.reading import read
from dagster_metaxy.discovery.sources import Files
from dagster_metaxy.discovery.videos import Videos, videos_feature
from dagster_metaxy.engines import processes
from dagster_metaxy.increment.outcome import FailedSample
from dagster_metaxy.increment.plan import Task
from dagster_metaxy.increment.selection import Scope


@pytest.fixture
def videos(world: World) -> Videos:
    feature = videos_feature("t")
    feature.register("t")
    folder = world.root / "videos"
    folder.mkdir()
    for name in ("bikes", "portrait"):
        shutil.copy(CLIPS / f"{name}.mp4", folder)
    return Videos(feature, Files(folder), workers=1)


def _folder(videos: Videos) -> Path:
    assert isinstance(videos.source, Files)
    return Path(videos.source.root)


def _ids(world: World) -> list[str]:
    return sorted(str(row["video_id"]) for row in world.rows("t/videos"))


def test_what_another_run_writes_while_this_one_lists_stays(world: World, videos: Videos) -> None:
    videos.run(world.store, Scope(), RUNTIME)

    class Slow(Videos):
        def listing(self, resources: Any = None) -> Listing:
            listed = super().listing(resources)
            shutil.copy(CLIPS / "bigbuckbunny.mp4", _folder(self))
            videos.run(world.store, Scope(), RUNTIME)
            return listed

    slow = Slow(videos.feature, videos.source, workers=1)
    outcome = slow.run(world.store, Scope(), RUNTIME)
    assert outcome.total.orphaned == 0
    assert _ids(world) == ["bigbuckbunny", "bikes", "portrait"]


def test_a_moved_video_that_cannot_be_read_for_a_moment_keeps_its_id(
    world: World, videos: Videos, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos.run(world.store, Scope(), RUNTIME)
    (_folder(videos) / "bikes.mp4").rename(_folder(videos) / "moved.mp4")
    with monkeypatch.context() as patch:

        def away(path: str) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr("dagster_metaxy.media.identify.identify", away)
        outcome = videos.run(world.store, Scope(), RUNTIME)
    assert (outcome.total.failed, outcome.total.orphaned) == (1, 0)
    assert "1 video has vanished, but is kept" in " ".join(outcome.notes)
    assert _ids(world) == ["bikes", "portrait"]
    outcome = videos.run(world.store, Scope(), RUNTIME)
    assert (outcome.total.new, outcome.total.orphaned) == (0, 0)
    assert _ids(world) == ["bikes", "portrait"]


def test_nothing_goes_while_a_file_cannot_be_looked_at(world: World, videos: Videos) -> None:
    videos.run(world.store, Scope(), RUNTIME)
    (_folder(videos) / "bikes.mp4").unlink()
    link = _folder(videos) / "elsewhere.mp4"
    link.symlink_to(world.root / "unmounted")
    for _ in range(2):
        with world.store.open("r") as store:
            plan = videos.plan(store)
        outcome = videos.run(world.store, Scope(), RUNTIME)
        assert len(plan.orphaned) == outcome.total.orphaned
        if link.is_symlink():
            assert _ids(world) == ["bikes", "portrait"]
            link.unlink()
    assert _ids(world) == ["portrait"]


def test_the_plan_of_an_empty_source_says_what_the_run_does(world: World, videos: Videos) -> None:
    videos.run(world.store, Scope(), RUNTIME)
    for file in _folder(videos).iterdir():
        file.unlink()
    with world.store.open("r") as store:
        plan = videos.plan(store)
    assert plan.orphaned == []
    assert "is empty, but the store knows 2 videos" in " ".join(plan.notes)
    videos.run(world.store, Scope(), RUNTIME)
    assert _ids(world) == ["bikes", "portrait"]


def test_what_is_out_of_reach_is_known_as_that_from_a_process(tmp_path: Path) -> None:
    """The file is tried again by every run, other than one that is broken."""
    work = [(str(tmp_path / "away.mp4"), None, Task([], ("away",), None))]
    results = [r for r in processes.run(work, read) if r is not None]
    error = results[0][1]
    assert isinstance(error, Exception)
    assert FailedSample.of({"video_id": "away"}, error).is_one_of(("OSError",))
