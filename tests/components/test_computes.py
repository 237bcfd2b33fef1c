"""Computes of every lineage and form, from YAML to rows."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
from projects import Project

VIDEOS = """
    type: dagster_metaxy.PartitionedVideoComponent
    attributes:
      source: videos
      feature_prefix: clips
      steps: [{type: frames, every_seconds: 2, max_size: 64}]
    """


@pytest.fixture
def clips(project: Project) -> Project:
    project.add_clips(names=("bigbuckbunny", "bikes"))
    project.write("clips/defs.yaml", VIDEOS)
    return project


def _define(project: Project, compute: str, attributes: str) -> None:
    project.write("own/compute.py", compute)
    project.write(
        "own/defs.yaml",
        "type: dagster_metaxy.MetaxyAssetComponent\nattributes:\n  feature: clips/own\n"
        "  compute: .compute.own\n" + attributes,
    )


PER_FRAME = "  deps: [clips/frames]\n  id_columns: [video_id, frame_index]\n  columns: {x: int}\n"
PER_VIDEO = "  deps: [clips/videos]\n  id_columns: [video_id]\n  columns: {x: int}\n"
GROUPED = (
    "  deps: [{feature: clips/frames, lineage: {type: aggregation, on: [video_id]}}]\n"
    "  id_columns: [video_id]\n  columns: {x: int}\n"
)
EXPANDED = (
    "  deps: [{feature: clips/videos, lineage: {type: expansion, on: [video_id]}}]\n"
    "  id_columns: [video_id, part]\n  columns: {part: int, x: str}\n"
)


def test_aggregation(clips: Project) -> None:
    _define(clips, "def own(samples): return {'x': len(samples)}\n", GROUPED)
    clips.run_job()
    assert clips.counts("clips/own") == (2, 0, 0, 0)
    assert dict(clips.rows("clips/own").select("video_id", "x").rows()) == {
        "bigbuckbunny": 3, "bikes": 5,
    }  # fmt: skip
    yaml = clips.sandbox.defs_folder_path / "clips/defs.yaml"
    yaml.write_text(yaml.read_text().replace("every_seconds: 2", "every_seconds: 5"))
    clips.run_job()
    assert dict(clips.rows("clips/own").select("video_id", "x").rows()) == {
        "bigbuckbunny": 2, "bikes": 2,
    }  # fmt: skip
    (clips.root / "videos/bikes.mp4").unlink()
    clips.run_job()
    assert clips.counts("clips/own") == (0, 0, 1, 0)


def test_expansion(clips: Project) -> None:
    compute = """
        def own(sample):
            for part in range(int(sample["duration"]) // 5 + 1):
                yield {"part": part, "x": f"{sample['video_id']}-{part}"}
        """
    _define(clips, compute, EXPANDED)
    clips.run_job()
    assert sorted(clips.rows("clips/own")["x"]) == [
        "bigbuckbunny-0", "bigbuckbunny-1", "bikes-0", "bikes-1", "bikes-2",
    ]  # fmt: skip


def test_artifacts_of_ones_own(clips: Project) -> None:
    compute = """
        def own(sample, context):
            for part in range(2):
                file = context.artifacts / f"{part}.txt"
                file.write_text(context.run_id)
                yield {"part": part, "x": str(file)}
        """
    _define(clips, compute, EXPANDED)
    result = clips.run_job()
    files = [Path(path) for path in clips.rows("clips/own")["x"]]
    assert len(files) == 4
    assert {file.read_text() for file in files} == {result.run_id}
    assert all(clips.root / "data/artifacts/clips__own" in file.parents for file in files)
    # where no compute asks for a folder, there is none
    there = {p.name for p in (clips.root / "data/artifacts").iterdir()}
    assert there == {"clips__frames", "clips__own"}


BATCH = """
    import polars as pl

    def own(samples: pl.DataFrame) -> pl.DataFrame:
        assert len(samples) <= 3
        if len(samples) > 1 and "bikes" in samples["video_id"]:
            raise RuntimeError("not in company")
        return samples.select("video_id", {more} x=pl.col("width").cast(pl.Int64))
    """


def test_batches_and_who_in_them_failed(clips: Project) -> None:
    compute = BATCH.replace("{more}", '"frame_index",').replace(
        'len(samples) > 1 and "bikes" in samples["video_id"]',
        '((samples["video_id"] == "bikes") & (samples["frame_index"] == 2)).any()',
    )
    _define(clips, compute, PER_FRAME + "  batch_size: 3\n")
    clips.run_job()
    assert clips.counts("clips/own") == (8, 0, 0, 1)
    record = clips.metadata("clips/own")["failed samples"].records[0].data
    assert record["sample"] == "video_id=bikes, frame_index=2"
    assert clips.rows("clips/own").height == 7


def test_a_batch_that_names_another_sample(clips: Project) -> None:
    compute = """
        import polars as pl

        def own(samples: pl.DataFrame) -> pl.DataFrame:
            return pl.DataFrame({"video_id": ["other"], "x": [1]})
        """
    _define(clips, compute, PER_VIDEO)
    with pytest.raises(dg.Failure, match=r"names \('other',\), which was not asked"):
        clips.run_job()


def test_batches_of_groups_and_of_parents(clips: Project) -> None:
    compute = """
        import polars as pl

        def own(samples: pl.DataFrame) -> pl.DataFrame:
            return samples.group_by("video_id").agg(x=pl.len().cast(pl.Int64))
        """
    _define(clips, compute, GROUPED)
    clips.run_job()
    assert dict(clips.rows("clips/own").select("video_id", "x").rows()) == {
        "bigbuckbunny": 3, "bikes": 5,
    }  # fmt: skip
    compute = """
        import polars as pl

        def own(samples: "pl.DataFrame"):
            parts = pl.DataFrame({"part": [0, 1]})
            return samples.select("video_id").join(parts, how="cross").with_columns(x=pl.lit("p"))
        """
    _define(clips, compute, EXPANDED)
    yaml = clips.sandbox.defs_folder_path / "own/defs.yaml"
    yaml.write_text(yaml.read_text().replace("clips/own", "clips/parts"))
    clips.run_job()
    assert clips.rows("clips/parts").height == 4


def test_a_class_is_made_once_per_worker(clips: Project) -> None:
    compute = """
        class own:
            made = 0

            def __init__(self):
                type(self).made += 1

            def __call__(self, sample):
                return {"x": type(self).made}
        """
    _define(clips, compute, PER_FRAME)
    clips.run_job()
    assert clips.rows("clips/own")["x"].to_list() == [1] * 8


def test_params_count_as_code_version_if_one_says_so(clips: Project) -> None:
    compute = "def own(sample, *, factor, offset=1): return {'x': factor + offset}\n"
    _define(clips, compute, PER_VIDEO + "  params: {factor: 3}\n")
    clips.run_job()
    assert clips.rows("clips/own")["x"].to_list() == [4, 4]
    _define(clips, compute, PER_VIDEO + "  params: {factor: 4}\n")
    clips.run_job()
    assert clips.counts("clips/own") == (0, 0, 0, 0)
    for factor, stale in ((4, 2), (4, 0), (5, 2)):
        more = f"  params: {{factor: {factor}}}\n  params_in_code_version: true\n"
        _define(clips, compute, PER_VIDEO + more)
        clips.run_job()
        assert clips.counts("clips/own") == (0, stale, 0, 0)


def test_resources_by_name(clips: Project) -> None:
    _define(clips, "def own(sample, model): return {'x': model.size}\n", PER_VIDEO)
    clips.write(
        "resources.py",
        """
        import dagster as dg


        class Model(dg.ConfigurableResource):
            size: int


        @dg.definitions
        def resources():
            return dg.Definitions(resources={"model": Model(size=7)})
        """,
    )
    clips.run_job()
    assert clips.rows("clips/own")["x"].to_list() == [7, 7]


def test_hard_deletion(clips: Project) -> None:
    _define(clips, "def own(sample): return {'x': 1}\n", PER_VIDEO + "  orphans: hard\n")
    clips.run_job()
    (clips.root / "videos/bikes.mp4").unlink()
    clips.run_job()
    assert clips.counts("clips/own") == (0, 0, 1, 0)
    with clips.store().open("r") as store:
        rows = store.read("clips/own", with_sample_history=True, include_soft_deleted=True)
        assert len(rows.collect()) == 1


@pytest.mark.parametrize(
    ("compute", "attributes", "message"),
    [
        ("def own(): ...", PER_VIDEO, "own takes no sample"),
        ("class own: ...", PER_VIDEO, "own is a class without __call__"),
        (
            "def own(sample, factor): ...",
            PER_VIDEO + "  params: {facto: 1}\n",
            "own has no parameter 'facto', which params sets; it has: factor",
        ),
        (
            "def own(samples: 'pl.DataFrame', context): ...",
            PER_VIDEO,
            "own takes a batch, which has no context",
        ),
        ("def own(sample): ...", PER_VIDEO + "  workers: 0\n", "workers: must be 1 or more"),
        (
            "def own(sample): ...",
            GROUPED.replace("[video_id]}", "[frame_index]}"),
            "an aggregation needs frame_index in both",
        ),
        (
            "def own(sample): ...",
            EXPANDED.replace("[video_id, part]", "[video_id]"),
            "its samples have further ones",
        ),
        (
            "def own(sample): ...",
            PER_VIDEO.replace("[video_id]", "[video_id, frame_index]"),
            "For one from a group, write `lineage: aggregation`",
        ),
        (
            "def own(sample): ...",
            PER_VIDEO + "  fields: [{key: a, deps: [{feature: clips/videos, fields: [sound]}]}]\n",
            "'clips/videos' has no field 'sound'; it has: video, audio",
        ),
        (
            "def own(sample): ...",
            PER_VIDEO + "  fields: [{key: a, deps: [{feature: clips/frames}]}]\n",
            "which is none of the feature's deps",
        ),
        (
            "def own(samples): ...",
            GROUPED.replace("deps: [", "deps: [{feature: clips/audio, lineage: aggregation}, "),
            "clips/audio and clips/frames are both aggregated",
        ),
        (
            "def own(sample): ...",
            PER_VIDEO.replace("[clips/videos]", "[{feature: clips/videos, rename: {sise: s}}]"),
            "'clips/videos' has no column 'sise'",
        ),
    ],
)
def test_what_does_not_fit_is_located(
    clips: Project, compute: str, attributes: str, message: str
) -> None:
    _define(clips, compute, attributes)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        clips.load()
    text = str(caught.value.__cause__ or caught.value)
    assert message in text
    assert re.search(r"own/defs\.yaml:\d+:\d+: ", text)
