"""The checks of a feature: with a run, by themselves, and in the collection's job."""

from __future__ import annotations

import re
from typing import Any, get_args

import dagster as dg
import media_tools
import polars as pl
import pytest
from projects import CLIPS, NAMES, Project

from dagster_metaxy.components._base import CheckName
from dagster_metaxy.report.checks import CHECKS

WORDS = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/words
      deps: [t/docs]
      id_columns: [doc]
      columns: {words: int}
      compute: .compute.words
    """

DOCS = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/docs
      deps: [t/sources]
      id_columns: [doc]
      columns: {pages: int}
      compute: .compute.docs
    """

COMPUTE = """
    def docs(sample):
        return {"pages": sample["pages"]}

    def words(sample):
        return {"words": 10 // sample["pages"]}
    """


@pytest.fixture
def docs(project: Project) -> Project:
    """`t/words` from `t/docs` from `t/sources`, which a class of Metaxy declares."""
    project.write("words/defs.yaml", WORDS)
    project.write("words/compute.py", COMPUTE)
    project.write("docs/defs.yaml", DOCS)
    project.write("docs/compute.py", COMPUTE)
    project.write(
        "sources.py",
        """
        import metaxy as mx


        class Sources(
            mx.BaseFeature, spec=mx.FeatureSpec(key="t/sources", id_columns=["doc"], fields=["text"])
        ):
            doc: str
            pages: int
        """,
    )
    config = project.root / "metaxy.toml"
    module = f"{project.sandbox.project_name}.defs.sources"
    config.write_text(config.read_text().replace('["dagster_metaxy.entrypoint"]', f'["{module}"]'))
    return project


def put(project: Project, key: str = "t/sources", **rows: Any) -> None:
    """Write samples of the root: version and number of pages."""
    write(project, key, [{"doc": doc, "pages": p, "v": v} for doc, (v, p) in rows.items()])


def write(project: Project, key: str, rows: list[dict[str, Any]]) -> None:
    """Write rows by hand, in one commit."""
    project.load()
    frame = pl.DataFrame(rows).with_columns(
        pl.struct(pl.col("v").cast(pl.String).alias("text")).alias("metaxy_provenance_by_field")
    )
    with project.store().open("w") as store:
        store.write(key, frame.drop("v"))


def evaluate(project: Project, *keys: str, names: tuple[str, ...] = tuple(CHECKS)) -> None:
    """Run checks by themselves, as a click on `Execute check` does."""
    job = project.load().get_repository_def().get_implicit_global_asset_job_def()
    result = job.get_subset(
        asset_selection=set(),
        asset_check_selection={
            dg.AssetCheckKey(dg.AssetKey(key.split("/")), name) for key in keys for name in names
        },
    ).execute_in_process(instance=project.instance)
    assert result.success
    assert not result.asset_materializations_for_node(keys[0].replace("/", "__"))


def latest(project: Project, key: str) -> dict[str, Any]:
    """The latest evaluation of each check that has one."""
    found = {}
    for name in CHECKS:
        records = project.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(key.split("/")), name), limit=1
        )
        for record in records:
            assert record.event is not None
            found[name] = record.event.dagster_event.event_specific_data  # type: ignore[union-attr]
    return found


def warned(project: Project, key: str) -> set[str]:
    found = latest(project, key)
    assert set(found) == set(CHECKS)
    assert all(c.severity == dg.AssetCheckSeverity.WARN for c in found.values())
    return {name for name, evaluation in found.items() if not evaluation.passed}


def named(project: Project, key: str, check: str) -> list[str]:
    """The samples that a check names."""
    table = latest(project, key)[check].metadata["first samples"].value
    return [record.data["sample"] for record in table.records]


def test_the_names_are_those_of_the_schema() -> None:
    assert get_args(CheckName) == tuple(CHECKS)


def test_a_run_evaluates_all_and_nothing_is_wrong(docs: Project) -> None:
    put(docs, a=(1, 1), b=(1, 2))
    assert docs.materialize("t/docs", "t/words").success
    assert warned(docs, "t/docs") == set()
    assert warned(docs, "t/words") == set()


def test_a_failed_sample_is_missing(docs: Project) -> None:
    put(docs, a=(1, 1), zero=(1, 0))
    docs.materialize("t/docs", "t/words")
    assert warned(docs, "t/words") == {"no_failed_samples", "nothing_missing"}
    assert named(docs, "t/words", "nothing_missing") == ["doc=zero"]


def test_by_themselves_without_materializing(docs: Project) -> None:
    put(docs, a=(1, 1), b=(1, 2), zero=(1, 0))
    docs.materialize("t/docs", "t/words")
    put(docs, a=(2, 3), c=(1, 3))
    evaluate(docs, "t/docs")
    assert warned(docs, "t/docs") == {"nothing_stale", "nothing_missing"}
    assert named(docs, "t/docs", "nothing_stale") == ["doc=a"]
    assert named(docs, "t/docs", "nothing_missing") == ["doc=c"]
    evaluate(docs, "t/words")
    # It compares with its upstream as that is now, and repeats what failed last.
    assert warned(docs, "t/words") == {"no_failed_samples", "nothing_missing"}
    assert {row["doc"] for row in docs.rows("t/words").to_dicts()} == {"a", "b"}
    docs.materialize("t/docs")
    evaluate(docs, "t/words", names=("nothing_stale",))
    assert warned(docs, "t/words") == {"no_failed_samples", "nothing_stale", "nothing_missing"}


def test_a_feature_that_was_never_written(docs: Project) -> None:
    put(docs, a=(1, 1), b=(1, 2))
    evaluate(docs, "t/docs", "t/words")
    assert warned(docs, "t/docs") == {"nothing_missing"}
    assert named(docs, "t/docs", "nothing_missing") == ["doc=a", "doc=b"]
    assert warned(docs, "t/words") == set()
    description = latest(docs, "t/words")["nothing_missing"].description
    assert description == "nothing to compute yet: t/docs has no rows"


def test_an_upstream_that_has_not_run_since_its_code_changed(docs: Project) -> None:
    put(docs, a=(1, 1), b=(1, 2))
    docs.materialize("t/docs", "t/words")
    yaml = docs.sandbox.defs_folder_path / "docs/defs.yaml"
    yaml.write_text(
        yaml.read_text().replace(
            "compute:", "fields: [{key: default, code_version: 2}]\n  compute:"
        )
    )
    evaluate(docs, "t/docs", "t/words")
    assert warned(docs, "t/docs") == {"nothing_stale"}
    assert warned(docs, "t/words") == set()
    for check in ("nothing_stale", "nothing_missing"):
        description = latest(docs, "t/words")[check].description
        assert description.startswith("2 samples cannot be told before ")
    docs.materialize("t/docs")
    evaluate(docs, "t/words")
    assert warned(docs, "t/words") == {"nothing_stale"}
    assert latest(docs, "t/words")["nothing_missing"].description is None
    docs.materialize("t/words")
    assert warned(docs, "t/words") == set()


def test_duplicates_of_one_commit_and_null_ids(docs: Project) -> None:
    put(docs, a=(1, 1), b=(1, 1), c=(1, 1), d=(1, 1))
    docs.materialize("t/docs")
    rows = [{"doc": doc, "pages": 7, "v": 1} for doc in ("a", "a", "b", None, "c", "c", "d", "d")]
    write_same_provenance(docs, rows)
    # Written anew, or deleted, since: a sample's history, with nothing hidden.
    write_same_provenance(docs, [{"doc": "c", "pages": 1, "v": 1}])
    drop(docs, "d")
    evaluate(docs, "t/docs", names=("no_duplicate_ids", "no_null_ids"))
    found = latest(docs, "t/docs")
    assert not found["no_duplicate_ids"].passed
    assert named(docs, "t/docs", "no_duplicate_ids") == ["doc=a"]
    assert named(docs, "t/docs", "no_null_ids") == ["doc=None"]


def write_same_provenance(project: Project, rows: list[dict[str, Any]]) -> None:
    """Write rows of `t/docs` by hand."""
    project.load()
    frame = (
        pl.DataFrame(rows)
        .select("doc", "pages")
        .with_columns(
            pl.struct(pl.lit("1").alias("default")).alias("metaxy_provenance_by_field"),
            pl.lit("1").alias("metaxy_provenance"),
        )
    )
    with project.store().open("w") as store:
        store.write("t/docs", frame)


def drop(project: Project, doc: str) -> None:
    import narwhals as nw

    with project.store().open("w") as store:
        store.delete("t/docs", nw.col("doc") == doc)


@pytest.mark.parametrize("names", [[], ["nothing_stale"]])
def test_which_checks_there_are(docs: Project, names: list[str]) -> None:
    yaml = docs.sandbox.defs_folder_path / "docs/defs.yaml"
    yaml.write_text(yaml.read_text().replace("compute:", f"checks: {names}\n  compute:"))
    put(docs, a=(1, 1))
    keys = docs.load().resolve_asset_graph().asset_check_keys
    assert {k.name for k in keys if k.asset_key == dg.AssetKey(["t", "docs"])} == set(names)
    assert docs.materialize("t/docs").success
    assert set(latest(docs, "t/docs")) == set(names)


def test_an_unknown_check_is_located(docs: Project) -> None:
    yaml = docs.sandbox.defs_folder_path / "docs/defs.yaml"
    yaml.write_text(yaml.read_text().replace("compute:", "checks: [nothing_stael]\n  compute:"))
    with pytest.raises(Exception, match="Error while building definitions for docs") as caught:
        docs.load()
    assert re.search(
        r"docs/defs.yaml:\d+:\d+: checks.0: .*nothing_stael", str(caught.value.__cause__)
    )


class TestVideos:
    def test_the_job_reports_them(self, videos: Project) -> None:
        assert videos.run_job().success
        for key in ("clips/videos", "clips/frames", "clips/audio"):
            assert warned(videos, key) == set()

    def test_the_source_is_listed_and_no_file_is_opened(self, videos: Project) -> None:
        videos.run_job()
        folder = videos.root / "videos"
        media_tools.replace_audio(
            CLIPS / "bikes.mp4", CLIPS.parent / "tests/media/dub.wav", folder / "bikes.mp4"
        )
        (folder / "unread.mp4").write_bytes(b"no video at all")
        evaluate(videos, "clips/videos")
        assert warned(videos, "clips/videos") == {"nothing_stale", "nothing_missing"}
        assert named(videos, "clips/videos", "nothing_stale") == ["video_id=bikes"]
        assert named(videos, "clips/videos", "nothing_missing") == ["video_id=unread"]
        description = latest(videos, "clips/videos")["nothing_stale"].description
        assert "the next run finds out" in description

    def test_a_partition_run_speaks_of_the_whole_feature(self, videos: Project) -> None:
        videos.instance.add_dynamic_partitions("clips", list(NAMES))
        videos.materialize("clips/videos", "clips/frames", partition="bikes")
        assert warned(videos, "clips/videos") == {"nothing_missing"}
        description = latest(videos, "clips/videos")["nothing_missing"].description
        assert description.startswith("of the whole feature, 2 samples are missing: video_id=big")
        assert warned(videos, "clips/frames") == set()
        # and by themselves, without a partition
        evaluate(videos, "clips/videos", "clips/frames")
        assert warned(videos, "clips/videos") == {"nothing_missing"}

    def test_a_partition_that_fails_reports_them_too(self, videos: Project) -> None:
        (videos.root / "videos/bikes.mp4").write_bytes(b"")
        videos.instance.add_dynamic_partitions("clips", list(NAMES))
        tags = {
            "dagster/asset_partition_range_start": "bigbuckbunny",
            "dagster/asset_partition_range_end": "portrait",
        }
        videos.materialize("clips/videos", tags=tags, raise_on_error=False)
        assert warned(videos, "clips/videos") == {"no_failed_samples", "nothing_missing"}
        assert named(videos, "clips/videos", "nothing_missing") == ["video_id=bikes"]

    def test_a_source_that_is_gone_is_an_error(self, videos: Project) -> None:
        videos.run_job()
        (videos.root / "videos").rename(videos.root / "elsewhere")
        with pytest.raises(dg.Failure, match="does not exist"):
            evaluate(videos, "clips/videos")
