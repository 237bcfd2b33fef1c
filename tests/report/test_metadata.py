"""What materializations tell of the rows in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metaxy as mx
import polars as pl
import pytest
from stores import store_config

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.declare.project import load_project
from dagster_metaxy.report import metadata
from dagster_metaxy.report.metadata import partitions_metadata, rows_metadata
from dagster_metaxy.report.previews import Histogram, Total

SHOTS = Feature(
    "t/shots",
    ("shot",),
    {
        "shot": Column("str"),
        "path": Column("str"),
        "seconds": Column("float"),
        "width": Column("int"),
        "curve": Column("list[float]"),
    },
)
PREVIEWS = (Histogram("seconds"), Total("width", name="widths"))


@pytest.fixture(params=["delta", "duckdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mx.MetadataStore]:
    (tmp_path / "metaxy.toml").write_text(store_config(request.param, str(tmp_path)))
    project = load_project(tmp_path, "t")
    with project.use():
        SHOTS.register("t")
        yield project.store()


def put(store: mx.MetadataStore, *shots: tuple[str, float]) -> None:
    with store.open("w"):
        store.write(
            "t/shots",
            pl.DataFrame(
                [
                    {
                        "shot": shot,
                        "path": f"/{shot}",
                        "seconds": seconds,
                        "width": 64,
                        "curve": [seconds / 3] * 9,
                        "metaxy_provenance_by_field": {"default": f"{shot}{seconds}"},
                    }
                    for shot, seconds in shots
                ]
            ),
        )


def of_partitions(store: mx.MetadataStore, *keys: str) -> Any:
    found = partitions_metadata(store, SHOTS, ["shot"], lambda row: row["shot"][:1], keys, PREVIEWS)
    return {key: dict(values) for key, values in found.items()}


def test_what_is_told_of_partitions(
    store: mx.MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_partitions(store, "a") == {}  # never written
    put(store, ("a1", 1.0), ("a2", 2.0), ("b1", 9.0), ("c1", float("nan")), ("d1", 3.0))
    put(store, ("b1", 3.5))  # a newer row of the same sample
    found = of_partitions(store, "a", "b", "c", "none")
    assert found.pop("a").keys() == {"dagster/partition_row_count", "distribution of seconds"}
    assert found == {
        "b": {"dagster/partition_row_count": 1, "seconds": 3.5, "width": 64},
        "c": {"dagster/partition_row_count": 1, "width": 64},
        "none": {"dagster/partition_row_count": 0},
    }
    monkeypatch.setattr(metadata, "PARTITIONS_SHOWN", 0)
    assert of_partitions(store, "a") == {"a": {"dagster/partition_row_count": 2}}


def test_a_partition_of_a_run_is_told_alike(store: mx.MetadataStore) -> None:
    put(store, ("a1", 1.0), ("b1", 2.0))
    found, _ = rows_metadata(store, SHOTS, (["shot"], lambda row: row["shot"] == "b1"), PREVIEWS)
    assert found.pop("preview").records[0].data["shot"] == "b1"
    assert found == {
        "dagster/row_count": 2, "dagster/partition_row_count": 1, "seconds": 2.0, "width": 64,
    }  # fmt: skip


def test_the_table_is_sorted_and_short(store: mx.MetadataStore) -> None:
    put(store, ("b", 1.0), ("a", 12345.678))
    table = rows_metadata(store, SHOTS)[0]["preview"]
    names = ["shot", "seconds", "width", "curve", "path"]
    assert [column.name for column in table.schema.columns] == names
    assert [record.data for record in table.records] == [
        {
            "shot": "a", "seconds": 12346.0, "width": 64, "path": "/a",
            "curve": "[4115.0, 4115.0, 4115.0, 4115.0, ... (9)]",
        },
        {
            "shot": "b", "seconds": 1.0, "width": 64, "path": "/b",
            "curve": "[0.3333, 0.3333, 0.3333, 0.3333, ... (9)]",
        },
    ]  # fmt: skip
