"""Videos whose partition a column of a table says, several of them in one."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from projects import Project, load_error
from tables import VideoTable
from watches import Watch

from dagster_metaxy.declare._dagster import failed_partitions

FILES = ("bikes", "portrait")
DAYS = "{type: daily, start_date: 2026-01-01, column: recorded_at}"

CAMERAS = dg.DynamicPartitionsDefinition(name="clips")


class Table(VideoTable):
    """Videos with the day and the camera of each; frames; and what is computed of frames."""

    columns = "id, location, recorded_at, camera"

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        project.add_clips("elsewhere", FILES)

    def put(self, video_id: str, recorded_at: str | None, camera: str | None, file: int) -> None:
        self.add(video_id, f"elsewhere/{FILES[file]}.mp4", recorded_at, camera)

    def declare(self, partitions: str, below: str = "", more: str = "") -> None:
        self.project.write(
            "clips/defs.yaml",
            f"""
            type: dagster_metaxy.PartitionedVideoComponent
            attributes:
              source:
                type: sql
                resource: database
                query: SELECT * FROM videos
                columns:
                  recorded_at: {{type: str, nullable: true}}
                  camera: {{type: str, nullable: true}}
              feature_prefix: clips
              partitions: {partitions}
              steps: [{{type: frames, count: 2, max_size: 64}}]
              {more}
            """,
        )
        if below:
            self.project.write(
                "sizes/defs.yaml",
                f"""
                type: dagster_metaxy.MetaxyAssetComponent
                attributes:
                  feature: clips/sizes
                  deps: [clips/frames]
                  id_columns: [video_id, frame_index]
                  columns: {{size: int}}
                  compute: .compute.size
                  partitions_def: {below}
                """,
            )
            self.project.write(
                "sizes/compute.py", "def size(sample): return {'size': sample['width']}"
            )

    def told(self, feature: str, column: str) -> dict[str, Any]:
        """By video, what the rows of a feature say."""
        return dict(self.project.rows(feature).select("video_id", column).unique().rows())

    def notes(self, feature: str) -> list[str]:
        """Of the latest run."""
        return str(self.project.metadata(feature).get("notes", "")).split("- ")


@pytest.fixture
def table(project: Project) -> Table:
    return Table(project)


ALL = ("clips/videos", "clips/frames", "clips/sizes")


def test_days(table: Table) -> None:
    project = table.project
    table.put("a", "2026-01-01", None, 0)
    table.put("b", "2026-01-01T23:30:00", None, 1)
    table.put("c", None, None, 0)
    table.put("d", "1999-12-31", None, 0)
    table.put("e", "some day", None, 0)
    # From one partition for each video, nothing is computed again.
    table.declare("dynamic")
    assert project.run_job().success
    table.declare(DAYS, "{type: daily, start_date: 2026-01-01, end_offset: 1}")
    assert project.run_job().success
    assert [project.counts(key)[0] for key in ALL] == [0, 0, 10]
    assert all(project.green(key) >= {"2026-01-01"} for key in ALL)
    for key in ALL:
        assert set(project.rows(key)["video_id"]) == set("abcde")
    (note,) = (n for n in table.notes("clips/videos") if "belong to no" in n)
    assert note.strip() == (
        "3 videos belong to no partition, so that only runs over all compute them: c: the column that"
        " names the partition is empty; d: no partition for 1999-12-31: it lies before the first; e:"
        " 'some day' is neither a partition key nor a date in ISO 8601"
    )

    # One moves to another day, of which alone there is a run: nothing is computed.
    table.execute("UPDATE videos SET recorded_at = '2026-01-02' WHERE id = 'b'")
    table.put("f", "2026-01-02", None, 0)
    table.put("g", "2026-01-03", None, 0)
    assert project.materialize(*ALL, partition="2026-01-02").success
    days = dict(
        zip("abcde", ("2026-01-01", "2026-01-02", None, "1999-12-31", "some day"), strict=True)
    )
    for key in ALL:
        assert table.told(key, "recorded_at") == {**days, "f": "2026-01-02"}
        rows = project.metadata(key)["dagster/partition_row_count"]
        assert rows == (2 if key == "clips/videos" else 4)
    assert [project.counts(key)[:2] for key in ALL] == [(1, 0), (1, 0), (2, 0)]

    # A run over all takes the rest, and nothing twice.
    assert project.run_job().success
    assert [project.counts(key)[:2] for key in ALL] == [(1, 0), (1, 0), (2, 0)]
    assert all(project.green(key) >= {f"2026-01-0{n}" for n in (1, 2, 3)} for key in ALL)
    assert not any("other values" in n for key in ALL for n in table.notes(key))


def test_cameras(table: Table) -> None:
    """Whose keys the sensor registers, also where a video moves, and a run over all removes."""
    project, watch = table.project, Watch(table.project)
    table.declare("{type: dynamic, column: camera}", more="remove_deleted_keys: true")
    for video_id, camera, file in (("a", "north", 0), ("b", "north", 1), ("c", "south", 0)):
        table.put(video_id, None, camera, file)
    data = watch.tick()
    assert set(project.instance.get_dynamic_partitions("clips")) == {"north", "south"}
    assert watch.run(data).success
    assert project.green("clips/frames") == {"north", "south"}

    table.execute("UPDATE videos SET camera = 'east' WHERE id = 'c'")
    data = watch.tick()
    assert set(project.instance.get_dynamic_partitions("clips")) == {"north", "south", "east"}
    assert watch.run(data).success
    assert project.counts("clips/videos") == project.counts("clips/frames") == (0, 0, 0, 0)
    assert project.green("clips/frames") >= {"north", "east"}
    assert set(project.instance.get_dynamic_partitions("clips")) == {"north", "east"}
    assert table.told("clips/frames", "camera") == {"a": "north", "b": "north", "c": "east"}
    assert not watch.tick().run_requests

    # A file that cannot be read is a failed sample of its camera.
    table.execute("UPDATE videos SET location = 'nowhere.mp4' WHERE id = 'b'")
    project.run_job(raise_on_error=False)
    (failure,) = project.metadata("clips/videos")["failed samples"].records
    assert failure.data["sample"] == "video_id=b"
    assert failed_partitions(project.instance, dg.AssetKey(["clips", "videos"]), CAMERAS) == {
        "north"
    }


@pytest.mark.parametrize(
    ("partitions", "message"),
    [
        (
            "{type: daily, start_date: 2026-01-01, column: recorded_att}",
            "the source keeps no column 'recorded_att' (kept: recorded_at, camera)",
        ),
        ("{type: static, partition_keys: [a], column: camera, pattern: (a)}", "`pattern` is about"),
        ("{type: hourly, start_date: 2026-01-01-00:00}", "name it in `column`"),
    ],
)
def test_wrong_columns(table: Table, partitions: str, message: str) -> None:
    table.declare(partitions)
    error = load_error(table.project)
    assert message in error
    assert "clips/defs.yaml" in error


def test_files_have_no_columns(table: Table) -> None:
    table.declare("{type: dynamic, column: camera}")
    file = table.project.sandbox.defs_folder_path / "clips/defs.yaml"
    lines = file.read_text().splitlines()
    start, end = lines.index("  source:"), lines.index("  feature_prefix: clips")
    file.write_text("\n".join([*lines[:start], "  source: elsewhere", *lines[end:]]))
    assert "files have no columns" in load_error(table.project)


def test_a_step_has_the_column_itself(table: Table) -> None:
    table.declare("{type: dynamic, column: camera}")
    file = table.project.sandbox.defs_folder_path / "clips/defs.yaml"
    file.write_text(file.read_text().replace("camera", "time"))
    assert "'clips/frames' has a column 'time' of its own" in load_error(table.project)
