"""PartitionedVideoComponent on real clips, in this process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dagster as dg
import media_tools
import pytest
from projects import CLIPS, NAMES, Project

ASSETS = ("clips/videos", "clips/frames", "clips/audio")
NOTHING = (0, 0, 0, 0)
DUB = Path(__file__).parent.parent / "media" / "dub.wav"


def test_first_run_computes_all_and_the_second_nothing(videos: Project) -> None:
    assert videos.run_job().success
    assert videos.counts("clips/videos") == (3, 0, 0, 0)
    assert videos.counts("clips/frames") == (3, 0, 0, 0)
    assert videos.counts("clips/audio") == (2, 0, 0, 0)  # bikes has no sound
    frames = videos.rows("clips/frames")
    assert {row["video_id"] for row in frames.to_dicts()} == set(NAMES)
    assert all(Path(path).is_file() for path in frames["path"])
    written = {path: os.stat(path).st_mtime_ns for path in frames["path"]}

    assert videos.run_job().success
    for key in ASSETS:
        assert videos.counts(key) == NOTHING
        assert videos.metadata(key)["rows written"] == 0
    assert {path: os.stat(path).st_mtime_ns for path in frames["path"]} == written


def test_videos_are_probed(videos: Project) -> None:
    videos.run_job()
    rows = {row["video_id"]: row for row in videos.rows("clips/videos").to_dicts()}
    bikes, bunny = rows["bikes"], rows["bigbuckbunny"]
    assert (bikes["width"], bikes["height"], bikes["audio_codec"]) == (640, 272, None)
    assert (bunny["width"], bunny["height"]) == (1280, 720)
    assert (bunny["video_codec"], bunny["audio_codec"]) == ("h264", "aac")
    assert bunny["audio_channels"] == 6
    assert bunny["size"] == (CLIPS / "bigbuckbunny.mp4").stat().st_size
    assert bikes["duration"] == pytest.approx(10, abs=0.1)
    assert bikes["frame_rate"] == pytest.approx(25)


def test_soundtrack_replaced_touches_no_frame(videos: Project) -> None:
    videos.run_job()
    before = videos.rows("clips/frames")["path"].sort().to_list()
    file = videos.root / "videos/portrait.mp4"
    media_tools.replace_audio(CLIPS / "portrait.mp4", DUB, file)
    videos.run_job()
    assert videos.counts("clips/videos") == (0, 1, 0, 0)
    assert videos.counts("clips/audio") == (0, 1, 0, 0)
    assert videos.counts("clips/frames") == NOTHING
    assert videos.rows("clips/frames")["path"].sort().to_list() == before


@pytest.mark.parametrize("change", ["touch", "older", "folder", "file", "subfolder", "mkv", "ts"])
def test_same_streams_recompute_nothing(videos: Project, change: str) -> None:
    folder = videos.root / "videos"
    videos.run_job()
    file = folder / "portrait.mp4"
    if change == "touch":
        file.touch()
    elif change == "older":
        os.utime(file, (1_000_000_000, 1_000_000_000))
    elif change == "folder":
        folder.rename(videos.root / "moved")
        yaml = videos.sandbox.defs_folder_path / "clips/defs.yaml"
        yaml.write_text(yaml.read_text().replace("source: videos", "source: moved"))
    elif change == "file":
        file.rename(folder / "renamed.mp4")
    elif change == "subfolder":
        (folder / "deep").mkdir()
        file.rename(folder / "deep" / "portrait.mp4")
    else:
        media_tools.remux(file, folder / f"portrait.{change}")
        file.unlink()
    videos.run_job()
    for key in ASSETS:
        assert videos.counts(key) == NOTHING
    row = next(r for r in videos.rows("clips/videos").to_dicts() if r["video_id"] == "portrait")
    assert Path(row["path"]).is_file()
    assert row["size"] == Path(row["path"]).stat().st_size


def test_new_changed_and_deleted(videos: Project) -> None:
    videos.run_job()
    folder = videos.root / "videos"
    gone = [p for p in videos.rows("clips/frames").rows(named=True) if p["video_id"] == "bikes"]
    shutil.copy(folder / "bikes.mp4", folder / "portrait.mp4")  # other content, same name
    (folder / "bikes.mp4").unlink()
    media_tools.replace_audio(CLIPS / "bikes.mp4", DUB, folder / "sub.mp4")
    videos.run_job()
    assert videos.counts("clips/videos") == (1, 1, 1, 0)
    assert videos.counts("clips/frames") == (1, 1, 1, 0)
    assert not any(Path(row["path"]).exists() for row in gone)
    assert set(videos.rows("clips/frames")["video_id"]) == {"bigbuckbunny", "portrait", "sub"}
    # portrait's 12 seconds became bikes' 10: the children beyond are gone, with their files
    portrait = videos.rows("clips/frames").filter(video_id="portrait")
    assert portrait.height == 10
    files = list((videos.root / "data/artifacts/clips__frames/portrait").rglob("*.jpg"))
    assert sorted(map(str, files)) == portrait["path"].sort().to_list()
    # portrait has no sound any more
    assert set(videos.rows("clips/audio")["video_id"]) == {"bigbuckbunny", "sub"}
    assert videos.run_job().success
    assert [videos.counts(key) for key in ASSETS] == [NOTHING] * 3


def test_corrupt_files_are_named_and_stop_no_other(videos: Project) -> None:
    folder = videos.root / "videos"
    (folder / "empty.mp4").touch()
    media_tools.truncate(CLIPS / "portrait.mp4", folder / "half.mp4", 0.5)
    result = videos.run_job(raise_on_error=False)
    assert [event.step_key for event in result.get_step_failure_events()] == ["report_failures"]
    assert videos.counts("clips/videos") == (3, 0, 0, 2)
    table = videos.metadata("clips/videos")["failed samples"]
    messages = {record.data["sample"]: record.data["message"] for record in table.records}
    assert "Invalid data found" in messages["video_id=empty"]
    assert messages["video_id=empty"].startswith("empty.mp4: ")
    assert "half.mp4: " in messages["video_id=half"]
    for key in ASSETS:
        assert set(videos.rows(key)["video_id"]) <= set(NAMES)
    assert videos.green("clips/frames") == set(NAMES)
    assert not (videos.root / "data/artifacts/clips__frames/half").exists()
    checks = videos.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(["clips", "videos"]), "no_failed_samples"), limit=1
    )
    assert checks[0].status.value == "FAILED"


def test_dropped_step_parameter_recomputes_that_step_alone(videos: Project) -> None:
    videos.run_job()
    yaml = videos.sandbox.defs_folder_path / "clips/defs.yaml"
    yaml.write_text(yaml.read_text().replace("every_seconds: 1", "every_seconds: 2"))
    videos.run_job()
    assert videos.counts("clips/frames") == (0, 3, 0, 0)
    assert videos.counts("clips/audio") == NOTHING
    assert all(Path(path).is_file() for path in videos.rows("clips/frames")["path"])
    # and back: the rows of before count again, with their files
    yaml.write_text(yaml.read_text().replace("every_seconds: 2", "every_seconds: 1"))
    videos.run_job()
    assert videos.counts("clips/frames") == NOTHING
    assert all(Path(path).is_file() for path in videos.rows("clips/frames")["path"])
    assert videos.rows("clips/frames").height == 29


def test_a_link_to_a_folder_that_is_not_mounted_deletes_nothing(videos: Project) -> None:
    cam = videos.add_clips("cam", names=("bikes",))
    (videos.root / "videos/cam").symlink_to(cam)
    videos.run_job()
    cam.rename(videos.root / "unmounted")
    videos.run_job()
    assert videos.counts("clips/videos") == NOTHING
    assert "cam/bikes" in videos.rows("clips/frames")["video_id"]


def test_copies_in_a_renamed_folder(videos: Project) -> None:
    folder = videos.root / "videos/a"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(CLIPS / "bikes.mp4", folder / name)
    videos.run_job()
    folder.rename(videos.root / "videos/b")
    videos.run_job()
    assert [videos.counts(key) for key in ASSETS] == [NOTHING] * 3
    rows = videos.rows("clips/videos").to_dicts()
    moved = {r["video_id"]: r["relative_path"] for r in rows if r["video_id"].startswith("a/")}
    assert moved == {"a/one": "b/one.mp4", "a/two": "b/two.mp4"}


def test_empty_source_deletes_nothing(videos: Project) -> None:
    videos.run_job()
    for file in (videos.root / "videos").iterdir():
        file.unlink()
    videos.run_job()
    assert videos.rows("clips/videos").height == 3
    assert "is empty" in videos.metadata("clips/videos")["notes"]


def test_missing_source_fails_and_deletes_nothing(videos: Project) -> None:
    videos.run_job()
    (videos.root / "videos").rename(videos.root / "elsewhere")
    with pytest.raises(dg.Failure, match="does not exist"):
        videos.run_job()
    assert videos.rows("clips/frames").height > 0


class TestPartitions:
    def test_dynamic_only_what_was_touched_turns_green(self, videos: Project) -> None:
        videos.add_clips(names=("bikes",))
        for name in ("bigbuckbunny", "portrait"):
            (videos.root / f"videos/{name}.mp4").unlink()
        videos.run_job()
        assert videos.green("clips/frames") == {"bikes"}
        assert videos.green("clips/audio") == {"bikes"}  # without sound: done, with no sample
        videos.add_clips(names=("portrait",))
        videos.run_job()
        assert videos.green("clips/audio") == {"bikes", "portrait"}
        events = videos.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(["clips", "frames"])), limit=10
        ).records
        assert [e.partition_key for e in events] == [None, "portrait", None, "bikes"]

    def test_statuses_lost_with_the_instance_are_told_again(self, videos: Project) -> None:
        videos.run_job()
        with dg.DagsterInstance.ephemeral() as fresh:
            videos.instance = fresh
            videos.run_job()
            assert videos.green("clips/frames") == set(NAMES)
            assert videos.counts("clips/frames") == NOTHING

    def test_one_partition_by_itself(self, videos: Project) -> None:
        videos.instance.add_dynamic_partitions("clips", list(NAMES))
        result = videos.materialize(*ASSETS, partition="bikes")
        assert result.success
        assert set(videos.rows("clips/videos")["video_id"]) == {"bikes"}
        assert videos.green("clips/frames") == {"bikes"}
        # again, now that upstream partitions have events
        assert videos.materialize(*ASSETS, partition="portrait").success
        assert videos.green("clips/frames") == {"bikes", "portrait"}
        assert set(videos.rows("clips/videos")["video_id"]) == {"bikes", "portrait"}

    def test_range_with_a_bad_one_tells_green_from_failed(self, videos: Project) -> None:
        (videos.root / "videos/bikes.mp4").write_bytes(b"")
        videos.instance.add_dynamic_partitions("clips", list(NAMES))
        tags = {
            "dagster/asset_partition_range_start": "bigbuckbunny",
            "dagster/asset_partition_range_end": "portrait",
        }
        result = videos.materialize("clips/videos", tags=tags, raise_on_error=False)
        assert not result.success
        assert videos.green("clips/videos") == {"bigbuckbunny", "portrait"}

    def test_a_partition_run_speaks_of_its_partition_only(self, videos: Project) -> None:
        (videos.root / "videos/zero.mp4").touch()
        videos.run_job(raise_on_error=False)
        videos.materialize(*ASSETS, partition="bikes")
        metadata = videos.metadata("clips/frames")
        assert metadata["dagster/partition_row_count"] == 10
        assert metadata["dagster/row_count"] == 29
        assert {r.data["video_id"] for r in metadata["preview"].records} == {"bikes"}
        # and leaves the warning about another one as it was
        key = dg.AssetCheckKey(dg.AssetKey(["clips", "videos"]), "no_failed_samples")
        history = videos.instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
        assert [record.status.value for record in history] == ["FAILED", "FAILED"]
        (videos.root / "videos/zero.mp4").unlink()
        videos.run_job()
        history = videos.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert history[0].status.value == "SUCCEEDED"

    def test_a_partition_run_deletes_no_video_that_only_moved(self, videos: Project) -> None:
        videos.run_job()
        (videos.root / "videos/deep").mkdir()
        (videos.root / "videos/bikes.mp4").rename(videos.root / "videos/deep/bikes.mp4")
        videos.materialize("clips/videos", "clips/frames", partition="bikes")
        assert videos.counts("clips/videos") == NOTHING
        videos.run_job()
        assert [videos.counts(key) for key in ASSETS] == [NOTHING] * 3

    def test_a_partition_of_what_has_no_upstream_yet_fails(self, videos: Project) -> None:
        videos.instance.add_dynamic_partitions("clips", list(NAMES))
        with pytest.raises(dg.Failure, match="clips/videos has no rows yet"):
            videos.materialize("clips/frames", partition="bikes")
        assert videos.green("clips/frames") == set()

    def test_partition_keys_that_are_taken_away(self, project: Project) -> None:
        for folder in ("cam_a", "cam_b"):
            project.add_clips(f"videos/{folder}", names=("bikes",))
        (project.root / "videos/cam_b/bad.mp4").touch()
        text = """
            type: dagster_metaxy.PartitionedVideoComponent
            attributes:
              source: videos
              feature_prefix: clips
              partitions: {type: static, partition_keys: [cam_a, cam_b]}
              steps: [frames]
            """
        project.write("clips/defs.yaml", text)
        project.run_job(raise_on_error=False)
        # a partition with a bad file is not green
        assert project.green("clips/videos") == {"cam_a"}
        project.write("clips/defs.yaml", text.replace("[cam_a, cam_b]", "[cam_a]"))
        assert project.run_job().success
        assert project.counts("clips/frames") == NOTHING

    def test_static(self, project: Project) -> None:
        for folder in ("cam_a", "cam_b", "cam_c"):
            project.add_clips(f"videos/{folder}", names=("bikes",))
        project.write(
            "clips/defs.yaml",
            """
            type: dagster_metaxy.PartitionedVideoComponent
            attributes:
              source: videos
              feature_prefix: clips
              partitions: {type: static, partition_keys: [cam_a, cam_b]}
              steps: [frames]
            """,
        )
        assert project.run_job().success
        assert project.green("clips/frames") == {"cam_a", "cam_b"}
        assert set(project.rows("clips/videos")["video_id"]) == {"cam_a/bikes", "cam_b/bikes"}
        table = project.metadata("clips/videos")["failed samples"]
        assert "'cam_c' is none of the partitions cam_a, cam_b" in table.records[0].data["message"]
        (project.root / "videos/cam_a/bikes.mp4").touch()
        media_tools.replace_audio(CLIPS / "bikes.mp4", DUB, project.root / "videos/cam_b/bikes.mp4")
        result = project.materialize("clips/videos", "clips/frames", partition="cam_b")
        assert result.success
        assert project.counts("clips/videos") == (0, 1, 0, 0)
        assert project.counts("clips/frames") == NOTHING
        # One that moves to another partition is another video.
        (project.root / "videos/cam_a/bikes.mp4").rename(project.root / "videos/cam_b/moved.mp4")
        assert project.run_job().success
        assert project.counts("clips/videos") == (1, 0, 1, 1)
        ids = {"cam_b/bikes", "cam_b/moved"}
        assert set(project.rows("clips/frames")["video_id"]) == ids

    def test_daily(self, project: Project) -> None:
        for day in ("2026-01-05", "2026-01-07", "no-date", "2020-01-01"):
            project.add_clips(f"videos/{day}", names=("portrait",))
        project.write(
            "clips/defs.yaml",
            """
            type: dagster_metaxy.PartitionedVideoComponent
            attributes:
              source: {path: videos, glob: "**/*.mp4"}
              feature_prefix: clips
              partitions: {type: daily, start_date: "2026-01-01"}
              steps: [audio]
            """,
        )
        assert project.run_job().success
        assert project.green("clips/audio") == {"2026-01-05", "2026-01-07"}
        table = project.metadata("clips/videos")["failed samples"]
        messages = " ".join(r.data["message"] for r in table.records)
        assert "no match for the partition pattern" in messages
        assert "no partition for 2020-01-01" in messages

    def test_none(self, project: Project) -> None:
        project.add_clips(names=("bikes",))
        project.write(
            "clips/defs.yaml",
            """
            type: dagster_metaxy.PartitionedVideoComponent
            attributes: {source: videos, feature_prefix: clips, steps: [frames]}
            """,
        )
        assert project.materialize("clips/videos", "clips/frames").success
        assert project.counts("clips/frames") == (1, 0, 0, 0)
        assert project.run_job().success
        assert project.counts("clips/frames") == NOTHING
