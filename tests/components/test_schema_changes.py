"""Columns that change after a feature has been computed: done right, or refused with a way out."""

from __future__ import annotations

import shutil

import dagster as dg
import pytest
from projects import Project

VIDEOS = """
    type: dagster_metaxy.PartitionedVideoComponent
    attributes: {source: videos, feature_prefix: clips}
    """


def _define(project: Project, columns: str, returned: str, version: int = 1) -> None:
    project.write("own/compute.py", f"def own(sample): return {returned}\n")
    project.write(
        "own/defs.yaml",
        f"""
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: clips/own
          deps: [clips/videos]
          id_columns: [video_id]
          columns: {{{columns}}}
          fields: [{{key: default, code_version: {version}}}]
          compute: .compute.own
        """,
    )


@pytest.fixture
def own(project: Project) -> Project:
    project.add_clips(names=("bikes",))
    project.write("clips/defs.yaml", VIDEOS)
    _define(project, "x: int", "{'x': 5}")
    project.run_job()
    return project


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("type_", "value"), [("float", "5.7"), ("str", "'five'"), ("list[float]", "[1.0]")]
)
def test_another_type_is_refused_and_the_way_out_works(
    own: Project, version: int, type_: str, value: str
) -> None:
    _define(own, f'x: "{type_}"', f"{{'x': {value}}}", version)
    with pytest.raises(dg.Failure, match=r"'x' is stored as Int64, but declared as .*own\.delta"):
        own.run_job()
    with own.store().open("r") as store:
        kept = store.read("clips/own", with_feature_history=True).collect()
        assert kept["x"].to_list() == [5]
    shutil.rmtree(own.root / "data/metaxy/clips/own.delta")
    own.run_job()
    assert own.rows("clips/own").height == 1


def test_another_column_needs_another_code_version(own: Project) -> None:
    _define(own, "x: int, y: int", "{'x': 5, 'y': 6}")
    with pytest.raises(dg.Failure, match=r"'y' was declared after 1 sample.*new code_version"):
        own.run_job()
    _define(own, "x: int, y: int", "{'x': 5, 'y': 6}", 2)
    own.run_job()
    assert own.counts("clips/own") == (0, 1, 0, 0)
    assert own.rows("clips/own")["y"].to_list() == [6]


def test_a_nullable_column_may_come_later(own: Project) -> None:
    _define(own, "x: int, y: {type: int, nullable: true}", "{'x': 5, 'y': 6}")
    own.run_job()
    assert own.counts("clips/own") == (0, 0, 0, 0)


def test_a_column_may_go(own: Project) -> None:
    _define(own, "y: int", "{'y': 6}", 2)
    own.run_job()
    assert own.rows("clips/own")["y"].to_list() == [6]


def test_other_id_columns_are_refused(own: Project) -> None:
    yaml = own.sandbox.defs_folder_path / "own/defs.yaml"
    lineage = "[{feature: clips/videos, lineage: {type: expansion, on: [video_id]}}]"
    text = yaml.read_text().replace("[clips/videos]", lineage)
    yaml.write_text(text.replace("[video_id]\n", "[video_id, x]\n"))
    own.write("own/compute.py", "def own(sample): yield {'x': 1}\n")
    own.run_job()  # x is a column of before, and may as well name samples
    text = yaml.read_text().replace("[video_id, x]", "[video_id, part]")
    yaml.write_text(text.replace("{x: int}", "{part: int}"))
    with pytest.raises(dg.Failure, match="have no column 'part'"):
        own.run_job()
