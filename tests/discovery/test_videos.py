"""Discovery of videos, by updates of the root feature."""

from __future__ import annotations

import shutil
from pathlib import Path

import metaxy as mx
import pytest
from projects import CLIPS
from worlds import RUNTIME, World

from dagster_metaxy.discovery.files import Listing
from dagster_metaxy.discovery.videos import Videos, videos_feature
from dagster_metaxy.increment.selection import Scope


@pytest.fixture
def world(tmp_path: Path):
    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        yield World(tmp_path)
    mx.MetaxyConfig.reset()


@pytest.fixture
def videos(world: World) -> Videos:
    feature = videos_feature("t")
    feature.register("t")
    folder = world.root / "videos"
    folder.mkdir()
    for name in ("bikes", "portrait"):
        shutil.copy(CLIPS / f"{name}.mp4", folder)
    return Videos(feature, folder, workers=1)


def _ids(world: World) -> list[str]:
    return sorted(str(row["video_id"]) for row in world.rows("t/videos"))


def test_what_another_run_writes_while_this_one_lists_stays(world: World, videos: Videos) -> None:
    videos.run(world.store, Scope(), RUNTIME)

    class Slow(Videos):
        def listing(self) -> Listing:
            listed = super().listing()
            shutil.copy(CLIPS / "bigbuckbunny.mp4", self.folder)
            videos.run(world.store, Scope(), RUNTIME)
            return listed

    slow = Slow(videos.feature, videos.folder, workers=1)
    outcome = slow.run(world.store, Scope(), RUNTIME)
    assert outcome.total.orphaned == 0
    assert _ids(world) == ["bigbuckbunny", "bikes", "portrait"]
