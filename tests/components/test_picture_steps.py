"""The steps that look at pictures, through the component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import media_tools
import numpy as np
import pytest
from media_tools import encoded_again
from PIL import Image
from projects import Project, load_error

YAML = """
type: dagster_metaxy.PartitionedVideoComponent
attributes:
  source: videos
  feature_prefix: clips
  steps:
"""


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            "{type: frames, every_seconds: 1, count: 3}",
            "every_seconds and count both say which frames are taken: write one of"
            " every_seconds, every_nth, count, keyframes",
        ),
        (
            "{type: frames, every_nth: 2, keyframes: true}",
            "every_nth and keyframes both say which frames are taken",
        ),
        ("{type: frames, format: png, quality: 9}", "PNG loses nothing and has no quality"),
    ],
)
def test_parameters_that_do_not_go_together(project: Project, step: str, sentence: str) -> None:
    project.add_clips(names=("bikes",))
    project.write("clips/defs.yaml", f"{YAML}    - {step}\n")
    error = load_error(project)
    assert "defs.yaml:6:7: steps.0: " in error
    assert sentence in error


def test_what_is_seen_of_each_video(project: Project) -> None:
    folder = project.add_clips(names=("bikes",))
    media_tools.clip(
        folder / "black.mp4", frames=30, draw=lambda i, w, h: np.zeros((h, w, 3), "u1")
    )
    project.write(
        "clips/defs.yaml",
        YAML
        + """
    - {type: frames, count: 3, format: webp}
    - {type: frames, name: keyframes, keyframes: true, max_size: 64}
    - quality
    - scenes
    - {type: thumbnail, max_size: 160}
    - {type: contact_sheet, columns: 3, rows: 2, width: 480}
""",
    )
    assert project.run_job().success

    def rows(name: str, video: str = "bikes") -> list[dict[str, Any]]:
        found = [r for r in project.rows(f"clips/{name}").to_dicts() if r["video_id"] == video]
        return sorted(found, key=lambda row: row.get("frame_index", row.get("scene_index", 0)))

    frames = rows("frames")
    assert [r["time"] for r in frames] == pytest.approx([10 / 6, 5, 50 / 6])
    assert all(Path(r["path"]).suffix == ".webp" and Path(r["path"]).is_file() for r in frames)
    keyframes = rows("keyframes")
    assert [r["time"] for r in keyframes] == pytest.approx([0, 1.2, 3.04, 5.48, 7.48, 9.68])
    assert {(r["width"], r["height"]) for r in keyframes} == {(64, 27)}
    scenes = rows("scenes")
    assert [r["start"] for r in scenes] == [r["time"] for r in keyframes]
    assert [r["score"] is None for r in scenes] == [True] + [False] * 5
    (measured,) = rows("quality")
    assert (measured["black_share"], len(measured["motion_curve"])) == (0, 10)
    (black,) = rows("quality", "black")
    assert (black["black_share"], black["frozen_share"], black["motion_curve"]) == (1, 1, [0, 0])
    (thumbnail,), (sheet,) = rows("thumbnail"), rows("contact_sheet")
    for row, size in ((thumbnail, (160, 68)), (sheet, (480, 136))):
        with Image.open(row["path"]) as image:
            assert (row["width"], row["height"]) == image.size == size
    assert sheet["frames"] == 6
    # What writes no file has no folder of a video; `.work` is for what is handed from step to step.
    folders = (project.root / "data/artifacts").glob("*/*")
    written = {path.parent.name for path in folders if path.name != ".work"}
    assert written == {f"clips__{n}" for n in ("frames", "keyframes", "thumbnail", "contact_sheet")}


def test_near_duplicates(project: Project) -> None:
    folder = project.add_clips(names=("bikes", "bigbuckbunny"))
    encoded_again(folder / "bikes.mp4", folder / "copy.mp4", 320, 136)
    steps = "    - near_duplicates\n    - fingerprint\n  partitions: dynamic\n"
    project.write("clips/defs.yaml", YAML + steps)
    assert project.run_job().success
    (pairs,) = project.rows("clips/near_duplicates").to_dicts()
    assert (pairs["video_ids"], pairs["other_ids"]) == (["bikes"], ["copy"])
    assert (pairs["videos"], pairs["pairs"]) == (3, 1)
    assert pairs["distances"][0] < 4
    with Image.open(project.rows("clips/fingerprint").filter(video_id="bikes")["path"][0]) as strip:
        assert strip.size == (4 * 120, 51)
    shown = project.metadata("clips/near_duplicates")
    assert "image/jpeg" in shown["pictures"]
    assert [record.data["video_ids"] for record in shown["distances"].records] == ["bikes"]

    # The pairs follow the videos, and are of no partition.
    assert project.green("clips/fingerprint") == {"bikes", "bigbuckbunny", "copy"}
    (folder / "copy.mp4").unlink()
    assert project.run_job().success
    assert project.counts("clips/near_duplicates") == (0, 1, 0, 0)
    assert project.counts("clips/fingerprint") == (0, 0, 1, 0)
    (pairs,) = project.rows("clips/near_duplicates").to_dicts()
    assert (pairs["videos"], pairs["video_ids"]) == (2, [])


def test_what_steps_are_made_from_must_be_there(project: Project) -> None:
    project.add_clips(names=("bikes",))
    # In another order than they are computed.
    steps = ("near_duplicates", "frames", "{type: clips, scenes: frames}", "{type: frames}")
    project.write("clips/defs.yaml", YAML + "".join(f"    - {step}\n" for step in steps))
    first, also = load_error(project).split("Also wrong:")
    assert "defs.yaml:9:7: the step 'frames' is there twice" in first
    duplicates, clips = also.strip().splitlines()[:2]
    assert "defs.yaml:6:7: the step 'near_duplicates' is made from a step of the type" in duplicates
    assert (
        "defs.yaml:8:29: the step 'clips' is made from a step of the type 'scenes' that is called"
        " 'frames', and there is none"
    ) in clips
