"""What materializations show of rows, as Dagster's UI takes it."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import media_tools
import numpy as np
import polars as pl
import pytest
from PIL import Image
from projects import Project

from dagster_metaxy.report.previews import (
    Best,
    Boxes,
    Curves,
    Histogram,
    Images,
    Kinds,
    Lists,
    Neighbours,
    Pairs,
    Posters,
    Preview,
    Timeline,
    Total,
    Transcript,
)

IDS = ("video_id", "frame_index")
EXPANDED = 1_000
"""Characters of Markdown that Dagster's UI shows without a click."""


def jpeg(shown: dg.MetadataValue | None) -> Image.Image:
    """The picture in the Markdown."""
    text = str(shown.value if shown else "")
    begin = "![](data:image/jpeg;base64,"
    assert text.startswith(begin)
    data = base64.b64decode(text.removeprefix(begin).partition(")")[0], validate=True)
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
    wide, high = 6 * 160 + 5 * 6, 4 * (120 + 14) + 3 * 6
    assert sheet.size in [(-(-wide // n), -(-high // n)) for n in (1, 2)]
    assert jpeg(Images("path", size=480, most=6).show(rows, IDS)).width in (966, 483)
    brief = Images("path", size=480).brief().show(rows, IDS)
    jpeg(brief)
    assert len(str(brief.value)) < 20_100  # type: ignore[union-attr]


def test_a_sheet_has_as_many_pictures_of_each_video(tmp_path: Path) -> None:
    seen = []

    class Seen(Images):
        def small(self, file: Any, row: Any) -> Image.Image:
            seen.append((row["video_id"], row["frame_index"]))
            return Image.new("RGB", (16, 8 + row["frame_index"]))

    path = str(tmp_path / "any")
    Path(path).touch()
    rows = pl.DataFrame(
        [
            {"video_id": video, "frame_index": index, "time": index * 7.25, "path": path}
            for video, count in (("a", 40), ("b", 2), ("c", 9))
            for index in range(count)
        ]
    )
    shown: Any = Seen("path", most=9, time="time").show(rows, IDS)
    assert sorted(seen) == [
        *(("a", index) for index in (6, 20, 33)), ("b", 0), ("b", 1),
        *(("c", index) for index in (1, 4, 7)),
    ]  # fmt: skip
    assert shown.value.endswith(")\n\n8 of 51 pictures")
    seen.clear()
    shown = Seen("path", most=2).show(rows, IDS)
    assert sorted(seen) == [("a", 20), ("c", 4)]
    shown = Seen("path").show(rows.filter(video_id="b"), IDS)
    assert shown.value.endswith(")")


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    rows = noise(tmp_path, 3)
    Path(rows["path"][0]).unlink()
    Path(rows["path"][1]).write_bytes(b"no picture")
    assert jpeg(Images("path").show(rows, IDS)).width == 160
    Path(rows["path"][2]).unlink()
    assert Images("path").show(rows, IDS) is None


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size) or b""
        self.count += len(data)
        return data


def test_posters_are_from_near_the_start_of_videos(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def draw(index: int, width: int, height: int) -> np.ndarray:
        # Brighter each second, and hard to make small.
        return random.integers(0, 8 * (index // 2) + 2, (height, width, 3)).astype(np.uint8)

    def video(seconds: int, width: int, height: int) -> Path:
        return media_tools.clip(
            tmp_path / f"{seconds}.mp4",
            rate=2,
            frames=seconds * 2,
            width=width,
            height=height,
            draw=draw,
            options={"g": "2", "preset": "ultrafast"},
        )

    short, long = video(8, 160, 96), video(30, 640, 384)
    for path, at in ((short, 2), (long, 5)):
        rows = pl.DataFrame({"video_id": ["bright"], "path": [str(path)]})
        sheet = jpeg(Posters("path").show(rows, ["video_id"]))
        assert sheet.size == (160, 96 + 14)
        assert np.asarray(sheet)[:96].mean() == pytest.approx(4 * at, abs=2)
    with Counting(str(long)) as file:
        Posters("path").small(file, {})
        assert file.count < long.stat().st_size / 2


def plain(folder: Path, **colors: str) -> dict[str, str]:
    """Paths of pictures of one colour each, wide ones."""
    paths = {}
    for name, color in colors.items():
        paths[name] = str(folder / f"{name}.png")
        Image.new("RGB", (480, 68), color).save(paths[name])
    return paths


def colors_of(sheet: Image.Image, size: int, height: int) -> list[list[str]]:
    """The colours in the middles of pictures on a sheet, by lines, to the last picture."""
    names = {(255, 0, 0): "red", (0, 128, 0): "green", (0, 0, 255): "blue", (0, 0, 0): "black"}
    lines = []
    for y in range(height // 2, sheet.height, height + 14 + 6):
        line = []
        for x in range(size // 2, sheet.width, size + 6):
            pixel = np.asarray(sheet.getpixel((x, y)))
            near = [name for color, name in names.items() if abs(pixel - color).max() < 12]
            line += near or (["?"] if pixel.min() < 240 else [])
        lines.append(line)
    return lines


def test_both_videos_of_a_pair_are_side_by_side(tmp_path: Path) -> None:
    paths = plain(tmp_path, a="red", b="green", c="blue", gone="black")
    Path(paths["gone"]).unlink()
    row = pl.DataFrame(
        {
            "collection": ["all"],
            "video_ids": [["b", "a", "a", "a"]],
            "other_ids": [["c", "c", "gone", "b"]],
            "distances": [[9.0, 3.0, 1.0, 0.5]],
        }
    )
    preview = Pairs(unit="bits")
    upstream = pl.DataFrame({"video_id": [*paths], "path": [*paths.values()]})

    def sheet(preview: Pairs) -> list[list[str]]:
        rows = preview.of_upstream(row).join(upstream, on=[*preview.upstream_ids])
        return colors_of(jpeg(preview.show(rows, ["collection"])), 480, 68)

    assert sheet(preview) == [["red", "green"], ["red", "blue"], ["green", "blue"]]
    # Of many, near ones and less near ones.
    assert sheet(replace(preview, most=2)) == [["green", "blue"]]
    none = preview.of_upstream(row.with_columns(pl.col("^.*s$").list.head(0)))
    assert none.is_empty()
    assert preview.show(none, ["collection"]) is None


def test_the_nearest_frames_are_beside_each(tmp_path: Path) -> None:
    paths = plain(tmp_path, red="red", green="green", blue="blue", black="black")
    near = [
        # Vectors of other lengths than 1, with an angle in degrees.
        ("a", 0, 0.0, "red", 0, 2.0),
        ("a", 1, 9.0, "red", 1, 1.0),  # too soon after
        ("a", 2, 30.0, "green", 20, 5.0),
        ("b", 0, 0.0, "blue", 40, 1.0),
        ("b", 1, 1.0, "black", 41, 1.0),
        ("c", 0, 0.0, "black", 180, 3.0),
    ]
    rows = pl.DataFrame(
        [
            {
                "video_id": video,
                "frame_index": index,
                "time": time,
                "path": paths[color],
                "embedding": [
                    length * np.cos(np.radians(angle)),
                    length * np.sin(np.radians(angle)),
                ],
            }
            for video, index, time, color, angle, length in near
        ]
    )
    preview = Neighbours(most=4, nearest=2)
    named: list[list[str]] = []

    class Told(Neighbours):
        def lines(self, lines: Any, below: str) -> dg.MetadataValue:
            named[:] = [[name for _, name in line] for line in lines]
            return super().lines(lines, below)

    shown = Told(most=3, nearest=2).show(rows, IDS)
    assert named == [
        ["a  0:09", "0.95   a  0:30", "0.78   b  0:00"],
        ["b  0:01", "0.93   a  0:30", "0.77   a  0:09"],
        ["c  0:00", "-0.75   b  0:01", "-0.94   a  0:30"],
    ]
    assert colors_of(jpeg(shown), 200, 28) == [
        ["red", "green", "blue"],
        ["black", "green", "red"],
        ["black", "black", "green"],
    ]
    # Vectors that have no direction, and those of a former model, are near nothing.
    odd = rows.head(3).with_columns(
        embedding=pl.Series([[0.0, 0.0], [float("nan"), 1.0], [1.0]]), video_id=pl.lit("d")
    )
    again = Told(most=3, nearest=2).show(pl.concat([rows, odd]), IDS)
    assert len(named) == 3
    assert jpeg(again).size == jpeg(shown).size
    assert preview.show(odd, IDS) is None
    assert preview.show(rows.head(2), IDS) is None
    assert preview.show(rows.head(0), IDS) is None


def test_curves() -> None:
    rows = pl.DataFrame(
        {
            "video_id": ["a", "<b>", "c", "d"],
            "curve": [[-20.0, -25.5, -23.0], [-70.0], [], [float("nan"), None]],
        }
    )
    svg, _ = drawing(Curves("curve", "LUFS").show(rows, ["video_id"]))
    (line,) = [element for element in svg.iter() if element.tag.endswith("polyline")]
    assert len(line.get("points", "").split()) == 3
    (dot,) = [element for element in svg.iter() if element.tag.endswith("circle")]
    assert dot.get("cy") == "130"  # at the bottom
    assert {"a", "<b>", "LUFS", "-20", "-70", "3 s", "too short: c, d"} <= {*texts(svg)}
    none: Any = Curves("curve").show(rows[2:], ["video_id"])
    assert none.value == "too short: c, d"
    assert Curves("curve").show(rows[:0], ["video_id"]) is None
    share = pl.DataFrame({"video_id": ["a"], "brightness_curve": [[0.25, 0.5]]})
    svg, _ = drawing(Curves("brightness_curve", low=0, high=1).show(share, ["video_id"]))
    assert {"brightness", "0", "1"} <= {*texts(svg)}
    long = pl.DataFrame({"video_id": ["a"], "curve": [[float(i % 7) for i in range(7200)]]})
    svg, text = drawing(Curves("curve").show(long, ["video_id"]))
    assert "7200 s" in texts(svg)
    assert len(text) < 8_000


@pytest.mark.parametrize("values", [[1.0] * 13, [i**1.5 for i in range(10_000)]])
def test_a_histogram_is_seen_without_a_click(values: list[float]) -> None:
    rows = pl.DataFrame({"duration": [*values, None, float("inf")]})
    rows = rows.with_row_index("video_id")
    svg, text = drawing(Histogram("duration", "s").show(rows, ["video_id"]))
    assert len(text) < EXPANDED
    assert {f"{min(values):.4g} s", f"{max(values):.4g} s", "0", "videos"} <= {*texts(svg)}
    assert Histogram("duration").show(rows[-3:], ["video_id"]) is None


@pytest.mark.parametrize("name", ["a", "v" * 40, "視頻"])
def test_of_few_values_each_is_seen_with_its_name(name: str) -> None:
    values = [1234.5678 + i for i in range(12)]
    rows = pl.DataFrame({"video_id": [f"{i}{name}" for i in range(12)], "loud": values})
    preview = Histogram("loud", "LUFS")
    assert preview.title == "distribution of loud"
    svg, text = drawing(preview.show(rows, ["video_id"]))
    assert len(text) < EXPANDED
    shown = texts(svg)
    assert len(shown) == 12
    assert shown[0].startswith(f"0{name[:3]}")
    assert shown[0].endswith("1235 LUFS")
    svg, _ = drawing(preview.show(rows[:2].with_columns(loud=pl.Series([-20.0, -10])), IDS[:1]))
    (path,) = [element.get("d") for element in svg.iter() if element.tag.endswith("path")]
    assert path == "M170 10H186M170 24H350"


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
    none: Any = Lists("d", "bits", ("a", "b"), nothing="No pair.").show(rows[1:], [])
    assert none.value == "No pair."


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
            "time": [1.5, 1.5],
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
    assert bars == ["M100 4h130v16h-130z", "M230 4h130v16h-130z", "M165 26h1v16h-1z"]
    assert len(text) < EXPANDED
    assert Timeline().show(rows[:0], ["video_id", "scene_index"]) is None


def test_what_is_said_is_read_as_lines() -> None:
    rows = pl.DataFrame(
        {
            "video_id": ["a", "a", "b"],
            "segment_index": [0, 1, 0],
            "start": [0.0, 61.9, 2.0],
            "text": [" one", "two | *three*\n4", "x" * 9_000],
        }
    )
    shown: Any = Transcript("text").show(rows, ["video_id", "segment_index"])
    first, second = shown.value.split("\n\n")
    assert first == "**a**  \n0:00 one  \n1:01 two \\| \\*three\\* 4"
    assert second.startswith("**b**  \n0:02 xxx")
    assert len(shown.value) < 4_000
    assert Transcript("text").show(rows[:0], ["video_id", "segment_index"]) is None


def test_the_best_come_first() -> None:
    rows = pl.DataFrame(
        {
            "video_id": ["v"] * 40,
            "text_index": range(40),
            "text": [f"|{i}|" for i in range(40)],
            "score": [None, *(0.123456 + i / 100 for i in range(39))],
        }
    )
    shown: Any = Best("text").show(rows, ["video_id", "text_index"])
    assert len(shown.records) == 30
    assert shown.records[0].data == {"video_id": "v", "score": 0.5035, "text": "|39|"}


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
    assert "distribution of duration" in videos
    assert videos["samples per second"] > 0
    assert round(videos["hours"] * 3600) == round(sum(project.rows("clips/videos")["duration"]))
    assert [record.data["videos"] for record in videos["kinds of videos"].records] == [1, 1]
    sheet = project.metadata("clips/frames")["pictures"]
    assert jpeg(dg.MetadataValue.md(sheet)).width == 4 * 160 + 3 * 6
    # Of a partition, what is in it.
    wide = 2 * 160 + 6
    told = of_partition(project, "clips/frames", "bikes")
    assert told["dagster/partition_row_count"] == 2
    assert "width" not in told  # which of the two?
    assert jpeg(dg.MetadataValue.md(told["pictures"])).width == wide
    told = of_partition(project, "clips/videos", "bikes")
    assert (told["dagster/partition_row_count"], told["width"], told["new"]) == (1, 640, 1)
    assert not {"hours", "distribution of duration", "video_id"} & {*told}
    assert project.materialize("clips/frames", partition="bikes").success
    assert jpeg(dg.MetadataValue.md(project.metadata("clips/frames")["pictures"])).width == wide
    monkeypatch.setattr(Histogram, "show", broken)
    assert project.run_job().success
    shown = project.metadata("clips/audio")["distribution of duration"]
    assert shown == "cannot be shown: RuntimeError: no"
    assert issubclass(Histogram, Preview)


def of_partition(project: Project, key: str, partition: str) -> dict[str, Any]:
    """The metadata of the latest materialization of a partition."""
    (event,) = project.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(key.split("/")), asset_partitions=[partition]),
        limit=1,
    ).records
    assert event.asset_materialization is not None
    return {name: v.value for name, v in event.asset_materialization.metadata.items()}
