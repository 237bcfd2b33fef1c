from __future__ import annotations

import datetime
from typing import Any

import dagster as dg
import pytest

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.keys import PartitionError
from dagster_metaxy.declare.partitions import (
    Partitioning,
    VideosDaily,
    VideosDynamic,
    VideosHourly,
    VideosMonthly,
    VideosStatic,
    VideosWeekly,
    dynamic_key,
    keys_of,
    refusal,
    video_partitioning,
)

UTC = datetime.timezone.utc


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


@pytest.mark.parametrize(
    ("model", "column", "value", "key"),
    [
        (
            VideosHourly(type="hourly", start_date="2026-01-01-00:00", column="at"),
            Column("datetime"),
            datetime.datetime(2026, 1, 2, 3, 59, tzinfo=UTC),
            "2026-01-02-03:00",
        ),
        (
            VideosDaily(type="daily", start_date="2026-01-01", timezone="Asia/Tokyo", column="at"),
            Column("datetime"),
            datetime.datetime(2026, 1, 2, 23, tzinfo=UTC),
            "2026-01-03",
        ),
        (
            VideosDaily(type="daily", start_date="2026-01-01", column="at"),
            Column(),
            "2026-01-02 03:04:05",
            "2026-01-02",
        ),
        (
            VideosWeekly(type="weekly", start_date="2026-01-01", column="at"),
            Column(),
            "2026-01-06T10:00",
            "2026-01-04",
        ),
        (
            VideosMonthly(type="monthly", start_date="2026-01-01", column="at"),
            Column("date"),
            datetime.date(2026, 1, 31),
            "2026-01-01",
        ),
        (
            VideosStatic(type="static", partition_keys=["1", "2"], column="at"),
            Column("int"),
            2,
            "2",
        ),
        (VideosDynamic(type="dynamic", column="at"), Column(), "a|b", "a%7Cb"),
    ],
)
def test_videos_by_a_column(model: object, column: Column, value: object, key: str) -> None:
    found = video_partitioning(_locate, model, name="clips", columns={"at": column})
    assert found is not None
    assert (found.columns, found.follows_path) == (("at",), False)
    assert found.key({"video_id": "x", "at": value}) == key
    with pytest.raises(PartitionError):
        found.key({"video_id": "x", "at": None})


def test_a_column_that_names_no_partition() -> None:
    model = VideosMonthly(type="monthly", start_date="2026-01-01", column="recorded_at")
    with pytest.raises(ValueError, match=r"column: .* type str, date, datetime; .* is float"):
        video_partitioning(_locate, model, name="x", columns={"recorded_at": Column("float")})
    with pytest.raises(ValueError, match="Did you mean 'recorded_a'"):
        video_partitioning(_locate, model, name="x", columns={"recorded_a": Column()})


class TestKeys:
    """The partition that a value names."""

    @staticmethod
    def _key(definition: dg.PartitionsDefinition, *values: object) -> str | None:
        try:
            return keys_of(definition)(*values)
        except PartitionError:
            return None

    @pytest.mark.parametrize(
        ("value", "key"),
        [
            (datetime.date(2026, 1, 2), "2026-01-02"),
            ("2026-01-02", "2026-01-02"),
            # midnight in Paris is 23:00 of the day before
            (datetime.datetime(2026, 1, 1, 23, tzinfo=UTC), "2026-01-02"),
            (datetime.datetime(2026, 1, 1, 22, 59, 59, 999999, tzinfo=UTC), "2026-01-01"),
            (datetime.datetime(2026, 1, 1, 23), "2026-01-02"),  # columns are UTC
            ("2026-01-02T00:00", "2026-01-02"),  # text is local
            ("2026-01-01 23:00:00Z", "2026-01-02"),
            ("2026-01-01T23:30:00+01:00", "2026-01-01"),
            # summer time: 23 hours, then 22:00 UTC is midnight
            (datetime.datetime(2026, 3, 29, 21, 59, tzinfo=UTC), "2026-03-29"),
            (datetime.datetime(2026, 3, 29, 22, 0, tzinfo=UTC), "2026-03-30"),
            (datetime.date(2025, 12, 31), None),
            (datetime.date(2026, 5, 1), None),
            (datetime.date(1, 1, 1), None),
            ("someday", None),
            ("", None),
            (None, None),
        ],
    )
    def test_days(self, value: object, key: str | None) -> None:
        definition = dg.DailyPartitionsDefinition(
            "2026-01-01", end_date="2026-05-01", timezone="Europe/Paris"
        )
        assert self._key(definition, value) == key

    @pytest.mark.parametrize(
        ("definition", "value", "key"),
        [
            # a day is the window that starts on it, though its midnight is in the one before
            (dg.DailyPartitionsDefinition("2026-01-01", hour_offset=6), "2026-01-05", "2026-01-05"),
            (
                dg.DailyPartitionsDefinition("2026-01-01", hour_offset=6),
                "2026-01-05T05:59",
                "2026-01-04",
            ),
            (dg.WeeklyPartitionsDefinition("2026-01-01"), datetime.date(2026, 1, 14), "2026-01-11"),
            (dg.WeeklyPartitionsDefinition("2026-01-01"), datetime.date(2026, 1, 3), None),
            (
                dg.WeeklyPartitionsDefinition("2026-01-01", day_offset=1),
                datetime.date(2026, 1, 11),
                "2026-01-05",
            ),
            (
                dg.MonthlyPartitionsDefinition("2026-01", fmt="%Y-%m", day_offset=15),
                datetime.date(2026, 3, 3),
                "2026-02",
            ),
            (dg.HourlyPartitionsDefinition("2026-01-01-00:00"), "2026-01-02", "2026-01-02-00:00"),
            (
                dg.DailyPartitionsDefinition("2026-01-01", exclusions=["0 0 * * 6"]),
                "2026-01-03T12:00",  # a Saturday
                None,
            ),
            (dg.StaticPartitionsDefinition(["x", "3"]), 3, "3"),
            (dg.StaticPartitionsDefinition(["x", "None"]), None, None),
            (dg.StaticPartitionsDefinition(["x"]), "y", None),
            (dg.DynamicPartitionsDefinition(name="n"), "any", "any"),
            (dg.DynamicPartitionsDefinition(name="n"), "a...b", "a%2E%2E%2Eb"),
            (dg.DynamicPartitionsDefinition(name="n"), None, None),
            (dg.DynamicPartitionsDefinition(name="n"), "", None),
        ],
    )
    def test_kinds(self, definition: Any, value: object, key: str | None) -> None:
        assert self._key(definition, value) == key

    def test_the_window_that_is_open_is_none_unless_it_exists(self) -> None:
        now = datetime.datetime.now(UTC)
        assert self._key(dg.DailyPartitionsDefinition("2026-01-01"), now) is None
        there = dg.DailyPartitionsDefinition("2026-01-01", end_offset=1)
        assert self._key(there, now) == now.strftime("%Y-%m-%d")

    def test_two_dimensions(self) -> None:
        definition = dg.MultiPartitionsDefinition(
            {
                "date": dg.DailyPartitionsDefinition("2026-01-01"),
                "camera": dg.DynamicPartitionsDefinition(name="cameras"),
            }
        )
        day = datetime.date(2026, 1, 2)
        key = self._key(definition, "a|b", day)
        assert key == "a%7Cb|2026-01-02"
        assert self._key(definition, "x", None) is None
        assert self._key(definition, None, day) is None
        partitioning = Partitioning(definition, ("camera", "date"), keys_of(definition))
        assert partitioning.key({"date": day, "camera": "x"}) == "x|2026-01-02"
        assert partitioning.dynamic_keys(["x|2026-01-02", "y|2026-01-02", "x|2026-01-03"]) == {
            "cameras": {"x", "y"}
        }


def test_what_dagster_refuses() -> None:
    days = dg.DailyPartitionsDefinition("2026-01-01")
    cameras = dg.StaticPartitionsDefinition(["a"])
    assert refusal(days) is None
    assert refusal(days, days) is None
    assert refusal(cameras, days, dg.AllPartitionMapping()) is None
    assert refusal(cameras, days) == (
        "Upstream and downstream partitions definitions must match, or a different partition"
        " mapping must be provided"
    )
