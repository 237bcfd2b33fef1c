"""Partitions in YAML: the kinds that Dagster has, and how a sample finds its partition."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from dagster_metaxy.declare.schema import TEMPLATE, one_of, tagged, text_or

FIRST_FOLDER = r"^([^/]+)/"
DATE = r"(\d{4}-\d{2}-\d{2})"


class _Partitions(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _TimeWindow(_Partitions):
    start_date: str = Field(
        description="Start of the first partition: YYYY-MM-DD (hourly: YYYY-MM-DD-HH:MM).",
        examples=["2026-01-01"],
    )
    end_date: str | None = Field(
        default=None, description="End of the last partition.", examples=["2026-12-31"]
    )
    timezone: str | None = Field(
        default=None, description="Time zone of the windows; UTC if left out.", examples=["UTC"]
    )
    end_offset: int = Field(
        default=0,
        description="How many windows beyond the last complete one exist: 1 adds the one that is"
        " still open.",
        examples=[1],
    )


class Hourly(_TimeWindow):
    """One partition per hour."""

    type: Literal["hourly"] = Field(description="One partition per hour.", examples=["hourly"])


class Daily(_TimeWindow):
    """One partition per day."""

    type: Literal["daily"] = Field(description="One partition per day.", examples=["daily"])


class Weekly(_TimeWindow):
    """One partition per week."""

    type: Literal["weekly"] = Field(description="One partition per week.", examples=["weekly"])


class Monthly(_TimeWindow):
    """One partition per month."""

    type: Literal["monthly"] = Field(description="One partition per month.", examples=["monthly"])


class Static(_Partitions):
    """A fixed set of partitions."""

    type: Literal["static"] = Field(description="A fixed set of partitions.", examples=["static"])
    partition_keys: list[str] = Field(
        description="The keys of the partitions.", examples=[["cam_a", "cam_b"]]
    )


class Dynamic(_Partitions):
    """A set of partitions that grows while the pipeline runs."""

    type: Literal["dynamic"] = Field(
        description="A set of partitions that grows while the pipeline runs.",
        examples=["dynamic"],
    )
    name: str = Field(
        description="Name of the set; assets that give the same name share it.",
        examples=["clips"],
    )


Partitions = Annotated[
    Hourly | Daily | Weekly | Monthly | Static | Dynamic, Field(discriminator="type")
]
"""What a `partitions_def:` block may be."""

PARTITIONS_SCHEMA = text_or(
    {"pattern": TEMPLATE},
    tagged(
        {
            "hourly": Hourly,
            "daily": Daily,
            "weekly": Weekly,
            "monthly": Monthly,
            "static": Static,
            "dynamic": Dynamic,
        }
    ),
)

_DEFINITIONS: Mapping[str, type[dg.PartitionsDefinition]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
    "static": dg.StaticPartitionsDefinition,
    "dynamic": dg.DynamicPartitionsDefinition,
}


Locate = Callable[..., Exception]
"""Makes an error of a message and the path of what it is about."""


def _definition(locate: Locate, kind: str, options: Mapping[str, Any]) -> dg.PartitionsDefinition:
    options = {k: v for k, v in options.items() if v is not None}
    try:
        return _DEFINITIONS[kind](**options)
    except Exception as error:
        raise locate(f"{kind} partitions: {error}") from None


def partitions_definition(
    locate: Locate, partitions: Partitions | dg.PartitionsDefinition
) -> dg.PartitionsDefinition:
    """Dagster's definition of a `partitions_def:` block, or of what a template gave for it."""
    if isinstance(partitions, dg.PartitionsDefinition):
        return partitions
    options = partitions.model_dump()
    return _definition(locate, options.pop("type"), options)


class PartitionError(Exception):
    """A sample that belongs to no partition."""


class PatternError(PartitionError):
    """A path in which the pattern of the partitions finds no key."""


@dataclass(frozen=True)
class Partitioning:
    """Partitions, and which one a sample belongs to.

    Attributes:
        definition: Dagster's definition.
        column: The id column that the key is derived from.
        key_of: The partition key of a value of that column.
        follows_path: Whether the key is found in the path that the value was made from.
    """

    definition: dg.PartitionsDefinition
    column: str
    key_of: Callable[[Any], str] = str
    follows_path: bool = False

    def key(self, sample: Mapping[str, Any]) -> str:
        """The key of the partition that a sample belongs to.

        Raises:
            PartitionError: It belongs to none; the message says why.
        """
        return self.key_of(sample[self.column])

    @property
    def is_dynamic(self) -> bool:
        """Whether keys must be registered before they can be materialized."""
        return isinstance(self.definition, dg.DynamicPartitionsDefinition)

    @property
    def dynamic_name(self) -> str:
        """The name under which dynamic keys are registered."""
        assert isinstance(self.definition, dg.DynamicPartitionsDefinition)
        assert self.definition.name is not None
        return self.definition.name


def keys_of(definition: dg.PartitionsDefinition) -> Callable[[Any], str]:
    """How a value names a partition: by itself, where there is such a partition."""
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return str

    @lru_cache(maxsize=100_000)
    def key_of(value: Any) -> str:
        key = str(value)
        if not definition.has_partition_key(key):
            raise PartitionError(f"there is no partition {key!r}")
        return key

    return key_of


class VideosDynamic(_Partitions):
    """One partition per video."""

    type: Literal["dynamic"] = Field(
        description="One partition per video, registered as videos appear.", examples=["dynamic"]
    )


class VideosStatic(Static):
    """A fixed set of partitions, found in the path of each video."""

    pattern: str = Field(
        default=FIRST_FOLDER,
        description="Regular expression searched in the video's path below the source; its first"
        " group is the partition key. By default the first folder.",
        examples=[FIRST_FOLDER],
    )


class VideosDaily(Daily):
    """One partition per day, found in the path of each video."""

    end_offset: int = Field(
        default=1,
        description="How many days beyond the last complete one exist; with 1, today is there.",
        examples=[1],
    )
    pattern: str = Field(
        default=DATE,
        description="Regular expression searched in the video's path below the source; its first"
        " group is the date.",
        examples=[DATE, r"cam_(\d{8})"],
    )
    format: str = Field(
        default="%Y-%m-%d",
        description="How the date is written, as Python's strptime spells it.",
        examples=["%Y-%m-%d", "%Y%m%d"],
    )


VideoPartitions = (
    Literal["none", "dynamic"]
    | Annotated[VideosDynamic | VideosStatic | VideosDaily, Field(discriminator="type")]
)
"""What the `partitions:` block of a collection of videos may be."""

VIDEO_PARTITIONS_SCHEMA = text_or(
    one_of(("none", "dynamic")),
    tagged({"dynamic": VideosDynamic, "static": VideosStatic, "daily": VideosDaily}),
)


def _search(pattern: re.Pattern[str], video_id: str) -> str:
    found = pattern.search(video_id)
    if found is None or found.group(1) is None:
        raise PatternError(f"the path has no match for the partition pattern {pattern.pattern!r}")
    return found.group(1)


def _pattern(locate: Locate, text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise locate(f"not a regular expression: {text!r}: {error}", "pattern") from None
    if pattern.groups < 1:
        raise locate(
            f"the pattern {text!r} has no group: put what is the key in (parentheses)", "pattern"
        )
    return pattern


_UNSAFE_IN_KEYS = re.compile(r"\.{2,}|[\x00-\x1f\x7f|,]")


def dynamic_key(video_id: str) -> str:
    """The partition key of a video: its id, less what Dagster does not take in keys."""
    return _UNSAFE_IN_KEYS.sub(lambda m: "".join(f"%{ord(c):02X}" for c in m.group()), video_id)


def video_partitioning(locate: Locate, model: Any, *, name: str) -> Partitioning | None:
    """How videos are partitioned.

    Args:
        locate: Makes errors about the block, or what is at a path below it.
        model: A `VideoPartitions`.
        name: The name of the set of dynamic partitions.
    """
    if model == "none":
        return None
    if model == "dynamic" or model.type == "dynamic":
        return Partitioning(dg.DynamicPartitionsDefinition(name=name), "video_id", dynamic_key)
    options = model.model_dump()
    kind = options.pop("type")
    pattern = _pattern(locate, options.pop("pattern"))
    date_format = options.pop("format", None)
    definition = _definition(locate, kind, options)

    def static_key(video_id: str) -> str:
        key = _search(pattern, video_id)
        if key not in options["partition_keys"]:
            raise PartitionError(
                f"{key!r} is none of the partitions {', '.join(options['partition_keys'])}"
            )
        return key

    def daily_key(video_id: str) -> str:
        text = _search(pattern, video_id)
        try:
            day = datetime.strptime(text, date_format)
        except ValueError:
            raise PatternError(f"{text!r} is no date of the form {date_format!r}") from None
        key = day.strftime("%Y-%m-%d")
        if not definition.has_partition_key(key):
            raise PartitionError(f"no partition for {key}: it lies outside the partitions' dates")
        return key

    key_of = static_key if kind == "static" else daily_key
    return Partitioning(definition, "video_id", key_of, follows_path=True)
