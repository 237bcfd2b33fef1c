"""The sensor, tick by tick, with the runs that it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import dagster as dg
import pytest
from projects import CLIPS, NAMES, Project
from stores import store_config
from watches import Watch

from dagster_metaxy.components.partitioned_video import sources


def test_off_by_default(videos: Project) -> None:
    sensor = videos.load().resolve_sensor_def("clips_sensor")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_one_run_for_all_and_exactly_their_partitions(videos: Project) -> None:
    (videos.root / "videos/portrait.mp4").unlink()
    watch = Watch(videos)
    assert watch.run(watch.tick()).success
    assert videos.instance.get_dynamic_partitions("clips") == ["bigbuckbunny", "bikes"]
    assert videos.green("clips/frames") == {"bigbuckbunny", "bikes"}

    unchanged = watch.tick()
    assert not unchanged.run_requests
    assert "2 videos, none new, changed or gone" in unchanged.skip_message

    videos.add_clips(names=("portrait",))
    (videos.root / "videos/bikes.mp4").unlink()
    data = watch.tick()
    assert data.run_requests[0].tags["found"].startswith("1 new, 0 changed and 1 vanished of 2")
    assert videos.instance.has_dynamic_partition("clips", "portrait")
    assert watch.run(data).success
    assert videos.counts("clips/videos") == (1, 0, 1, 0)
    assert videos.green("clips/frames") == set(NAMES)
    assert not watch.tick().run_requests


def test_a_former_state_is_a_new_request(videos: Project) -> None:
    watch = Watch(videos)
    keys = set()
    bikes = videos.root / "videos/bikes.mp4"
    for _ in range(2):
        data = watch.tick()
        keys.add(data.run_requests[0].run_key)
        assert watch.run(data).success
        bikes.rename(videos.root / "bikes.mp4")
        data = watch.tick()
        keys.add(data.run_requests[0].run_key)
        assert watch.run(data).success
        (videos.root / "bikes.mp4").rename(bikes)
    assert len(keys) == 4


def test_a_store_that_is_up_to_date_needs_no_run(videos: Project) -> None:
    videos.run_job()
    data = Watch(videos).tick()
    assert not data.run_requests
    assert "all in the store as they are" in data.skip_message


def test_a_moved_video_registers_no_partition(videos: Project) -> None:
    watch = Watch(videos)
    assert watch.run(watch.tick()).success
    (videos.root / "videos/deep").mkdir()
    (videos.root / "videos/bikes.mp4").rename(videos.root / "videos/deep/bikes.mp4")
    assert watch.run(watch.tick()).success
    assert set(videos.instance.get_dynamic_partitions("clips")) == set(NAMES)
    assert videos.counts("clips/videos") == (0, 0, 0, 0)


def test_it_waits_while_a_run_is_under_way(videos: Project) -> None:
    watch = Watch(videos)
    job = videos.load().resolve_job_def("clips")
    run = videos.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    data = watch.tick()
    assert not data.run_requests
    assert "waiting for run" in data.skip_message
    videos.instance.delete_run(run.run_id)
    assert watch.tick().run_requests


HOLDING = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")
def test_it_waits_for_a_store_that_another_process_has_open(videos: Project) -> None:
    (videos.root / "metaxy.toml").write_text(store_config("duckdb", str(videos.root)))
    watch = Watch(videos)
    watch.run(watch.tick())
    shutil.copy(CLIPS / "bikes.mp4", videos.root / "videos/new.mp4")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(videos.root / "duck.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    data = watch.tick()
    assert not data.run_requests
    assert "open in another process" in data.skip_message
    holder.communicate()
    watch.run(watch.tick())
    assert videos.counts("clips/videos")[0] == 1
    assert videos.metadata("clips/videos")["dagster/row_count"] == len(NAMES) + 1


def test_a_run_that_failed_is_asked_for_again(videos: Project) -> None:
    watch = Watch(videos)
    for attempt in range(3):
        data = watch.tick()
        (request,) = data.run_requests
        job = videos.load().resolve_job_def("clips")
        videos.instance.create_run_for_job(
            job,
            status=dg.DagsterRunStatus.FAILURE,
            tags={"dagster/run_key": request.run_key, "attempt": str(attempt)},
        )
    data = watch.tick()
    assert not data.run_requests
    assert "3 runs for these files have failed" in data.skip_message
    (videos.root / "videos/bikes.mp4").touch()
    assert watch.tick().run_requests


def test_a_source_that_is_gone_deletes_nothing(videos: Project) -> None:
    watch = Watch(videos)
    assert watch.run(watch.tick()).success
    (videos.root / "videos").rename(videos.root / "unmounted")
    data = watch.tick()
    assert not data.run_requests
    assert "Nothing is taken as deleted" in data.skip_message


def test_a_bad_file_asks_for_one_run_not_for_one_each_tick(videos: Project) -> None:
    (videos.root / "videos/bad.mp4").write_bytes((CLIPS / "bikes.mp4").read_bytes()[:100_000])
    watch = Watch(videos)
    assert not watch.run(watch.tick()).success
    assert not watch.tick().run_requests
    assert videos.green("clips/videos") == set(NAMES)


def test_it_waits_for_files_that_are_being_copied(
    videos: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SETTLE_SECONDS", 3600.0)
    for clip in (videos.root / "videos").iterdir():
        os.utime(clip, (1_700_000_000, 1_700_000_000))
    watch = Watch(videos)
    assert watch.run(watch.tick()).success
    copied = videos.root / "videos/copied.mp4"
    copied.write_bytes((CLIPS / "bikes.mp4").read_bytes()[:100_000])
    data = watch.tick()
    assert not data.run_requests
    assert "1 file may still be being written, such as 'copied.mp4'" in data.skip_message
    # A run that is asked for by hand waits, too, and says so.
    assert videos.run_job().success
    notes = videos.metadata("clips/videos")["notes"]
    assert "1 file is still being written, such as 'copied.mp4'" in str(notes)
    os.utime(copied, (1_700_000_000, 1_700_000_000))  # nobody goes on with it
    assert not watch.run(watch.tick()).success
    assert videos.counts("clips/videos") == (0, 0, 0, 1)
    assert not watch.tick().run_requests
