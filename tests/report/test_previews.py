"""What materializations show of rows, as Dagster's UI takes it."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import polars as pl
import pytest
from PIL import Image
from projects import CLIPS, Project

from dagster_metaxy.report.previews import (
    Boxes,
    Curves,
    FirstFrames,
    Histogram,
    Images,
    Kinds,
    Lists,
    Preview,
    Timeline,
    Total,
    Values,
)

IDS = ("video_id", "frame_index")
EXPANDED = 1_000
"""Characters of Markdown that Dagster's UI shows without a click."""


def jpeg(shown: dg.MetadataValue | None) -> Image.Image:
    """The picture in the Markdown."""
    text = str(shown.value if shown else "")
    begin = "![](data:image/jpeg;base64,"
    assert text.startswith(begin)
    data = base64.b64decode(text.removeprefix(begin).removesuffix(")"), validate=True)
    assert len(data) <= 60_000
    return Image.open(io.BytesIO(data))


def drawing(shown: dg.MetadataValue | None) -> tuple[ET.Element, str]:
    """The drawing in the Markdown, and the Markdown."""
    text = str(shown.value if shown else "")
    begin = "![](<data:image/svg+xml,"
    assert text.startswith(begin)
    return ET.fromstring(unquote(text.removeprefix(begin).removesuffix(">)"))), text


def texts(svg: ET.Element) -> list[str]:
    return [element.text or "" for element in svg.iter() if element.tag.endswith("text")]


def noise(folder: Path, count: int) -> pl.DataFrame:
    """Rows with pictures that JPEG cannot make small."""
    rows = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.effect_noise((200, 150), 200).convert("RGB").save(path)
        rows.append({"video_id": f"v{index}", "frame_index": index, "path": str(path)})
    return pl.DataFrame(rows)


def test_a_sheet_is_bounded_whatever_the_pictures_are(tmp_path: Path) -> None:
    rows = noise(tmp_path, 24)
    sheet = jpeg(Images("path").show(rows, IDS))
    assert sheet.size in [(6 * 160 // n, 4 * (120 + 14) // n) for n in (1, 2)]
    large = jpeg(Images("path", size=480).show(rows, IDS))
    assert large.width in (960, 480)


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    rows = noise(tmp_path, 3)
    Path(rows["path"][0]).unlink()
    Path(rows["path"][1]).write_bytes(b"no picture")
    assert jpeg(Images("path").show(rows, IDS)).width == 160
    Path(rows["path"][2]).unlink()
    assert Images("path").show(rows, IDS) is None


def test_first_frames_of_videos() -> None:
    rows = pl.DataFrame({"video_id": ["bikes"], "path": [str(CLIPS / "bikes.mp4")]})
    assert jpeg(FirstFrames("path").show(rows, ["video_id"])).size == (160, 68 + 14)


def test_curves() -> None:
    rows = pl.DataFrame(
        {
            "video_id": ["a", "<b>", "c", "d"],
            "curve": [[-20.0, -25.5, -23.0], [-70.0], [], [float("nan"), None]],
        }
    )
    svg, _ = drawing(Curves("curve", "LUFS").show(rows, ["video_id"]))
    lines = [element for element in svg.iter() if element.tag.endswith("polyline")]
    assert [len(line.get("points", "").split()) for line in lines] == [4, 2]
    assert {"a", "<b>", "LUFS", "-20", "-70", "3 s"} <= {*texts(svg)}
    assert Curves("curve").show(rows[2:], ["video_id"]) is None
    long = pl.DataFrame({"video_id": ["a"], "curve": [[float(i % 7) for i in range(7200)]]})
    svg, text = drawing(Curves("curve").show(long, ["video_id"]))
    assert "7200 s" in texts(svg)
    assert len(text) < 8_000


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0, 2.0], [i**1.5 for i in range(10_000)]])
def test_a_histogram_is_seen_without_a_click(values: list[float]) -> None:
    rows = pl.DataFrame({"duration": [*values, None, float("inf")]})
    svg, text = drawing(Histogram("duration", "s").show(rows, []))
    assert len(text) < EXPANDED
    assert {f"{min(values):.4g} s", f"{max(values):.4g} s", "0"} <= {*texts(svg)}
    assert Histogram("duration").show(rows[-2:], []) is None


def test_lists_are_a_table() -> None:
    rows = pl.DataFrame(
        {
            "a": [["x", "y"], []],
            "b": [["z", "w"], []],
            "d": [[1.5, 2.0], []],
        },
        schema_overrides={"a": pl.List(pl.String), "b": pl.List(pl.String)},
    )
    shown: Any = Lists("d", "bits", ("a", "b")).show(rows, [])
    assert [record.data for record in shown.records] == [
        {"a": "x", "b": "z", "d": 1.5},
        {"a": "y", "b": "w", "d": 2.0},
    ]
    assert Lists("d", "bits", ("a", "b")).show(rows[1:], []) is None


def test_boxes_are_drawn_on_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    Image.new("RGB", (640, 320), "white").save(path)
    corners = {"left": [64.0, 320.0], "top": [32.0, 160.0], "right": [128.0, 9_000.0]}
    rows = pl.DataFrame(
        {
            "video_id": ["v", "v"],
            "frame_index": [3, 3],
            "face_index": [0, 1],
            **corners,
            "bottom": [96.0, -5.0],
            "path": [str(path)] * 2,
        }
    )
    sheet = jpeg(Boxes().show(rows, [*IDS, "face_index"]))
    assert sheet.size == (320, 160 + 14)
    red, green, _ = sheet.getpixel((33, 33))  # type: ignore[misc]
    assert red > green + 100
    assert sheet.getpixel((100, 20)) > (240, 240, 240)  # type: ignore[operator]


def test_a_timeline_has_a_line_for_each_video() -> None:
    rows = pl.DataFrame(
        {
            "video_id": ["a", "a", "<b>"],
            "scene_index": [0, 1, 0],
            "start": [0.0, 5.0, 2.5],
            "end": [5.0, 10.0, 2.5],
        }
    )
    svg, text = drawing(Timeline().show(rows, ["video_id", "scene_index"]))
    assert {"a", "<b>", "0 s", "10 s"} == {*texts(svg)}
    bars = [element.get("d", "") for element in svg.iter() if element.tag.endswith("path")]
    assert bars == ["M100 4h165v16h-165z", "M265 4h165v16h-165z", "M182 26h1v16h-1z"]
    assert len(text) < EXPANDED
    assert Timeline().show(rows[:0], ["video_id", "scene_index"]) is None


def test_what_there_is_to_read() -> None:
    rows = pl.DataFrame({"video_id": ["v"], "segment_index": [0], "start": [1.5], "text": ["|hi|"]})
    shown: Any = Values("text", beside=("start",)).show(rows, ["video_id", "segment_index"])
    assert [record.data for record in shown.records] == [
        {"video_id": "v", "start": 1.5, "text": "|hi|"}
    ]


def test_numbers_of_a_collection() -> None:
    rows = pl.DataFrame({"codec": ["h264", None, "h264"], "width": [64, 32, 64], "s": [5, 6, 7]})
    kinds: Any = Kinds("codec", beside=("width",), counted="videos").show(rows, [])
    assert [[*record.data.values()] for record in kinds.records] == [["h264", 64, 2], ["", 32, 1]]
    total: Any = Total("s", name="minutes", scale=6).show(rows, [])
    assert total.value == 3.0


def test_steps_show_what_they_made(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.add_clips(names=("bikes", "portrait"))
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          engine: threads
          partitions: dynamic
          steps: [{type: frames, count: 2}, audio]
        """,
    )

    def broken(*args: Any) -> None:
        raise RuntimeError("no")

    project.run_job(op_selection=["update_clips__videos", "update_clips__frames"])
    videos = project.metadata("clips/videos")
    assert "duration" in videos
    assert videos["samples per second"] > 0
    assert round(videos["hours"] * 3600) == round(sum(project.rows("clips/videos")["duration"]))
    assert [record.data["videos"] for record in videos["kinds of videos"].records] == [1, 1]
    sheet = project.metadata("clips/frames")["pictures"]
    assert jpeg(dg.MetadataValue.md(sheet)).width == 4 * 160
    # Of a partition, what is in it.
    assert project.materialize("clips/frames", partition="bikes").success
    assert jpeg(dg.MetadataValue.md(project.metadata("clips/frames")["pictures"])).width == 320
    monkeypatch.setattr(Histogram, "show", broken)
    assert project.run_job().success
    assert project.metadata("clips/audio")["duration"] == "cannot be shown: RuntimeError: no"
    assert issubclass(Histogram, Preview)
