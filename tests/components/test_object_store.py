"""A project whose artifacts lie in an object store: runs, plans, deletion and collection."""

from __future__ import annotations

import shutil
from io import BytesIO
from typing import Any

import dagster as dg
import pytest
from objects import SECRET, Bucket, Proxy
from projects import Project, load_error

from dagster_metaxy import extras

URL = "s3://bucket/some/prefix"


def write(project: Project, artifacts: str, **more: str) -> None:
    """Frames and sound of videos, with all of their artifacts at one place."""
    lines = "".join(f"\n          {name}: {value}" for name, value in more.items())
    project.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          artifacts: {artifacts}
          partitions: dynamic{lines}
          steps:
            - {{type: frames, every_seconds: 1, max_size: 160}}
            - audio
        """,
    )


@pytest.fixture
def clips(project: Project, bucket: Bucket) -> Project:
    project.add_clips()
    write(project, bucket.url)
    project.write("maintenance/defs.yaml", "type: dagster_metaxy.MetaxyJobsComponent\n")
    return project


def named(project: Project) -> set[str]:
    """The objects that rows name."""
    return {*project.rows("clips/frames")["path"], *project.rows("clips/audio")["path"]}


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the only op."""
    event: Any
    (event,) = (e for e in result.all_events if e.event_type_value == "STEP_OUTPUT")
    return event.step_output_data.metadata


def records(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.value.records]


def test_new_changed_and_deleted(clips: Project, bucket: Bucket) -> None:
    from PIL import Image

    clips.run_job()
    assert bucket.urls == named(clips)
    frames = clips.rows("clips/frames")
    path = frames["path"][0]
    assert path.startswith(f"{bucket.url}/clips__frames/")
    assert bucket.content_type(path) == "image/jpeg"
    with Image.open(BytesIO(bucket.read(path))) as image:
        assert image.size == (frames["width"][0], frames["height"][0])
    written = clips.metadata("clips/frames")["artifacts"]
    sizes = {record.data["content type"]: record.data["files"] for record in written.records}
    assert sizes == {"image/jpeg": frames.height}

    folder = clips.root / "videos"
    shutil.copy(folder / "bikes.mp4", folder / "portrait.mp4")  # other content, same name
    (folder / "bikes.mp4").unlink()
    clips.run_job()
    assert clips.counts("clips/frames") == (0, 1, 1, 0)
    assert bucket.urls == named(clips)
    assert clips.rows("clips/frames").filter(video_id="portrait").height == 10
    clips.run_job()
    assert clips.counts("clips/frames") == (0, 0, 0, 0)
    assert not (clips.root / "data/artifacts").exists()


def test_jobs(clips: Project, bucket: Bucket) -> None:
    clips.run_job()
    garbage = f"{bucket.url}/clips__frames/bikes/former/x.jpg"
    other = f"{bucket.url}/clips__faces/bikes/former/x.jpg"
    bucket.put(garbage, b"12345")
    bucket.put(other)
    config = {"older_than_hours": 0, "dry_run": True}
    ops = {"ops": {"collect": {"config": config}}}
    found = told(clips.run_job("metaxy_collect", run_config=ops))
    assert "1 folder with 1 file of 5 bytes would go" in found["notes"].value
    assert f"left alone: {bucket.url}/clips__faces\n" in found["notes"].value
    frames = next(r for r in records(found["features"]) if r["feature"] == "clips/frames")
    assert frames["first ones"] == garbage.rpartition("/")[0]
    assert garbage in bucket.urls
    config["dry_run"] = False
    clips.run_job("metaxy_collect", run_config=ops)
    assert bucket.urls == named(clips) | {other}

    shutil.copy(clips.root / "videos/bikes.mp4", clips.root / "videos/portrait.mp4")
    clips.materialize("clips/videos", partition="portrait")
    plan = told(clips.run_job("metaxy_plan"))
    (folder,) = records(plan["clips/frames: files that go"])
    assert folder["folder"].startswith(f"{bucket.url}/clips__frames/portrait/")

    ops = {
        "ops": {
            "delete": {
                "config": {
                    "feature": "clips/videos",
                    "filter": "video_id = 'bikes'",
                    "dry_run": False,
                }
            }
        }
    }
    found = told(clips.run_job("metaxy_delete", run_config=ops))
    frames = next(r for r in records(found["features"]) if r["feature"] == "clips/frames")
    assert frames["artifacts"].startswith(f"{bucket.url}/clips__frames/bikes/")
    assert "bikes" not in set(clips.rows("clips/frames")["video_id"])
    assert bucket.urls == named(clips) | {other}


def test_in_processes(clips: Project, bucket: Bucket) -> None:
    write(clips, bucket.url, engine="processes")
    clips.run_job()
    assert clips.counts("clips/frames") == (3, 0, 0, 0)
    assert bucket.urls == named(clips)


def test_a_server_that_refuses(clips: Project, bucket: Bucket, proxy: Proxy) -> None:
    proxy.fault = lambda method, path: 403 if method == "PUT" and "clips__frames" in path else None
    result = clips.run_job(raise_on_error=False)
    event: Any
    failures = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    (event,) = (e for e in failures if "frames" in str(e.step_key))
    text = str(event.step_failure_data)
    assert f"{bucket.url}/clips__frames/" in text
    assert "cannot be written: " in text
    assert "0 are in the store" in text
    assert SECRET not in text
    proxy.fault = lambda *_: None
    clips.run_job()
    assert bucket.urls >= named(clips)
    assert clips.counts("clips/frames") == (3, 0, 0, 0)


def test_an_extra_that_is_missing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when definitions load, with the place."""
    project.add_clips()
    there = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda n: None if n == "obstore" else there(n))
    write(project, URL)
    text = load_error(project)
    assert (
        "artifacts in an object store needs obstore, which is not installed:"
        " pip install 'dagster-metaxy[object-store]'"
    ) in text
    assert "clips/defs.yaml" in text
    write(project, "data/elsewhere")
    project.load()


@pytest.mark.parametrize("url", ["ftp://bucket/x", "s3://", "s3://id:hunter2@bucket/x"])
def test_a_url_that_is_no_place(project: Project, url: str) -> None:
    project.add_clips()
    write(project, url)
    text = load_error(project)
    assert "is no place for artifacts: write s3://bucket/prefix" in text
    assert "clips/defs.yaml" in text


def test_loading_needs_no_network(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    project.add_clips()
    write(project, URL)
    specs = project.load().resolve_all_asset_specs()
    assert {"clips/frames", "clips/audio"} <= {spec.key.to_user_string() for spec in specs}
