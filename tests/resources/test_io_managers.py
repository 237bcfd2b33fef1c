"""JSON, Parquet and Metaxy's IO managers, in real runs, on a local disk and an S3 server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from projects import Project

from dagster_metaxy.resources import JsonIOManager, ParquetIOManager

FRAME = pl.DataFrame({"x": [1, 2, None], "t": ["a", "é", None]})
VALUE = {"a": [1, 2.5, None, True], "é": {"b": "c"}}
DAYS = dg.StaticPartitionsDefinition(["2026-01-01", "a b", "x/y"])


def run(assets: Any, files: Any, partition: str | None = None, select: Any = None) -> Any:
    """A run that succeeds."""
    return dg.materialize(
        assets, resources={"files": files}, partition_key=partition, selection=select
    )


def below(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def json_assets(seen: list[Any], **options: Any) -> list[Any]:
    """An asset that keeps VALUE, and one that reads it."""

    @dg.asset(io_manager_key="files", key_prefix="deep", **options)
    def kept() -> Any:
        return VALUE

    @dg.asset(ins={"kept": dg.AssetIn(["deep", "kept"])})
    def look(kept: Any) -> None:
        seen.append(kept)

    return [kept, look]


def frame_assets(seen: list[Any], **options: Any) -> list[Any]:
    """An asset that keeps FRAME, and one that reads it lazily."""

    @dg.asset(io_manager_key="files", **options)
    def kept() -> pl.DataFrame:
        return FRAME

    @dg.asset
    def look(kept: pl.LazyFrame) -> None:
        seen.append(kept.collect())

    return [kept, look]


class TestJson:
    def test_at_the_key_of_the_asset(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        seen: list[Any] = []
        result = run(json_assets(seen), JsonIOManager(base_path=str(tmp_path)))
        assert seen == [VALUE]
        assert below(tmp_path) == ["deep/kept.json"]
        assert json.loads((tmp_path / "deep/kept.json").read_text("utf-8")) == VALUE
        (event,) = result.asset_materializations_for_node("deep__kept")
        assert event.metadata["path"].value == str(tmp_path / "deep/kept.json")
        assert "kept.json using JsonIOManager" in capfd.readouterr().err

    def test_below_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run(json_assets([]), JsonIOManager(base_path="data"))
        assert below(tmp_path) == ["data/deep/kept.json"]

    @pytest.mark.parametrize(
        ("path", "file"),
        [
            ("{tmp}/else/where.json", "else/where.json"),
            ("own/v1.2.json", "base/own/v1.2.json"),
        ],
    )
    def test_at_a_path_of_its_own(self, tmp_path: Path, path: str, file: str) -> None:
        seen: list[Any] = []
        assets = json_assets(seen, metadata={"path": path.format(tmp=tmp_path)})
        files = JsonIOManager(base_path=str(tmp_path / "base"))
        run(assets, files)
        # The other one in a run of its own: it finds the path, too.
        run(assets, files, select=["look"])
        assert seen == [VALUE, VALUE]
        assert below(tmp_path) == [file]

    def test_partitions(self, tmp_path: Path) -> None:
        seen: list[Any] = []
        assets = json_assets(seen, partitions_def=DAYS)
        files = JsonIOManager(base_path=str(tmp_path))
        for key in DAYS.get_partition_keys():
            run(assets, files, partition=key, select=[assets[0]])
        run(assets, files, select=["look"])
        assert seen == [dict.fromkeys(DAYS.get_partition_keys(), VALUE)]
        assert below(tmp_path) == [
            "deep/kept/2026-01-01.json", "deep/kept/a b.json", "deep/kept/x/y.json",
        ]  # fmt: skip

    def test_partitions_at_a_path_of_its_own(self, tmp_path: Path) -> None:
        seen: list[Any] = []
        dates = dg.StaticPartitionsDefinition(["a", "b"])
        assets = json_assets(
            seen, partitions_def=dates, metadata={"path": f"{tmp_path}/own/it.json"}
        )
        for key in ("a", "b"):
            run(assets, JsonIOManager(base_path="nowhere"), partition=key, select=[assets[0]])
        run(assets, JsonIOManager(base_path="nowhere"), select=["look"])
        assert seen == [{"a": VALUE, "b": VALUE}]
        assert below(tmp_path) == ["own/it/a.json", "own/it/b.json"]

    @pytest.mark.parametrize("value", [{"a": {1, 2}}, [float("nan")]])
    def test_what_is_no_json_leaves_the_file_as_it_was(self, tmp_path: Path, value: Any) -> None:
        (tmp_path / "bad.json").write_text("1")

        @dg.asset(io_manager_key="files")
        def bad() -> Any:
            return value

        with pytest.raises((TypeError, ValueError), match="JSON"):
            run([bad], JsonIOManager(base_path=str(tmp_path)))
        assert (tmp_path / "bad.json").read_text() == "1"

    @pytest.mark.parametrize("path", ["data/x.parquet", "data/x", 3])
    def test_a_path_with_another_ending(self, tmp_path: Path, path: Any) -> None:
        assets = json_assets([], metadata={"path": path})
        with pytest.raises(dg.Failure, match=r"`path` must end in \.json"):
            run(assets, JsonIOManager(base_path=str(tmp_path)))


class TestParquet:
    def test_at_the_key_of_the_asset(self, tmp_path: Path) -> None:
        seen: list[Any] = []
        result = run(frame_assets(seen), ParquetIOManager(base_path=str(tmp_path)))
        assert seen[0].equals(FRAME)
        assert below(tmp_path) == ["kept.parquet"]
        (event,) = result.asset_materializations_for_node("kept")
        # of dagster-polars
        assert event.metadata["dagster/row_count"].value == 3
        assert [c.name for c in event.metadata["dagster/column_schema"].value.columns] == ["x", "t"]

    def test_lazy_frames_are_written(self, tmp_path: Path) -> None:
        @dg.asset(io_manager_key="files")
        def lazy() -> pl.LazyFrame:
            return FRAME.lazy().filter(pl.col("x") == 2)

        run([lazy], ParquetIOManager(base_path=str(tmp_path)))
        assert pl.read_parquet(tmp_path / "lazy.parquet").rows() == [(2, "é")]

    def test_partitions_at_a_path_of_its_own(self, tmp_path: Path) -> None:
        options = {"partitions_def": DAYS, "metadata": {"path": f"{tmp_path}/own/it.parquet"}}
        files = ParquetIOManager(base_path="nowhere")
        assets = frame_assets([], **options)
        seen: list[Any] = []

        @dg.asset
        def both(kept: dict[str, pl.DataFrame]) -> None:
            seen.append(kept)

        for key in ("2026-01-01", "a b", "x/y"):
            run(assets, files, partition=key, select=["kept"])
        run([assets[0], both], files, select=["both"])
        assert set(seen[0]) == set(DAYS.get_partition_keys())
        assert all(frame.equals(FRAME) for frame in seen[0].values())
        assert below(tmp_path) == [
            "own/it/2026-01-01.parquet", "own/it/a b.parquet", "own/it/x/y.parquet",
        ]  # fmt: skip

    @pytest.mark.parametrize("skips", [False, True])
    def test_a_partition_that_is_missing(self, tmp_path: Path, skips: bool) -> None:
        files = ParquetIOManager(base_path=str(tmp_path))
        kept, _ = frame_assets([], partitions_def=DAYS)
        run([kept], files, partition="a b")
        seen: list[Any] = []
        metadata = {"allow_missing_partitions": skips}

        @dg.asset(ins={"kept": dg.AssetIn(metadata=metadata)})
        def all_there_are(kept: dict[str, pl.DataFrame]) -> None:
            seen.append(set(kept))

        if skips:
            run([kept, all_there_are], files, select=["all_there_are"])
            assert seen == [{"a b"}]
        else:
            with pytest.raises(FileNotFoundError):
                run([kept, all_there_are], files, select=["all_there_are"])


@pytest.fixture(scope="module")
def s3(s3_endpoint: str) -> dict[str, Any]:
    """The storage options of an S3 server with the buckets `here` and `there`."""
    import s3fs

    options: dict[str, Any] = {"client_kwargs": {"endpoint_url": s3_endpoint}}
    system = s3fs.S3FileSystem(key="any", secret="any", **options)
    system.mkdir("here")
    system.mkdir("there")
    return options


class TestObjectStore:
    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("S3_KEY", "hunter2-id")
        monkeypatch.setenv("S3_SECRET", "hunter2-secret")

    def _options(self, s3: dict[str, Any]) -> dict[str, Any]:
        return {**s3, "key": dg.EnvVar("S3_KEY"), "secret": dg.EnvVar("S3_SECRET")}

    def test_json(self, s3: dict[str, Any]) -> None:
        seen: list[Any] = []
        files = JsonIOManager(base_path="s3://here/data", storage_options=self._options(s3))
        result = run(json_assets(seen), files)
        assert seen == [VALUE]
        (event,) = result.asset_materializations_for_node("deep__kept")
        assert event.metadata["path"].value == "s3://here/data/deep/kept.json"
        assert "hunter2" not in repr(files)

    def test_parquet_in_another_bucket(self, s3: dict[str, Any]) -> None:
        seen: list[Any] = []
        files = ParquetIOManager(base_path="s3://here/data", storage_options=self._options(s3))
        assets = frame_assets(
            seen, partitions_def=DAYS, metadata={"path": "s3://there/own/it.parquet"}
        )

        @dg.asset(io_manager_key="files")
        def lazy(kept: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
            return pl.concat(kept.values()).filter(pl.col("x") == 2)

        for key in DAYS.get_partition_keys():
            run(assets, files, partition=key, select=["kept"])
        result = run([assets[0], lazy], files, select=["lazy"])
        assert result.output_for_node("lazy").collect().rows() == [(2, "é")] * 3
        import s3fs

        system = s3fs.S3FileSystem(key="any", secret="any", **s3)
        assert system.find("there") == [
            "there/own/it/2026-01-01.parquet",
            "there/own/it/a b.parquet",
            "there/own/it/x/y.parquet",
        ]
        assert "here/data/lazy.parquet" in system.find("here")

    def test_a_local_path_of_its_own(self, s3: dict[str, Any], tmp_path: Path) -> None:
        seen: list[Any] = []
        files = ParquetIOManager(base_path="s3://here/data", storage_options=self._options(s3))
        run(frame_assets(seen, metadata={"path": f"{tmp_path}/x.parquet"}), files)
        assert seen[0].equals(FRAME)
        assert below(tmp_path) == ["x.parquet"]


def test_assets_of_a_project_name_them(project: Project) -> None:
    """A feature of a component is loaded by Metaxy's, what is made of it is kept by ours."""
    project.write(
        "resources/defs.yaml",
        """
        type: dagster_metaxy.ResourcesComponent
        attributes:
          resources:
            metaxy_io: {type: dagster_metaxy.resources.MetaxyIOManager, store: dev}
            io_manager:
              type: dagster_metaxy.resources.JsonIOManager
              base_path: "{{ context.project_root }}/data/json"
        """,
    )
    project.write(
        "books/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: library/books
          id_columns: [book]
          columns: {title: str}
          version_columns: title
          compute: .compute.books
          io_manager_key: metaxy_io
        """,
    )
    project.write(
        "books/compute.py",
        """
        def books():
            yield {"book": "1", "title": "one"}
            yield {"book": "2", "title": "two"}
        """,
    )
    project.write(
        "titles.py",
        """
        import dagster as dg


        @dg.asset(ins={"books": dg.AssetIn(["library", "books"])})
        def titles(books):
            return sorted(books.collect().to_native()["title"])
        """,
    )
    assert project.materialize("library/books", "titles").success
    assert (project.root / "data/json/titles.json").read_text() == '["one", "two"]'
    assert project.materialize("titles").success
