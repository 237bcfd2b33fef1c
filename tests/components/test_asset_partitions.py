"""Partitions of features of one's own: real runs, and what Dagster and Metaxy see of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import metaxy as mx
import metaxy.ext.dagster as mxd
import polars as pl
import pytest
from backfills import backfill
from metaxy.metadata_store.system import SystemTableStorage
from projects import Project

from dagster_metaxy import MetaxyAssetComponent
from dagster_metaxy.components._asset import FeatureAsset
from dagster_metaxy.components._partitions import partitioned
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.partitions import Partitioning, keys_of
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.update import Update

pytestmark = pytest.mark.filterwarnings("ignore:no component declares")

UTC = dt.timezone.utc

# The upstream of all: its columns are those of the shots that `put` writes.
SHOTS = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/shots
      deps: [t/raw]
      id_columns: [shot]
      columns:
        shot: str
        day: {type: date, nullable: true, description: Day of the shot.}
        at: {type: datetime, nullable: true}
        stamp: {type: str, nullable: true}
        camera: {type: str, nullable: true}
        size: int
        weight: float
      compute: .compute.shots
    """

SHOTS_COMPUTE = """
    def shots(sample):
        names = ("day", "at", "stamp", "camera", "size")
        return {**{name: sample[name] for name in names}, "weight": 1.0}
    """

DAILY = 'partitions_def: {type: daily, start_date: "2026-01-01", end_date: "2026-02-01"}'


class Shots:
    """A project with `t/shots`, and `t/sizes` downstream of it, which is partitioned."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.write("shots/defs.yaml", SHOTS)
        project.write("shots/compute.py", SHOTS_COMPUTE)

    def put(self, *shots: dict[str, Any]) -> None:
        """Write samples of the raw feature, which another project produces, and run the shots."""
        columns = {
            "shot": pl.String(),
            "day": pl.Date(),
            "at": pl.Datetime("us", "UTC"),
            "stamp": pl.String(),
            "camera": pl.String(),
            "size": pl.Int64(),
        }
        rows = [{**dict.fromkeys(columns), "size": 1, **shot} for shot in shots]
        with mx.FeatureGraph().use() as graph:

            class Raw(mx.BaseFeature, spec=mx.FeatureSpec(key="t/raw", id_columns=["shot"])):
                shot: str

            with self.project.store().open("w") as store:
                version = [
                    {"default": "/".join(str(v) for v in (row["shot"], row["size"]))}
                    for row in rows
                ]
                store.write(
                    "t/raw",
                    pl.DataFrame(rows, schema=columns).with_columns(
                        metaxy_provenance_by_field=pl.Series(version)
                    ),
                )
                SystemTableStorage(store).push_graph_snapshot(project=graph_project(graph))
        self.project.materialize("t/shots")

    def drop(self, *shots: str) -> None:
        """Delete shots."""
        import narwhals as nw

        self.project.load()
        with self.project.store().open("w") as store:
            for key in ("t/raw", "t/shots"):
                store.delete(key, nw.col("shot").is_in(list(shots)))

    def sizes(self, *attributes: str, compute: str = "{'double': sample['size'] * 2}") -> None:
        """Declare `t/sizes`."""
        self.project.write("sizes/compute.py", f"def sizes(sample): return {compute}")
        lines = [
            "type: dagster_metaxy.MetaxyAssetComponent",
            "attributes:",
            "  feature: t/sizes",
            "  compute: .compute.sizes",
        ]
        for name, default in {
            "deps": "[t/shots]",
            "id_columns": "[shot]",
            "columns": "{double: int}",
        }.items():
            if not any(a.startswith(f"{name}:") for a in attributes):
                lines.append(f"  {name}: {default}")
        lines += [f"  {line}" for line in attributes]
        self.project.write("sizes/defs.yaml", "\n".join(lines) + "\n")

    def run(self, partition: str | None = None, to: str | None = None, **config: Any) -> None:
        """Run the sizes: whole, of a partition, or of a range; asked for what the config says."""
        tags = None
        if to is not None:
            tags = {
                "dagster/asset_partition_range_start": partition,
                "dagster/asset_partition_range_end": to,
            }
            partition = None
        run_config = {"ops": {"t__sizes": {"config": config}}}
        self.project.materialize("t/sizes", partition=partition, tags=tags, run_config=run_config)

    @property
    def computed(self) -> set[str]:
        """The shots whose sizes are in the store."""
        return set(self.project.rows("t/sizes")["shot"])

    @property
    def green(self) -> set[str]:
        """The partitions of the sizes that Dagster shows as materialized."""
        return self.project.green("t/sizes")


def graph_project(graph: mx.FeatureGraph) -> str:
    """The project of the only feature."""
    (definition,) = graph.feature_definitions_by_key.values()
    return definition.project


@pytest.fixture
def shots(project: Project) -> Shots:
    return Shots(project)


def day(number: int) -> dt.date:
    return dt.date(2026, 1, number)


def error(shots: Shots) -> str:
    """What is said where the project does not load."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        shots.project.load()
    messages = []
    found: BaseException | None = caught.value
    while found is not None:
        messages.append(str(found))
        found = found.__cause__ or found.__context__
    return "\n".join(messages)


def line_of(shots: Shots, attribute: str) -> int:
    """The line of an attribute of the sizes."""
    lines = (shots.project.sandbox.defs_folder_path / "sizes/defs.yaml").read_text().split("\n")
    return next(n for n, line in enumerate(lines, 1) if line.startswith(f"  {attribute}:"))


class TestDaily:
    @pytest.fixture
    def daily(self, shots: Shots) -> Shots:
        shots.sizes(DAILY, "partition_by: day")
        shots.put(
            {"shot": "a", "day": day(1)},
            {"shot": "b", "day": day(2)},
            {"shot": "c", "day": day(2)},
            {"shot": "d", "day": day(4)},
            {"shot": "none"},
            {"shot": "outside", "day": dt.date(2020, 1, 1)},
        )
        return shots

    def test_a_partition_by_itself(self, daily: Shots) -> None:
        daily.run("2026-01-02")
        assert daily.computed == {"b", "c"}
        assert daily.green == {"2026-01-02"}
        daily.run("2026-01-03")
        assert daily.computed == {"b", "c"}
        assert daily.green == {"2026-01-02", "2026-01-03"}

    def test_a_range(self, daily: Shots) -> None:
        daily.run("2026-01-01", to="2026-01-03")
        assert daily.computed == {"a", "b", "c"}
        assert daily.green == {"2026-01-01", "2026-01-02", "2026-01-03"}

    def test_a_whole_run_computes_what_is_in_no_partition(self, daily: Shots) -> None:
        daily.run()
        assert daily.computed == {"a", "b", "c", "d", "none", "outside"}
        assert daily.green == {"2026-01-01", "2026-01-02", "2026-01-04"}
        notes = daily.project.metadata("t/sizes")["notes"]
        assert "2 samples belong to no partition" in notes

    def test_the_column_is_of_this_feature_too(self, daily: Shots) -> None:
        daily.run()
        rows = daily.project.rows("t/sizes")
        assert rows.schema["day"] == pl.Date()
        assert dict(rows.select("shot", "day").rows())["b"] == day(2)
        spec = daily.project.load().resolve_asset_graph().get(dg.AssetKey(["t", "sizes"]))
        columns = {c.name: c for c in spec.metadata["dagster/column_schema"].columns}
        assert columns["day"].description == "Day of the shot."

    def test_orphans_are_deleted_by_a_run_of_their_partition(self, daily: Shots) -> None:
        daily.run()
        daily.drop("a", "b", "none")
        daily.run("2026-01-02")
        assert daily.computed == {"a", "c", "d", "none", "outside"}
        daily.run("2026-01-01", to="2026-01-03")
        assert daily.computed == {"c", "d", "none", "outside"}
        daily.run()
        assert daily.computed == {"c", "d", "outside"}

    def test_a_sample_that_moves(self, daily: Shots) -> None:
        daily.run()
        daily.put({"shot": "a", "day": day(3), "size": 5})
        daily.run("2026-01-01")
        assert daily.project.counts("t/sizes") == (0, 0, 0, 0)
        daily.run("2026-01-03")
        assert daily.project.counts("t/sizes") == (0, 1, 0, 0)
        rows = daily.project.rows("t/sizes").filter(pl.col("shot") == "a")
        assert rows.select("day", "double").row(0) == (day(3), 10)

    def test_what_a_partition_run_shows(self, daily: Shots) -> None:
        daily.run()
        daily.run("2026-01-02")
        metadata = daily.project.metadata("t/sizes")
        assert metadata["dagster/row_count"] == 6
        assert metadata["dagster/partition_row_count"] == 2
        assert {r.data["shot"] for r in metadata["preview"].records} == {"b", "c"}
        daily.run("2026-01-20")
        metadata = daily.project.metadata("t/sizes")
        assert metadata["dagster/partition_row_count"] == 0
        assert metadata["preview"].records == []

    def test_failures_of_other_partitions_stay_known(self, daily: Shots) -> None:
        daily.sizes(DAILY, "partition_by: day", compute="{'double': 1 // (sample['shot'] != 'd')}")
        daily.run()
        assert daily.green == {"2026-01-01", "2026-01-02"}
        key = dg.AssetCheckKey(dg.AssetKey(["t", "sizes"]), "no_failed_samples")
        storage = daily.project.instance.event_log_storage

        def passed() -> bool:
            (record,) = storage.get_asset_check_execution_history(key, limit=1)
            return record.status.value == "SUCCEEDED"

        daily.run("2026-01-02")
        assert not passed()
        daily.sizes(DAILY, "partition_by: day")
        # The run is about this very partition, and its sample is quarantined.
        with pytest.raises(dg.Failure, match="1 sample quarantined:\nshot=d: ZeroDivisionError"):
            daily.run("2026-01-04")
        assert not passed()
        assert daily.green == {"2026-01-01", "2026-01-02"}
        daily.run("2026-01-04", retry_quarantined=True)
        assert passed()
        assert daily.green == {"2026-01-01", "2026-01-02", "2026-01-04"}

    def test_a_failed_partition_of_a_range_is_not_green(self, daily: Shots) -> None:
        daily.sizes(DAILY, "partition_by: day", compute="{'double': 1 // (sample['shot'] != 'c')}")
        with pytest.raises(dg.Failure, match="shot=c"):
            daily.run("2026-01-01", to="2026-01-04")
        assert daily.green == {"2026-01-01", "2026-01-03", "2026-01-04"}
        assert daily.computed == {"a", "b", "d"}

    def test_partitions_with_samples_left_are_not_green(self, daily: Shots) -> None:
        with pytest.raises(dg.Failure, match="samples are left to do in 2026-01-02"):
            daily.run("2026-01-01", to="2026-01-03", limit=1)
        assert daily.computed == {"a"}
        assert daily.green == {"2026-01-01", "2026-01-03"}

    def test_backfills(self, daily: Shots) -> None:
        days = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
        assert backfill(daily.project, "t/sizes", days[:3]) == (1, set(days[:3]))
        assert daily.computed == {"a", "b", "c"}

    def test_backfills_in_several_runs(self, daily: Shots) -> None:
        days = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
        policy = "backfill_policy: {type: multi_run, max_partitions_per_run: 2}"
        daily.sizes(DAILY, "partition_by: day", policy)
        assert backfill(daily.project, "t/sizes", days) == (2, set(days))
        assert daily.computed == {"a", "b", "c", "d"}
        rows = daily.project.rows("t/sizes")
        assert rows["metaxy_materialization_id"].n_unique() == 2


class TestMulti:
    MULTI = (
        "partitions_def: {type: multi, partitions_defs: {day: {type: daily,"
        ' start_date: "2026-01-01", end_date: "2026-02-01"},'
        " camera: {type: static, partition_keys: [x, y]}}}"
    )

    @pytest.fixture
    def multi(self, shots: Shots) -> Shots:
        shots.sizes(self.MULTI)
        shots.put(
            {"shot": "a", "day": day(1), "camera": "x"},
            {"shot": "b", "day": day(1), "camera": "y"},
            {"shot": "c", "day": day(2), "camera": "x"},
            {"shot": "d", "day": day(3), "camera": "y"},
            {"shot": "half", "day": day(3)},
        )
        return shots

    def test_a_partition(self, multi: Shots) -> None:
        multi.run("y|2026-01-01")
        assert multi.computed == {"b"}
        assert multi.green == {"y|2026-01-01"}
        multi.run()
        assert multi.computed == {"a", "b", "c", "d", "half"}
        assert multi.green == {"x|2026-01-01", "y|2026-01-01", "x|2026-01-02", "y|2026-01-03"}
        (event,) = multi.project.instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=dg.AssetKey(["t", "sizes"]), asset_partitions=["x|2026-01-02"]
            ),
            limit=9,
        ).records
        assert event.asset_materialization is not None
        assert event.asset_materialization.tags == {
            "dagster/partition/camera": "x", "dagster/partition/day": "2026-01-02",
        }  # fmt: skip

    def test_a_range_is_one_of_each_dimension(self, multi: Shots) -> None:
        multi.run("x|2026-01-01", to="x|2026-01-03")
        assert multi.computed == {"a", "c"}
        assert multi.green == {"x|2026-01-01", "x|2026-01-02", "x|2026-01-03"}
        metadata = multi.project.metadata("t/sizes")
        assert metadata["dagster/partition_row_count"] == 2

    def test_a_failed_partition_of_a_range_is_not_green(self, multi: Shots) -> None:
        multi.sizes(self.MULTI, compute="{'double': 1 // (sample['shot'] != 'b')}")
        with pytest.raises(dg.Failure, match="shot=b"):
            multi.run("x|2026-01-01", to="y|2026-01-01")
        assert multi.green == {"x|2026-01-01"}

    def test_orphans(self, multi: Shots) -> None:
        multi.run()
        multi.drop("a", "b")
        multi.run("y|2026-01-01")
        assert multi.computed == {"a", "c", "d", "half"}

    def test_a_backfill_of_scattered_partitions(self, multi: Shots) -> None:
        keys = ["x|2026-01-01", "y|2026-01-03"]
        _, green = backfill(multi.project, "t/sizes", keys)
        assert green == set(keys)
        assert multi.computed == {"a", "d"}

    def test_a_dynamic_dimension_is_registered(self, shots: Shots) -> None:
        shots.sizes(
            "partitions_def: {type: multi, partitions_defs: {date: {type: monthly,"
            ' start_date: "2026-01-01", end_date: "2026-03-01"},'
            " cam: {type: dynamic, name: cameras}}}",
            "partition_by: {date: day, cam: camera}",
        )
        shots.put(
            {"shot": "a", "day": day(1), "camera": "x"}, {"shot": "b", "day": day(9), "camera": "y"}
        )
        shots.run()
        assert set(shots.project.instance.get_dynamic_partitions("cameras")) == {"x", "y"}
        assert shots.green == {"x|2026-01-01", "y|2026-01-01"}
        shots.put({"shot": "c", "day": day(5), "camera": "x"})
        shots.run("x|2026-01-01")
        assert shots.project.counts("t/sizes") == (1, 0, 0, 0)


def test_time_windows_in_a_time_zone(shots: Shots) -> None:
    shots.sizes(
        'partitions_def: {type: time_window, start: "2026-01-01-00", cron_schedule: "0 */6 * * *",'
        ' fmt: "%Y-%m-%d-%H", timezone: Europe/Paris, end: "2026-02-01-00"}',
        "partition_by: at",
    )
    shots.put(
        {"shot": "a", "at": dt.datetime(2026, 1, 1, 4, 59, tzinfo=UTC)},
        {"shot": "b", "at": dt.datetime(2026, 1, 1, 5, 0, tzinfo=UTC)},
        {"shot": "c", "at": dt.datetime(2026, 1, 1, 10, 59, 59, tzinfo=UTC)},
        {"shot": "before", "at": dt.datetime(2025, 12, 31, 22, 59, tzinfo=UTC)},
    )
    shots.run("2026-01-01-06")
    assert shots.computed == {"b", "c"}
    shots.run()
    assert shots.green == {"2026-01-01-00", "2026-01-01-06"}


def test_text_is_a_key_or_a_time(shots: Shots) -> None:
    shots.sizes(
        'partitions_def: {type: hourly, start_date: "2026-01-01-00:00",'
        ' end_date: "2026-02-01-00:00", minute_offset: 30}',
        "partition_by: stamp",
    )
    stamps = ["2026-01-01-03:30", "2026-01-01T04:29:59", "2026-01-01T04:29:59Z", "soon", None]
    shots.put(*({"shot": str(n), "stamp": stamp} for n, stamp in enumerate(stamps)))
    shots.run("2026-01-01-03:30")
    assert shots.computed == {"0", "1", "2"}
    shots.run()
    assert shots.computed == {"0", "1", "2", "3", "4"}
    assert shots.green == {"2026-01-01-03:30"}


def test_dynamic(shots: Shots) -> None:
    shots.sizes("partitions_def: {type: dynamic, name: cameras}", "partition_by: camera")
    shots.put({"shot": "a", "camera": "x"}, {"shot": "b", "camera": "y"}, {"shot": "c"})
    shots.run()
    assert shots.green == {"x", "y"}
    shots.put({"shot": "a", "camera": "x", "size": 2}, {"shot": "b", "camera": "y", "size": 2})
    shots.run("y")
    assert dict(shots.project.rows("t/sizes").select("shot", "double").rows()) == {
        "a": 2, "b": 4, "c": 2,
    }  # fmt: skip


def test_renamed_upstream_and_inherited_partitions(shots: Shots) -> None:
    shots.sizes(DAILY, "deps: [{feature: t/shots, rename: {day: taken}}]", "partition_by: taken")
    shots.project.write("more/compute.py", "def more(sample): return {'more': sample['double']}")
    shots.project.write(
        "more/defs.yaml",
        f"""
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: t/more
          deps: [{{feature: t/sizes, rename: {{taken: on_day}}}}]
          id_columns: [shot]
          columns: {{more: int}}
          compute: .compute.more
          {DAILY}
        """,
    )
    shots.put({"shot": "a", "day": day(1)}, {"shot": "b", "day": day(2)})
    shots.project.materialize("t/sizes", "t/more", partition="2026-01-02")
    rows = shots.project.rows("t/more")
    assert rows.select("shot", "on_day").rows() == [("b", day(2))]
    assert shots.project.green("t/more") == {"2026-01-02"}


class TestLineages:
    def test_an_expansion_fills_in_every_row(self, shots: Shots) -> None:
        shots.sizes(
            DAILY,
            "partition_by: day",
            "deps: [{feature: t/shots, lineage: {type: expansion, on: [shot]}}]",
            "id_columns: [shot, part]",
            "columns: {part: int}",
            compute="[{'part': 0}, {'part': 1}]",
        )
        shots.put({"shot": "a", "day": day(1)}, {"shot": "b", "day": day(2)})
        shots.run("2026-01-01", to="2026-01-02")
        rows = shots.project.rows("t/sizes").sort("shot", "part")
        assert rows["day"].to_list() == [day(1), day(1), day(2), day(2)]
        shots.drop("a", "b")
        shots.run("2026-01-02")
        assert shots.computed == {"a"}

    def test_a_group_is_in_one_partition_or_fails(self, shots: Shots) -> None:
        shots.project.write(
            "parts/compute.py",
            """
            import datetime

            def parts(sample):
                for part in range(2):
                    differs = datetime.timedelta(days=part if sample["shot"] == "mixed" else 0)
                    yield {"part": part, "on_day": sample["day"] + differs}
            """,
        )
        shots.project.write(
            "parts/defs.yaml",
            """
            type: dagster_metaxy.MetaxyAssetComponent
            attributes:
              feature: t/parts
              deps: [{feature: t/shots, lineage: {type: expansion, on: [shot]}}]
              id_columns: [shot, part]
              columns: {part: int, on_day: date}
              compute: .compute.parts
            """,
        )
        shots.sizes(
            DAILY,
            "partition_by: on_day",
            "deps: [{feature: t/parts, lineage: {type: aggregation, on: [shot]}}]",
            compute="{'double': len(sample)}",
        )
        shots.put({"shot": "a", "day": day(1)}, {"shot": "mixed", "day": day(1)})
        shots.project.materialize("t/parts")
        shots.run("2026-01-01")
        assert shots.project.counts("t/sizes") == (1, 0, 0, 0)
        assert shots.computed == {"a"}
        shots.run()
        assert shots.project.counts("t/sizes") == (0, 0, 0, 1)
        (failed,) = shots.project.metadata("t/sizes")["failed samples"].records
        assert failed.data["message"] == (
            "its samples differ in 'on_day', by which partitions are found: 2026-01-01, 2026-01-02"
        )

    def test_a_batch(self, shots: Shots) -> None:
        shots.sizes(DAILY, "partition_by: day")
        shots.project.write(
            "sizes/compute.py",
            """
            import polars as pl

            def sizes(samples: pl.DataFrame):
                return samples.select("shot", double=pl.col("size") * 2)
            """,
        )
        shots.put({"shot": "a", "day": day(1)}, {"shot": "b", "day": day(2)})
        shots.run("2026-01-02")
        assert shots.project.rows("t/sizes").select("shot", "day").rows() == [("b", day(2))]


def test_the_compute_may_return_the_column_but_not_another_value(shots: Shots) -> None:
    shots.put({"shot": "a", "day": day(1)})
    shots.sizes(DAILY, "partition_by: day", compute="{'double': 1, 'day': sample['day']}")
    shots.run("2026-01-01")
    assert shots.computed == {"a"}
    compute = "{'double': 2, 'day': __import__('datetime').date(2026, 1, 9)}"
    version = 'fields: [{key: default, code_version: "2"}]'
    shots.sizes(DAILY, "partition_by: day", version, compute=compute)
    with pytest.raises(dg.Failure, match="names another partition than the sample's"):
        shots.run("2026-01-01")


def test_metaxys_io_manager_loads_the_slice_of_a_partition(shots: Shots) -> None:
    shots.sizes("partitions_def: {type: static, partition_keys: [x, y]}", "partition_by: camera")
    shots.put({"shot": "a", "camera": "x"}, {"shot": "b", "camera": "y"}, {"shot": "c"})
    shots.run()
    loaded: list[str] = []
    graph = shots.project.load().resolve_asset_graph()
    (sizes,) = (s for a in graph.assets_defs for s in a.specs if s.key.path[-1] == "sizes")

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(["x", "y"]),
        ins={"sizes": dg.AssetIn(key=["t", "sizes"])},
    )
    def look(sizes: Any) -> None:
        loaded.extend(sizes.collect()["shot"].to_list())

    manager = mxd.MetaxyIOManager(store=mxd.MetaxyStoreFromConfigResource(name="dev"))
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            [sizes, look],
            partition_key="y",
            resources={"io_manager": manager},
            instance=instance,
        )
    assert loaded == ["b"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (("partitions_def: {type: dynamic, name: cameras}", "partition_by: camera"), "camera"),
        (("partitions_def: {type: dynamic, name: shots}",), "shot"),
        # Metaxy compares the column with the text of the key: a date is none.
        ((DAILY, "partition_by: day"), None),
        ((TestMulti.MULTI,), None),
    ],
)
def test_partition_by_for_metaxy(
    shots: Shots, attributes: tuple[str, ...], expected: str | None
) -> None:
    shots.sizes(*attributes)
    spec = shots.project.load().resolve_asset_graph().get(dg.AssetKey(["t", "sizes"]))
    assert spec.metadata.get("partition_by") == expected


def test_templates(shots: Shots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("START", "2026-01-05")
    monkeypatch.setenv("OFFSET", "2")
    shots.sizes(
        "partitions_def: {type: multi, partitions_defs: {day: {type: daily,"
        " start_date: '{{ env.START }}', hour_offset: '{{ env.OFFSET }}', end_offset: '{{ 1 }}'},"
        " camera: '{{ dg.StaticPartitionsDefinition([\"x\"]) }}'}}"
    )
    spec = shots.project.load().resolve_asset_graph().get(dg.AssetKey(["t", "sizes"]))
    assert spec.partitions_def == dg.MultiPartitionsDefinition(
        {
            "day": dg.DailyPartitionsDefinition("2026-01-05", hour_offset=2, end_offset=1),
            "camera": dg.StaticPartitionsDefinition(["x"]),
        }
    )


DYNAMIC = "partitions_def: {type: dynamic, name: n}"


@pytest.mark.parametrize(
    ("attributes", "where", "message"),
    [
        (
            (DAILY, "partition_by: dya"),
            "partition_by",
            "no column 'dya' of an upstream; it sees: shot, day, at",
        ),
        (("partition_by: day",), "partition_by", "partition_by needs partitions_def"),
        ((DAILY, "partition_by: {day: day}"), "partition_by", "the name of one column"),
        ((TestMulti.MULTI, "partition_by: day"), "partition_by", "{camera: column, day: column}"),
        (
            (TestMulti.MULTI, "partition_by: {day: day}"),
            "partition_by",
            "{camera: column, day: column}",
        ),
        (
            (TestMulti.MULTI.replace("camera:", "cam:"),),
            "partitions_def",
            "partition_by names a column for each of cam and day; columns are: shot, day",
        ),
        ((DYNAMIC, "partition_by: weight"), "partition_by", "'weight' is float"),
        ((DYNAMIC, "partition_by: at"), "partition_by", "'at' is datetime"),
        (
            (DAILY, "partition_by: size"),
            "partition_by",
            "of type str, date, datetime; 'size' is int",
        ),
        (
            (DAILY, "partition_by: day", "columns: {double: int, day: str}"),
            "columns",
            "is date upstream, but declared as str",
        ),
        (
            (DAILY, "partition_by: day", "deps: [{feature: t/shots, columns: [size]}]"),
            "partition_by",
            "no column 'day' of an upstream; it sees: shot, size.",
        ),
        (
            (DAILY, "deps: [t/elsewhere]", "partition_by: day"),
            "partition_by",
            "the columns of 't/elsewhere' are not known here: declare 'day'",
        ),
        (
            ("partitions_def: {type: daily, start_date: soon}",),
            "partitions_def",
            "daily partitions: time data 'soon'",
        ),
        (
            ('partitions_def: {type: daily, start_date: "2026-01-01", minute_offset: 75}',),
            "partitions_def",
            "partitions_def.minute_offset: must be less than or equal to 59",
        ),
        (
            ('partitions_def: {type: daily, start_date: "2026-01-01", timezone: Mars/X}',),
            "partitions_def",
            "Mars/X",
        ),
        (
            (
                'partitions_def: {type: time_window, start: "2026-01-01",'
                ' cron_schedule: "0 */6 * * *", fmt: "%Y-%m-%d"}',
            ),
            "partitions_def",
            "multiple time ranges that map to the same partition key",
        ),
        (
            (TestMulti.MULTI.replace("[x, y]", "[x, x]"),),
            "partitions_def",
            "static partitions: ",
        ),
    ],
)
def test_wrong_partitions(
    shots: Shots, attributes: tuple[str, ...], where: str, message: str
) -> None:
    shots.sizes(*attributes)
    text = error(shots)
    assert message in text
    assert f"sizes/defs.yaml:{line_of(shots, where)}" in text


STATIC = "partitions_def: {type: static, partition_keys: [x, y]}"


def test_a_misspelt_upstream_is_named_first(shots: Shots) -> None:
    shots.sizes(DAILY, "deps: [t/shot]", "partition_by: day")
    assert "no feature 't/shot' is declared. Did you mean 't/shots'?" in error(shots)


def test_the_columns_of_an_upstream_that_is_produced_elsewhere(shots: Shots) -> None:
    shots.put({"shot": "a", "day": day(1)}, {"shot": "b", "day": day(2)})
    columns = "columns: {double: int, on_day: date}"
    shots.sizes(DAILY, "deps: [t/raw]", "partition_by: on_day", columns)
    with pytest.raises(dg.Failure, match="'on_day', which is no column of the upstream samples"):
        shots.run("2026-01-02")
    columns = "columns: {double: int, day: date}"
    shots.sizes(DAILY, "deps: [t/raw]", "partition_by: day", columns)
    shots.run("2026-01-02")
    assert shots.project.rows("t/sizes").select("shot", "day").rows() == [("b", day(2))]


def test_a_feature_without_upstream_has_the_column_itself(tmp_path: Path) -> None:
    days = dg.DailyPartitionsDefinition("2026-01-01")
    columns = {"doc": Column("str"), "day": Column("date")}

    def root(column: str | None) -> FeatureAsset:
        update = Update(Feature("t/root", ("doc",), columns), Compute(dict), tmp_path)
        names = (column,) if column else ()
        asset = FeatureAsset(update, partitioning=Partitioning(days, names, keys_of(days)))
        return partitioned(asset, {}, {}, owner)

    owner = MetaxyAssetComponent(
        feature="t/root", id_columns=["doc"], columns={}, deps=[], compute=dict
    )
    found = root("day").partitioning
    assert found is not None
    assert found.key({"doc": "a", "day": day(3)}) == "2026-01-03"
    assert dict(root("day").feature.columns) == columns
    default = root(None).partitioning
    assert default is not None
    assert default.columns == ("doc",)
    with pytest.raises(Exception, match="'t/root' has no column 'dya'; it has: doc, day"):
        root("dya")


class TestMappings:
    @staticmethod
    def _upstream(shots: Shots, partitions: str) -> None:
        shots.project.write("shots/defs.yaml", SHOTS.rstrip() + f"\n      {partitions}\n")

    @staticmethod
    def _mapping(shots: Shots) -> dg.PartitionMapping | None:
        graph = shots.project.load().resolve_asset_graph()
        (spec,) = (s for a in graph.assets_defs for s in a.specs if s.key.path[-1] == "sizes")
        (dep,) = spec.deps
        assert dep.asset_key == dg.AssetKey(["t", "shots"])
        return dep.partition_mapping

    @pytest.mark.parametrize(
        ("upstream", "own", "mapping", "expected"),
        [
            (DAILY, DAILY, "identity", dg.IdentityPartitionMapping()),
            (STATIC, DYNAMIC, "all", dg.AllPartitionMapping()),
            (DAILY, STATIC, "{type: last}", dg.LastPartitionMapping()),
            (
                DAILY,
                DAILY,
                "{type: time_window, start_offset: -1, end_offset: '{{ -1 }}',"
                " allow_nonexistent_upstream_partitions: true}",
                dg.TimeWindowPartitionMapping(-1, -1, True),
            ),
            (
                STATIC,
                "partitions_def: {type: static, partition_keys: [x, z]}",
                "{type: static, downstream_partition_keys_by_upstream_partition_key:"
                " {x: [x, z], y: z}}",
                dg.StaticPartitionMapping({"x": ["x", "z"], "y": "z"}),
            ),
            (
                STATIC,
                DYNAMIC,
                "{type: specific, partition_keys: [x]}",
                dg.SpecificPartitionsPartitionMapping(["x"]),
            ),
            (
                TestMulti.MULTI,
                DAILY,
                "multi_to_single",
                dg.MultiToSingleDimensionPartitionMapping(),
            ),
            (
                TestMulti.MULTI,
                DAILY,
                "{type: multi_to_single, partition_dimension_name: day}",
                dg.MultiToSingleDimensionPartitionMapping("day"),
            ),
            (
                TestMulti.MULTI,
                TestMulti.MULTI,
                "{type: multi, downstream_mappings_by_upstream_dimension: {day: {dimension_name:"
                " day, partition_mapping: {type: time_window, start_offset: -1}}, camera:"
                " {dimension_name: camera}}}",
                dg.MultiPartitionMapping(
                    {
                        "day": dg.DimensionPartitionMapping(
                            "day", dg.TimeWindowPartitionMapping(-1)
                        ),
                        "camera": dg.DimensionPartitionMapping(
                            "camera", dg.IdentityPartitionMapping()
                        ),
                    }
                ),
            ),
        ],
    )
    def test_kinds(
        self, shots: Shots, upstream: str, own: str, mapping: str, expected: dg.PartitionMapping
    ) -> None:
        self._upstream(shots, upstream)
        shots.sizes(own, f"deps: [{{feature: t/shots, partition_mapping: {mapping}}}]")
        assert self._mapping(shots) == expected

    def test_a_template(self, shots: Shots) -> None:
        self._upstream(shots, DAILY)
        shots.project.write(
            "sizes/template_vars.py",
            """
            import dagster as dg

            @dg.template_var
            def yesterday() -> dg.PartitionMapping:
                return dg.TimeWindowPartitionMapping(-1, -1)
            """,
        )
        shots.sizes(DAILY, "deps: [{feature: t/shots, partition_mapping: '{{ yesterday }}'}]")
        yaml = shots.project.sandbox.defs_folder_path / "sizes/defs.yaml"
        yaml.write_text(yaml.read_text() + "template_vars_module: .template_vars\n")
        assert self._mapping(shots) == dg.TimeWindowPartitionMapping(-1, -1)

    def test_what_dagster_makes_of_it(self, shots: Shots) -> None:
        self._upstream(shots, DAILY)
        shots.sizes(
            DAILY,
            "deps: [{feature: t/shots, partition_mapping: {type: time_window, start_offset: -1}}]",
        )
        graph = shots.project.load().resolve_asset_graph()
        mapping = graph.get_partition_mapping(
            dg.AssetKey(["t", "sizes"]), parent_asset_key=dg.AssetKey(["t", "shots"])
        )
        assert mapping == dg.TimeWindowPartitionMapping(-1)

    @pytest.mark.parametrize(
        ("upstream", "own", "mapping", "message"),
        [
            (DAILY, STATIC, None, "say in the dep which of them they depend on"),
            (
                DAILY,
                DAILY.replace("}", ", timezone: Europe/Paris}"),
                None,
                "Timezones UTC and Europe/Paris don't match",
            ),
            (DAILY, STATIC, "time_window", "must be a TimeWindowPartitionsDefinition"),
            (
                STATIC,
                STATIC,
                "{type: static, downstream_partition_keys_by_upstream_partition_key: {z: x}}",
                "not in the upstream partitions definition: {'z'}",
            ),
            (
                TestMulti.MULTI,
                STATIC,
                "{type: multi_to_single, partition_dimension_name: cam}",
                "there is no dimension 'cam'; dimensions are: camera, day",
            ),
            ("tags: {}", STATIC, "last", "'t/shots' has no partitions that could be mapped"),
            (STATIC, STATIC, "lst", "partition_mapping"),
        ],
    )
    def test_what_dagster_refuses(
        self, shots: Shots, upstream: str, own: str, mapping: str | None, message: str
    ) -> None:
        self._upstream(shots, upstream)
        dep = f"{{feature: t/shots, partition_mapping: {mapping}}}" if mapping else "t/shots"
        shots.sizes(own, "partition_by: stamp", f"deps: [{dep}]")
        text = error(shots)
        assert message in text
        assert f"sizes/defs.yaml:{line_of(shots, 'deps')}" in text
