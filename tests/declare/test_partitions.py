from __future__ import annotations

import dagster as dg
import pytest

from dagster_metaxy.declare.partitions import (
    PartitionError,
    Partitioning,
    VideosDaily,
    VideosStatic,
    dynamic_key,
    video_partitioning,
)


def _locate(message: str, *path: str) -> Exception:
    return ValueError(f"{'.'.join(path)}: {message}")


def _partitioning(model: object) -> Partitioning:
    partitioning = video_partitioning(_locate, model, name="clips")
    assert partitioning is not None
    return partitioning


@pytest.mark.parametrize(
    "video_id", ["a", "a/b c", "a...b", "..", "x|y", "a,b", "tab\tbell\x07", "ünï/代码", "y" * 300]
)
def test_dynamic_keys_are_what_dagster_takes(video_id: str) -> None:
    key = dynamic_key(video_id)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("clips", [key])
        instance.report_runless_asset_event(dg.AssetMaterialization("a", partition=key))
        assert instance.get_materialized_partitions(dg.AssetKey("a")) == {key}
    assert "..." not in key


def test_dynamic_keys_differ_where_ids_do() -> None:
    ids = ["a..b", "a.b", "a|b", "a,b", "a/b"]
    assert len({dynamic_key(i) for i in ids}) == len(ids)


def test_none() -> None:
    assert video_partitioning(_locate, "none", name="clips") is None


def test_static_by_folder_and_by_pattern() -> None:
    keys = ["cam_a", "cam_b"]
    by_folder = _partitioning(VideosStatic(type="static", partition_keys=keys))
    assert by_folder.key({"video_id": "cam_a/x/y"}) == "cam_a"
    for video_id in ("cam_c/x", "cam_a"):
        with pytest.raises(PartitionError):
            by_folder.key({"video_id": video_id})
    by_pattern = _partitioning(
        VideosStatic(type="static", partition_keys=keys, pattern=r"_(cam_\w)$")
    )
    assert by_pattern.key({"video_id": "2026/x_cam_b"}) == "cam_b"


def test_daily_formats_and_bounds() -> None:
    daily = _partitioning(
        VideosDaily(type="daily", start_date="2026-01-01", pattern=r"cam_(\d{8})", format="%Y%m%d")
    )
    assert daily.key({"video_id": "x/cam_20260203"}) == "2026-02-03"
    with pytest.raises(PartitionError, match="no date of the form"):
        daily.key({"video_id": "cam_20261399"})
    with pytest.raises(PartitionError, match="outside"):
        daily.key({"video_id": "cam_20251231"})


def test_daily_has_today() -> None:
    daily = _partitioning(VideosDaily(type="daily", start_date="2026-01-01"))
    import datetime

    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    assert daily.key({"video_id": f"{today}/x"}) == today


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (VideosStatic(type="static", partition_keys=["a"], pattern="("), "pattern: not a regular"),
        (VideosStatic(type="static", partition_keys=["a"], pattern="a"), "pattern: .* no group"),
        (VideosDaily(type="daily", start_date="yesterday"), "daily partitions"),
        (VideosStatic(type="static", partition_keys=["a", "a"]), "static partitions"),
    ],
)
def test_wrong_blocks(model: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_partitioning(_locate, model, name="clips")
