"""MetaxyAssetComponent: a compute of one's own, in YAML and in Python, right and wrong."""

from __future__ import annotations

import dagster as dg
import metaxy as mx
import pytest
from projects import Project, load_error

from dagster_metaxy import extras

YAML = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: clips/sizes
      description: How large each video is.
      group_name: mine
      owners: ["team:media"]
      tags: {domain: media}
      kinds: [python]
      automation_condition: "{{ dg.AutomationCondition.eager() }}"
      deps:
        - feature: clips/videos
          columns: [size, duration]
      id_columns: [video_id]
      columns:
        rate: float
        label: {type: str, nullable: true, description: A word.}
      compute: .compute.sizes
    """

COMPUTE = """
    def sizes(sample):
        return {"rate": sample["size"] / sample["duration"], "label": None}
    """

VIDEOS = """
    type: dagster_metaxy.PartitionedVideoComponent
    attributes: {source: videos, feature_prefix: clips}
    """


@pytest.fixture
def sizes(project: Project) -> Project:
    project.add_clips()
    project.write("clips/defs.yaml", VIDEOS)
    project.write("sizes/defs.yaml", YAML)
    project.write("sizes/compute.py", COMPUTE)
    return project


def _edit(project: Project, old: str, new: str, file: str = "sizes/defs.yaml") -> None:
    path = project.sandbox.defs_folder_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_asset_shows_what_was_declared(sizes: Project) -> None:
    spec = sizes.load().resolve_asset_graph().get(dg.AssetKey(["clips", "sizes"]))
    assert spec.group_name == "mine"
    assert spec.description == "How large each video is."
    assert list(spec.owners) == ["team:media"]
    assert spec.tags["domain"] == "media"
    assert {"metaxy", "python"} <= set(spec.kinds)
    assert spec.automation_condition == dg.AutomationCondition.eager()
    assert spec.parent_keys == {dg.AssetKey(["clips", "videos"])}
    assert (spec.code_version or "").startswith("metaxy:")
    columns = {c.name: c for c in spec.metadata["dagster/column_schema"].columns}
    assert columns["label"].description == "A word."


def test_how_dagster_runs_it(sizes: Project) -> None:
    _edit(
        sizes,
        "compute: .compute",
        "retry_policy: {max_retries: 3, delay: 1.5, backoff: linear}\n  pool: gpu\n"
        "  op_tags: {a: b}\n  partitions_def: {type: static, partition_keys: [x]}\n"
        "  backfill_policy: {type: multi_run, max_partitions_per_run: 10}\n"
        "  freshness_policy: '{{ dg.FreshnessPolicy.time_window("
        "fail_window=datetime.timedelta(days=1)) }}'\n"
        "  compute: .compute",
    )
    defs = sizes.load()
    (asset,) = (
        a
        for a in defs.resolve_asset_graph().assets_defs
        if dg.AssetKey(["clips", "sizes"]) in a.keys
    )
    assert asset.op.retry_policy == dg.RetryPolicy(3, 1.5, dg.Backoff.LINEAR)
    assert asset.op.pool == "gpu"
    assert asset.op.tags["a"] == "b"
    assert asset.backfill_policy == dg.BackfillPolicy.multi_run(10)
    spec = asset.get_asset_spec(dg.AssetKey(["clips", "sizes"]))
    assert spec.freshness_policy is not None
    assert set(defs.resolve_job_def("clips").graph.node_dict) - {"report_failures"} == {
        "update_clips__videos", "update_clips__sizes",
    }  # fmt: skip


def test_a_subclass_changes_what_is_shown_and_done(sizes: Project) -> None:
    sizes.write(
        "lib.py",
        """
        import dagster as dg

        from dagster_metaxy import MetaxyAssetComponent


        class Mine(MetaxyAssetComponent):
            def get_asset_spec(self, asset):
                return super().get_asset_spec(asset).merge_attributes(tags={"mine": "yes"})

            def execute(self, context, asset, project):
                context.log.info("before")
                yield from super().execute(context, asset, project)
        """,
    )
    module = f"{sizes.sandbox.project_name}.defs.lib.Mine"
    _edit(sizes, "dagster_metaxy.MetaxyAssetComponent", module)
    spec = sizes.load().resolve_asset_graph().get(dg.AssetKey(["clips", "sizes"]))
    assert spec.tags["mine"] == "yes"
    result = sizes.materialize("clips/sizes", "clips/videos")
    assert sizes.counts("clips/sizes") == (3, 0, 0, 0)
    logs = sizes.instance.all_logs(result.run_id)
    assert any("before" in (entry.user_message or "") for entry in logs)


def test_steps_of_one_run_go_in_order_and_only_changes_are_computed(sizes: Project) -> None:
    # Named before its upstream, and loaded before it: the op's own deps decide the order.
    assert sizes.materialize("clips/sizes", "clips/videos").success
    assert sizes.counts("clips/sizes") == (3, 0, 0, 0)
    row = next(r for r in sizes.rows("clips/sizes").to_dicts() if r["video_id"] == "bikes")
    assert row["rate"] == pytest.approx(509868 / 10, rel=0.02)
    metadata = sizes.metadata("clips/sizes")
    assert metadata["dagster/row_count"] == 3
    assert metadata["seconds"] > 0
    preview = metadata["preview"]
    assert {r.data["video_id"] for r in preview.records} == {"bikes", "bigbuckbunny", "portrait"}
    assert set(preview.records[0].data) == {"video_id", "rate", "label"}

    (sizes.root / "videos/bikes.mp4").unlink()
    assert sizes.materialize("clips/sizes", "clips/videos").success
    assert sizes.counts("clips/sizes") == (0, 0, 1, 0)
    assert set(sizes.rows("clips/sizes")["video_id"]) == {"bigbuckbunny", "portrait"}


def test_new_code_version_recomputes(sizes: Project) -> None:
    sizes.materialize("clips/sizes", "clips/videos")
    _edit(
        sizes,
        "columns:\n    rate",
        "fields: [{key: default, code_version: 2}]\n  columns:\n    rate",
    )
    sizes.materialize("clips/sizes")
    assert sizes.counts("clips/sizes") == (0, 3, 0, 0)


def test_a_failing_sample_stops_no_other(sizes: Project) -> None:
    _edit(
        sizes,
        "return {",
        "assert 'bikes' not in sample['video_id'], 'no bikes'\n    return {",
        "sizes/compute.py",
    )
    assert sizes.materialize("clips/sizes", "clips/videos").success
    assert sizes.counts("clips/sizes") == (3, 0, 0, 1)
    record = sizes.metadata("clips/sizes")["failed samples"].records[0].data
    assert str(record.pop("where")).endswith("sizes/compute.py:2")
    assert record == {
        "sample": "video_id=bikes",
        "error": "AssertionError",
        "message": "no bikes",
        "attempts": 1,
        "last": "now",
    }
    _edit(sizes, "'bikes' not in", "True or 'bikes' not in", "sizes/compute.py")
    sizes.materialize("clips/sizes")
    assert sizes.counts("clips/sizes") == (0, 0, 0, 0)
    yaml = sizes.sandbox.defs_folder_path / "sizes/defs.yaml"
    yaml.write_text(yaml.read_text() + "  fields: [{key: default, code_version: mended}]\n")
    sizes.materialize("clips/sizes")
    assert sizes.counts("clips/sizes") == (1, 2, 0, 0)


def test_where_every_sample_fails_the_asset_fails(sizes: Project) -> None:
    _edit(sizes, 'sample["size"]', 'sample["sise"]', "sizes/compute.py")
    with pytest.raises(dg.Failure, match=r"3 samples failed:\n.*KeyError: 'sise'"):
        sizes.materialize("clips/sizes", "clips/videos")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ('{"rat": 1.0}', "sample video_id=.*: the compute returned the unknown column 'rat'"),
        ('{"label": "x"}', "sample video_id=.*: the compute did not return column 'rate'"),
        ("3", "sample video_id=.*: the compute returned int, not a mapping"),
        ('{"rate": 1.0, "video_id": "x"}', "'x' as 'video_id', which names another sample"),
        ('{"rate": "fast"}', "video_id=.*: ColumnError: column 'rate' should be float, got str"),
        ('{"rate": None}', "video_id=.*: ColumnError: column 'rate' is null"),
    ],
)
def test_wrong_rows_are_told_with_the_sample(sizes: Project, returned: str, message: str) -> None:
    sizes.write("sizes/compute.py", f"def sizes(sample):\n    return {returned}\n")
    with pytest.raises(dg.Failure, match=message):
        sizes.materialize("clips/sizes", "clips/videos")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("compute: .compute.sizes", "compute: .compute.size", 17, "has no function 'size'; it has: sizes. Did you mean 'sizes'?"),
        ("compute: .compute.sizes", "compute: .computes.sizes", 17, "computes.py to take 'sizes' from"),
        ("compute: .compute.sizes", "compute: nowhere.at.all", 17, "there is no installed module nowhere.at"),
        ("compute: .compute.sizes", "compute: sizes", 17, "'sizes' names no function"),
        ("rate: float", "rate: flaot", 15, "flaot"),
        ("feature: clips/videos", "feature: clips/vidoes", 11, "no feature 'clips/vidoes' is declared. Did you mean 'clips/videos'?"),
        ("columns: [size, duration]", "columns: [size, durations]", 12, "'clips/videos' has no column 'durations'"),
        ("id_columns: [video_id]", "id_columns: [video]", 13, "a sample of 'clips/sizes' is named by video"),
        ("description: How", "descripton: How", None, "descripton"),
        ("group_name: mine", "group_name: [mine]", 5, "group_name"),
    ],
)  # fmt: skip
def test_errors_in_yaml_have_file_and_line(
    sizes: Project, old: str, new: str, line: int | None, message: str
) -> None:
    _edit(sizes, old, new)
    text = load_error(sizes)
    assert message in text
    assert "sizes/defs.yaml" in text
    if line is not None:
        assert f"defs.yaml:{line}" in text, text


def test_import_failure_in_the_compute_is_located(sizes: Project) -> None:
    sizes.write("sizes/compute.py", "import not_there_at_all\ndef sizes(sample): ...\n")
    text = load_error(sizes)
    assert "No module named 'not_there_at_all'" in text
    assert "sizes/defs.yaml:17" in text


def test_two_components_of_one_feature(sizes: Project) -> None:
    sizes.write("again/defs.yaml", YAML)
    sizes.write("again/compute.py", COMPUTE)
    text = load_error(sizes)
    assert "the feature 'clips/sizes' is declared twice: here and at" in text
    assert "again/defs.yaml" in text
    assert "sizes/defs.yaml" in text


def test_the_component_at_fault_is_blamed(sizes: Project) -> None:
    _edit(sizes, "feature: clips/videos", "feature: clips/vidoes")
    text = load_error(sizes)
    assert "Error while building definitions for sizes[0]" in text
    assert "definitions for clips" not in text


def test_unknown_store(sizes: Project) -> None:
    _edit(sizes, "compute: .compute", "store: prod\n  compute: .compute")
    text = load_error(sizes)
    assert "metaxy.toml has no store 'prod'; it has: dev" in text
    assert "sizes/defs.yaml:17" in text


def test_a_bug_in_the_compute_has_its_place_and_its_traceback_once(
    sizes: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    _edit(sizes, 'sample["duration"]', 'smaple["duration"]', "sizes/compute.py")
    with pytest.raises(dg.Failure, match=r"NameError: .*'smaple'.* \(.*sizes/compute.py:2\)"):
        sizes.materialize("clips/sizes", "clips/videos")
    printed = capfd.readouterr().err
    assert printed.count('sample["size"] / smaple["duration"]') == 1


def test_missing_extra(sizes: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "av" else object())
    text = load_error(sizes)
    assert (
        "reading videos needs av, which is not installed: pip install 'dagster-metaxy[video]'"
    ) in text
    assert "clips/defs.yaml" in text


def test_circle(sizes: Project) -> None:
    _edit(sizes, "feature: clips/videos", "feature: clips/sizes")
    assert "in a circle: clips/sizes -> clips/sizes" in load_error(sizes)


def test_no_store_configured(sizes: Project) -> None:
    (sizes.root / "metaxy.toml").unlink()
    text = load_error(sizes)
    assert "no metaxy.toml" in text
    assert "DeltaMetadataStore" in text


def test_undeclared_upstream_is_taken_as_produced_elsewhere(project: Project) -> None:
    project.write("sizes/defs.yaml", YAML)
    project.write("sizes/compute.py", COMPUTE)
    with pytest.warns(UserWarning, match="'clips/videos'") as warned:
        project.materialize("clips/sizes")
    (found,) = (w for w in warned if "'clips/videos'" in str(w.message))
    assert found.filename.endswith("sizes/defs.yaml")
    assert found.lineno == 11
    assert project.counts("clips/sizes") == (0, 0, 0, 0)
    assert "clips/videos has no rows yet" in project.metadata("clips/sizes")["notes"]


def test_in_python(sizes: Project) -> None:
    (sizes.sandbox.defs_folder_path / "sizes/defs.yaml").unlink()
    sizes.write(
        "sizes/component.py",
        """
        import dagster as dg

        from dagster_metaxy import MetaxyAssetComponent


        @dg.component_instance
        def load(context: dg.ComponentLoadContext) -> MetaxyAssetComponent:
            return MetaxyAssetComponent(
                feature="clips/sizes",
                deps=[{"feature": "clips/videos", "columns": ["size"]}],
                id_columns=["video_id"],
                columns={"size": "int", "name": {"type": "str", "description": "A name."}},
                compute=lambda sample: {"size": sample["size"], "name": "x"},
            )
        """,
    )
    assert sizes.materialize("clips/sizes", "clips/videos").success
    assert sizes.counts("clips/sizes") == (3, 0, 0, 0)


def test_legacy_component_yaml(sizes: Project) -> None:
    folder = sizes.sandbox.defs_folder_path / "sizes"
    (folder / "defs.yaml").rename(folder / "component.yaml")
    assert sizes.materialize("clips/sizes", "clips/videos").success


def test_yaml_declares_what_python_declares(sizes: Project) -> None:
    sizes.load()
    declared = mx.get_feature_by_key("clips/sizes")
    version = mx.current_graph().get_feature_version("clips/sizes")
    videos = mx.get_feature_by_key("clips/videos")
    with mx.FeatureGraph().use() as graph:
        graph.add_feature_definition(videos)

        class Sizes(
            mx.BaseFeature,
            spec=mx.FeatureSpec(
                key="clips/sizes",
                id_columns=["video_id"],
                deps=[mx.FeatureDep(feature="clips/videos", select=("size", "duration"))],
                description="How large each video is.",
            ),
        ):
            """How large each video is."""

            video_id: str
            rate: float
            label: str | None = None

        assert graph.get_feature_version("clips/sizes") == version
        assert Sizes.spec() == declared.spec
        by_class = graph.get_feature_definition("clips/sizes").feature_schema["properties"]
    by_yaml = declared.feature_schema["properties"]
    assert set(by_class) == set(by_yaml)
    assert by_yaml["rate"]["type"] == by_class["rate"]["type"]


def test_partitioned_like_its_upstream(sizes: Project) -> None:
    _edit(
        sizes,
        "feature_prefix: clips}",
        "feature_prefix: clips, partitions: dynamic}",
        "clips/defs.yaml",
    )
    _edit(sizes, "deps:", "partitions_def: {type: dynamic, name: clips}\n  deps:")
    assert sizes.run_job().success
    assert sizes.green("clips/sizes") == {"bikes", "bigbuckbunny", "portrait"}
    (sizes.root / "videos/bikes.mp4").unlink()
    (sizes.root / "videos/portrait.mp4").rename(sizes.root / "videos/bikes.mp4")
    assert sizes.materialize("clips/videos", "clips/sizes", partition="bikes").success
    assert sizes.run_job().success
