"""The step `clips`, in a real run."""

from __future__ import annotations

from pathlib import Path

import av
import media_tools
import pytest
from projects import Project

from dagster_metaxy.steps import STEPS


def collection(project: Project, *steps: str) -> None:
    project.write(
        "clips/defs.yaml",
        f"""
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          steps: [{", ".join(steps)}]
        """,
    )


def lasts(path: str) -> float:
    with av.open(path) as file:
        return (file.duration or 0) / 1_000_000


def test_by_length_and_again_only_where_sound_or_picture_changed(project: Project) -> None:
    folder = project.add_clips(names=("portrait",))
    media_tools.clip(folder / "tone.mp4", video=None, audio="aac", frames=75)
    collection(project, "{type: clips, seconds: 4, min_seconds: 2}")
    project.run_job()
    rows = project.rows("clips/clips").sort("video_id", "clip_index").rows(named=True)
    assert [(r["video_id"], r["clip_index"], r["start"], r["end"]) for r in rows] == [
        ("portrait", 0, 0, 4),
        ("portrait", 1, 4, 8),
        ("portrait", 2, 8, pytest.approx(12.416, abs=0.05)),
        ("tone", 0, 0, pytest.approx(3, abs=0.05)),
    ]
    assert [r["copied"] for r in rows] == [True] * 4
    for row in rows:
        assert row["size"] == Path(row["path"]).stat().st_size
        assert row["duration"] == pytest.approx(row["end"] - row["start"])
        assert lasts(row["path"]) == pytest.approx(row["duration"], abs=0.07)

    project.run_job()
    assert project.counts("clips/clips") == (0, 0, 0, 0)
    media_tools.clip(folder / "tone.mp4", video=None, audio="aac", frames=50)
    project.run_job()
    assert project.counts("clips/clips") == (0, 1, 0, 0)


def test_by_scenes(project: Project) -> None:
    folder = project.add_clips(names=("bikes", "portrait"))
    media_tools.clip(folder / "tone.mp4", video=None, audio="aac", frames=75)
    collection(project, "{type: clips, scenes: scenes, preset: ultrafast}", "scenes")
    project.run_job()
    names = ("video_id", "scene_index", "start", "end")
    scenes = project.rows("clips/scenes").sort("video_id", "scene_index").select(names).rows()
    names = ("video_id", "clip_index", "start", "end")
    clips = project.rows("clips/clips").sort("video_id", "clip_index").select(names).rows()
    assert [c[:2] for c in clips] == [s[:2] for s in scenes]
    assert len(clips) > 3
    for clip, scene in zip(clips, scenes, strict=True):
        assert clip[2:] == pytest.approx(scene[2:], abs=0.001)
    project.run_job()
    assert project.counts("clips/clips") == (0, 0, 0, 0)
    # other scenes are other clips
    collection(
        project,
        "{type: clips, scenes: scenes, preset: ultrafast}",
        "{type: scenes, min_scene_seconds: 4}",
    )
    project.run_job()
    assert project.counts("clips/clips") == (0, 2, 0, 0)
    assert project.rows("clips/clips").height == project.rows("clips/scenes").height < len(clips)


def test_length_or_scenes() -> None:
    with pytest.raises(ValueError, match="cut by seconds or by scenes"):
        STEPS["clips"].model_validate({"type": "clips", "scenes": "scenes", "seconds": 3})
