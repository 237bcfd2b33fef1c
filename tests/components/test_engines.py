"""Computes in processes, from YAML to the store."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import dagster as dg
import pytest
from projects import Project

from dagster_metaxy.increment import progress

OWN = """
    type: dagster_metaxy.MetaxyAssetComponent

    attributes:
      feature: clips/own
      deps: [clips/videos]
      id_columns: [video_id]
      columns: {pid: int, file: str}
      compute: .compute.own
      time_limit: 3
      workers: 2
    """
COMPUTE = """
    import os
    import signal
    import time


    def own(sample, context, unit):
        if sample["video_id"] == "bikes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if sample["video_id"] == "portrait":
            time.sleep(10_000)
        context.log.info(f"looked at {sample['video_id']}")
        file = context.artifact("unit.txt")
        file.write_text(str(unit["factor"]))
        return {"pid": os.getpid(), "file": file}
    """
RESOURCES = """
    import dagster as dg


    class Unit(dg.ConfigurableResource):
        factor: int


    @dg.definitions
    def resources():
        return dg.Definitions(resources={"unit": UNIT})
    """
VIDEOS = """
    type: dagster_metaxy.PartitionedVideoComponent

    attributes:
      source: videos
      feature_prefix: clips
      steps: [audio, {type: frames, every_seconds: 5, max_size: 64}]
    """


@pytest.fixture
def clips(project: Project) -> Project:
    project.add_clips()
    project.write("clips/defs.yaml", VIDEOS)
    return project


@pytest.mark.default_engine
def test_a_crash_inside_a_step_ends_one_sample(clips: Project) -> None:
    clips.write(
        "clips/detector.py",
        """
        import os
        import signal


        def dies(picture):
            if picture.shape == (27, 64, 3):
                os.kill(os.getpid(), signal.SIGSEGV)
            return [(0, 0, 20, 20, 0.9)]
        """,
    )
    module = f"{clips.sandbox.project_name}.defs.clips.detector"
    faces = f"[{{type: frames, count: 1, max_size: 64}}, {{type: faces, model: {module}.dies}}]"
    clips.write("clips/defs.yaml", VIDEOS[: VIDEOS.index("steps:")] + f"steps: {faces}\n")
    clips.run_job(raise_on_error=False)
    assert clips.counts("clips/faces") == (3, 0, 0, 1)
    (failed,) = clips.metadata("clips/faces")["failed samples"].records
    assert failed.data["sample"] == "video_id=bikes, frame_index=0"
    assert "died by signal 11" in failed.data["message"]
    assert clips.rows("clips/faces").height == 2


def test_a_crash_and_a_hang_are_two_failed_samples(clips: Project) -> None:
    clips.write("own/defs.yaml", OWN)
    clips.write("own/compute.py", COMPUTE)
    clips.write("resources.py", RESOURCES.replace("UNIT", '{"factor": 7}'))
    run_id = clips.materialize("clips/videos", "clips/own").run_id
    assert clips.counts("clips/own") == (3, 0, 0, 2)
    (row,) = clips.rows("clips/own").to_dicts()
    assert row["video_id"] == "bigbuckbunny"
    assert Path(row["file"]).read_text() == "7"
    logs = [entry.user_message for entry in clips.instance.all_logs(run_id)]
    assert "looked at bigbuckbunny" in logs
    told = "\n".join(logs)
    assert "video_id=bikes: WorkerDied: the process that computed it died by signal 11" in told
    assert "video_id=portrait: TimeLimitExceeded: took longer than 3 s" in told


def test_a_resource_that_cannot_be_sent_is_named(clips: Project) -> None:
    clips.write("own/defs.yaml", OWN)
    clips.write("own/compute.py", COMPUTE)
    clips.write("resources.py", RESOURCES.replace("UNIT", "Unit(factor=7)"))
    with pytest.raises(dg.Failure) as caught:
        clips.materialize("clips/videos", "clips/own")
    told = str(caught.value.description)
    assert told.startswith("clips/own: the resource 'unit' cannot be sent to a process (")
    clips.write("own/defs.yaml", OWN.replace("  time_limit: 3", ""))
    clips.write(
        "own/compute.py",
        COMPUTE.replace('unit["factor"]', "unit.factor").replace("if ", "if 0 and "),
    )
    clips.materialize("clips/own")
    assert clips.rows("clips/own").height == 3


def test_videos_and_steps_in_processes_are_as_in_threads(clips: Project) -> None:
    clips.write("clips/defs.yaml", VIDEOS + "  engine: processes\n")
    (clips.root / "videos/bad.mp4").write_bytes(b"no video")
    clips.run_job()
    keys = ("clips/videos", "clips/audio", "clips/frames")
    assert clips.counts("clips/videos") == (3, 0, 0, 1)
    rows = {key: clips.rows(key).height for key in keys}
    clips.write("clips/defs.yaml", VIDEOS)
    clips.run_job()
    assert {key: clips.rows(key).height for key in keys} == rows
    assert [clips.counts(key)[:3] for key in keys] == [(0, 0, 0)] * 3


def test_files_that_take_too_long_to_read_are_named(clips: Project) -> None:
    # Less than loading the demuxer takes, which every new process does.
    clips.write("clips/defs.yaml", VIDEOS + "  time_limit: 0.001\n")
    with pytest.raises(dg.Failure) as caught:
        clips.materialize("clips/videos")
    assert "bikes.mp4: took longer than 0.001 s" in str(caught.value.description)
    clips.write("clips/defs.yaml", VIDEOS)
    again = {"ops": {"clips__videos": {"config": {"retry_quarantined": True}}}}
    clips.materialize("clips/videos", run_config=again)
    assert clips.rows("clips/videos").height == 3


SLOW = """
    import time
    from pathlib import Path

    def own(sample, context):
        flag = Path(__file__).parent / "flag"
        while sample["video_id"] == "portrait" and not flag.exists():
            time.sleep(0.01)
        return {"pid": 1, "file": "x"}
    """


def test_counts_are_observed_while_a_run_goes_on(
    clips: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.01)
    clips.write("own/defs.yaml", OWN.replace("time_limit: 3", "chunk_seconds: 0.1"))
    folder = clips.write("own/compute.py", SLOW).parent
    key = dg.AssetKey(["clips", "own"])
    found: list[dg.EventLogRecord] = []

    def watch() -> None:
        deadline = time.monotonic() + 300
        while not found and time.monotonic() < deadline:
            found.extend(clips.instance.fetch_observations(key, limit=10).records)
            time.sleep(0.01)
        (folder / "flag").touch()  # the last sample waits for it

    watcher = threading.Thread(target=watch)
    watcher.start()
    run_id = clips.materialize("clips/videos", "clips/own").run_id
    watcher.join()
    observed = [
        record.asset_observation.metadata
        for record in clips.instance.fetch_observations(key, limit=10).records
        if record.asset_observation
    ]
    assert len(observed) == 1  # one a minute, though the log has many lines
    counts = {name: value.value for name, value in observed[0].items()}
    assert counts["run"] == run_id
    assert counts["total"] == 3
    assert counts["failed"] == 0
    assert counts["done"] in (0, 1, 2)
