"""Partitions in YAML: the kinds that Dagster has, and how a sample finds its partition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.errors import did_you_mean
from dagster_metaxy.declare.keys import PartitionError, PatternError
from dagster_metaxy.declare.schema import TEMPLATE, one_of, tagged, text_or

FIRST_FOLDER = r"^([^/]+)/"
DATE = r"(\d{4}-\d{2}-\d{2})"


class _Partitions(BaseModel):
    model_config = ConfigDict(extra="forbid")


Timezone = Annotated[
    str | None,
    Field(
        description="Time zone of the windows; UTC if left out.",
        examples=["UTC", "Europe/Paris"],
    ),
]
EndOffset = Annotated[
    int,
    Field(
        description="How many windows beyond the last complete one exist: 1 adds the one that is"
        " still open.",
        examples=[1],
    ),
]
MinuteOffset = Annotated[
    int, Field(ge=0, le=59, description="Minute at which a window starts.", examples=[30])
]
HourOffset = Annotated[
    int, Field(ge=0, le=23, description="Hour at which a window starts.", examples=[6])
]


class _FromDate(_Partitions):
    start_date: str = Field(
        description="Start of the first partition: YYYY-MM-DD (hourly: YYYY-MM-DD-HH:MM).",
        examples=["2026-01-01"],
    )
    end_date: str | None = Field(
        default=None, description="End of the last partition.", examples=["2026-12-31"]
    )
    timezone: Timezone = None
    end_offset: EndOffset = 0


class Hourly(_FromDate):
    """One partition per hour."""

    type: Literal["hourly"] = Field(description="One partition per hour.", examples=["hourly"])
    minute_offset: MinuteOffset = 0


class Daily(_FromDate):
    """One partition per day."""

    type: Literal["daily"] = Field(description="One partition per day.", examples=["daily"])
    minute_offset: MinuteOffset = 0
    hour_offset: HourOffset = 0


class Weekly(_FromDate):
    """One partition per week."""

    type: Literal["weekly"] = Field(description="One partition per week.", examples=["weekly"])
    minute_offset: MinuteOffset = 0
    hour_offset: HourOffset = 0
    day_offset: int = Field(
        default=0,
        ge=0,
        le=6,
        description="Day on which a week starts: 0 is Sunday.",
        examples=[1],
    )


class Monthly(_FromDate):
    """One partition per month."""

    type: Literal["monthly"] = Field(description="One partition per month.", examples=["monthly"])
    minute_offset: MinuteOffset = 0
    hour_offset: HourOffset = 0
    day_offset: int = Field(
        default=1,
        ge=1,
        le=31,
        description="Day of the month on which a window starts.",
        examples=[15],
    )


class TimeWindow(_Partitions):
    """One partition per window of a cron schedule."""

    type: Literal["time_window"] = Field(
        description="One partition per window of a cron schedule.", examples=["time_window"]
    )
    start: str = Field(
        description="Start of the first partition, written as `fmt` says.",
        examples=["2026-01-01-00"],
    )
    cron_schedule: str = Field(
        description="When a window ends and the next one starts.", examples=["0 */6 * * *"]
    )
    fmt: str = Field(
        description="How the start of a window is written as its partition key, as Python's"
        " strftime spells it.",
        examples=["%Y-%m-%d-%H"],
    )
    end: str | None = Field(
        default=None,
        description="End of the last partition, written as `fmt` says.",
        examples=["2026-12-31-00"],
    )
    timezone: Timezone = None
    end_offset: EndOffset = 0


class Static(_Partitions):
    """A fixed set of partitions."""

    type: Literal["static"] = Field(description="A fixed set of partitions.", examples=["static"])
    partition_keys: list[str] = Field(
        min_length=1, description="The keys of the partitions.", examples=[["cam_a", "cam_b"]]
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


Dimension = Annotated[
    Hourly | Daily | Weekly | Monthly | TimeWindow | Static | Dynamic, Field(discriminator="type")
]
"""What a dimension of `multi` partitions may be."""

_DIMENSIONS: Mapping[str, type[BaseModel]] = {
    "hourly": Hourly,
    "daily": Daily,
    "weekly": Weekly,
    "monthly": Monthly,
    "time_window": TimeWindow,
    "static": Static,
    "dynamic": Dynamic,
}


def _dimensions_schema(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = text_or({"pattern": TEMPLATE}, tagged(_DIMENSIONS))


class Multi(_Partitions):
    """Partitions of two dimensions: one per pair of keys."""

    type: Literal["multi"] = Field(
        description="Two dimensions; one partition per pair of their keys.", examples=["multi"]
    )
    partitions_defs: dict[str, Dimension | SkipJsonSchema[InstanceOf[dg.PartitionsDefinition]]] = (
        Field(
            min_length=2,
            max_length=2,
            description="The two dimensions by name, each partitions of any other kind.",
            examples=[
                {
                    "date": {"type": "daily", "start_date": "2026-01-01"},
                    "camera": {"type": "static", "partition_keys": ["cam_a", "cam_b"]},
                }
            ],
            json_schema_extra=_dimensions_schema,
        )
    )


Partitions = Annotated[
    Hourly | Daily | Weekly | Monthly | TimeWindow | Static | Dynamic | Multi,
    Field(discriminator="type"),
]
"""What a `partitions_def:` block may be."""

PARTITIONS_SCHEMA = text_or({"pattern": TEMPLATE}, tagged({**_DIMENSIONS, "multi": Multi}))

_DEFINITIONS: Mapping[str, type[dg.PartitionsDefinition]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
    "time_window": dg.TimeWindowPartitionsDefinition,
    "static": dg.StaticPartitionsDefinition,
    "dynamic": dg.DynamicPartitionsDefinition,
    "multi": dg.MultiPartitionsDefinition,
}


Locate = Callable[..., Exception]
"""Makes an error of a message and the path of what it is about."""


def _definition(locate: Locate, kind: str, options: Mapping[str, Any]) -> dg.PartitionsDefinition:
    options = {k: v for k, v in options.items() if v is not None}
    try:
        definition = _DEFINITIONS[kind](**options)
    except Exception as error:
        raise locate(f"{kind} partitions: {error}") from None
    if why := refusal(definition):
        raise locate(f"{kind} partitions: {why}")
    return definition


def partitions_definition(
    locate: Locate, partitions: Partitions | dg.PartitionsDefinition
) -> dg.PartitionsDefinition:
    """Dagster's definition of a `partitions_def:` block, or of what a template gave for it."""
    if isinstance(partitions, dg.PartitionsDefinition):
        if isinstance(partitions, dg.DynamicPartitionsDefinition) and partitions.name is None:
            raise locate("dynamic partitions need a name, under which their keys are registered")
        return partitions
    if isinstance(partitions, Multi):
        dimensions = {
            name: partitions_definition(
                # A default argument: the loop's variable will be another one.
                lambda message, *path, name=name: locate(message, "partitions_defs", name, *path),
                dimension,
            )
            for name, dimension in partitions.partitions_defs.items()
        }
        return _definition(locate, "multi", {"partitions_defs": dimensions})
    options = partitions.model_dump()
    return _definition(locate, options.pop("type"), options)


def refusal(
    definition: dg.PartitionsDefinition | None,
    upstream: dg.PartitionsDefinition | None = None,
    mapping: dg.PartitionMapping | None = None,
) -> str | None:
    """Why Dagster refuses partitions, by themselves or downstream of others; None if it does not.

    Dagster says so only when it loads all definitions, without a place in the YAML.

    Args:
        definition: The partitions of an asset.
        upstream: The partitions of an asset that it depends on.
        mapping: Which of these its own depend on; Dagster's default if None.
    """
    dep = dg.AssetDep("upstream", partition_mapping=mapping)
    above = dg.asset(name="upstream", partitions_def=upstream)(lambda: None)
    below = dg.asset(name="downstream", partitions_def=definition, deps=[dep])(lambda: None)
    try:
        dg.Definitions.validate_loadable(dg.Definitions(assets=[above, below]))
    except Exception as error:
        why = str(error.__cause__ or error).removeprefix("Failure condition: ")
        return why.split(". ")[0].rstrip(".")
    return None


@dataclass(frozen=True)
class Partitioning:
    """Partitions, and which one a sample belongs to.

    Attributes:
        definition: Dagster's definition.
        columns: The columns that a sample's partition is found by: one, or of `multi` partitions
            one for each dimension, in Dagster's order. Empty until they are known.
        key_of: The partition key of values of these columns.
        follows_path: Whether the key is found in the path that the value was made from.
    """

    definition: dg.PartitionsDefinition
    columns: tuple[str, ...]
    key_of: Callable[..., str] = str
    follows_path: bool = False

    def key(self, sample: Mapping[str, Any]) -> str:
        """The key of the partition that a sample belongs to.

        Raises:
            PartitionError: It belongs to none; the message says why.
        """
        return self.key_of(*(sample[column] for column in self.columns))

    @property
    def dimensions(self) -> Mapping[str, dg.PartitionsDefinition]:
        """The definitions of `multi` partitions by name, in the order of `columns`; else none."""
        if not isinstance(self.definition, dg.MultiPartitionsDefinition):
            return {}
        return {d.name: d.partitions_def for d in self.definition.partitions_defs}

    def keys_by_dimension(self, key: str) -> Mapping[str, str]:
        """Of a key of `multi` partitions, that of each dimension; else nothing."""
        if not isinstance(self.definition, dg.MultiPartitionsDefinition):
            return {}
        return self.definition.get_partition_key_from_str(key).keys_by_dimension

    def dynamic_keys(self, keys: Iterable[str]) -> dict[str, set[str]]:
        """The keys that must be registered before `keys` can be materialized, by name of the set."""
        if isinstance(self.definition, dg.DynamicPartitionsDefinition):
            return {str(self.definition.name): set(keys)}
        names = {
            dimension: str(definition.name)
            for dimension, definition in self.dimensions.items()
            if isinstance(definition, dg.DynamicPartitionsDefinition)
        }
        found: dict[str, set[str]] = {name: set() for name in names.values()}
        for key in keys if names else ():
            for dimension, own in self.keys_by_dimension(key).items():
                if dimension in names:
                    found[names[dimension]].add(own)
        return found


def partition_columns(
    locate: Locate,
    definition: dg.PartitionsDefinition,
    partition_by: str | Mapping[str, str] | None,
) -> tuple[str, ...]:
    """The columns that `partition_by:` names, in the order of the dimensions; empty if left out."""
    if partition_by is None:
        return ()
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        if not isinstance(partition_by, str):
            raise locate("of partitions of one dimension, this is the name of one column")
        return (partition_by,)
    names = [dimension.name for dimension in definition.partitions_defs]
    if isinstance(partition_by, str) or set(partition_by) != set(names):
        example = ", ".join(f"{name}: column" for name in names)
        raise locate(f"of multi partitions, this names a column for each dimension: {{{example}}}")
    return tuple(partition_by[name] for name in names)


def key_types(definition: dg.PartitionsDefinition) -> Sequence[str]:
    """The types of columns whose values name partitions of one dimension."""
    is_window = isinstance(definition, dg.TimeWindowPartitionsDefinition)
    return ("str", "date", "datetime") if is_window else ("str", "int", "bool", "date")


def keys_of(definition: dg.PartitionsDefinition) -> Callable[..., str]:
    """How values name a partition: by themselves, or the window that a time lies in.

    Of `multi` partitions, the function takes a value for each dimension, in Dagster's order.
    """
    if isinstance(definition, dg.MultiPartitionsDefinition):
        dimensions = {d.name: keys_of(d.partitions_def) for d in definition.partitions_defs}

        @lru_cache(maxsize=100_000)
        def multi_key(*values: Any) -> str:
            pairs = zip(dimensions.items(), values, strict=True)
            return dg.MultiPartitionKey({name: key_of(value) for (name, key_of), value in pairs})

        return multi_key
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return lambda value: dynamic_key(_text(value))
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return _window_keys(definition)

    @lru_cache(maxsize=100_000)
    def static_key(value: Any) -> str:
        key = _text(value)
        if not definition.has_partition_key(key):
            raise PartitionError(f"there is no partition {key!r}")
        return key

    return static_key


def _text(value: Any) -> str:
    if value is None or value == "":
        raise PartitionError("the column that names the partition is empty")
    return str(value)


def _window_keys(definition: dg.TimeWindowPartitionsDefinition) -> Callable[[Any], str]:
    """The key of the window that a time lies in: a datetime, a date, or text that is one.

    Text is taken in the definition's time zone unless it names one; datetimes without a zone are
    UTC, as everywhere in columns. A day is in the window that starts on it, else in the one that its
    midnight lies in.
    """
    zone = ZoneInfo(definition.timezone)

    @lru_cache(maxsize=100_000)
    def there(key: str) -> str:
        # An exception is not remembered: a window that does not exist yet may later.
        if not definition.has_partition_key(key):
            raise PartitionError(f"no partition {key}: it lies outside the windows")
        return key

    @lru_cache(maxsize=100_000)
    def key_of(value: Any) -> str:
        if value is None:
            raise PartitionError("the column that names the partition is empty")
        moment = value
        if isinstance(value, str):
            if definition.has_partition_key(value):
                return value
            moment = _time(value)
        if not isinstance(moment, datetime):
            key = moment.strftime(definition.fmt)
            if (
                definition.has_partition_key(key)
                and definition.time_window_for_partition_key(key).start.date() == moment
            ):
                return key
            moment = datetime.combine(moment, time())
            moment = moment.replace(tzinfo=zone)
        elif moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone if isinstance(value, str) else timezone.utc)
        if moment < definition.start:
            raise PartitionError(f"no partition for {value}: it lies before the first")
        key = there(definition.get_partition_key_for_timestamp(moment.timestamp()))
        # Of a window that is excluded, Dagster gives the one before.
        if definition.exclusions and moment >= definition.time_window_for_partition_key(key).end:
            raise PartitionError(f"no partition for {value}: its window is excluded")
        return key

    return key_of


def _time(text: str) -> date:
    """A date or a datetime of text in ISO 8601."""
    for parse in (date.fromisoformat, datetime.fromisoformat):
        try:
            return parse(text.replace("Z", "+00:00"))
        except ValueError:
            continue
    raise PartitionError(f"{text!r} is neither a partition key nor a date in ISO 8601")


VideoColumn = Annotated[
    str | None,
    Field(
        description="The column, of those that the source keeps (`columns`), which says in which"
        " partition a video is: a text that is the key, or for windows of time a date, a datetime,"
        " or text in ISO 8601. Of sources of type `sql` and `http`.",
        examples=["recorded_at"],
    ),
]
VideosEndOffset = Annotated[
    int,
    Field(
        description="How many windows beyond the last complete one exist; with 1, the one that is"
        " still open is there.",
        examples=[1],
    ),
]


class VideosDynamic(_Partitions):
    """One partition per video, or per value of a column."""

    type: Literal["dynamic"] = Field(
        description="One partition per video, or per value of a `column`, registered as videos"
        " appear.",
        examples=["dynamic"],
    )
    column: VideoColumn = None


class VideosStatic(Static):
    """A fixed set of partitions, found in the path of each video, or in a column."""

    column: VideoColumn = None
    pattern: str = Field(
        default=FIRST_FOLDER,
        description="Regular expression searched in the video's path below the source; its first"
        " group is the partition key. By default the first folder.",
        examples=[FIRST_FOLDER],
    )


class VideosDaily(Daily):
    """One partition per day, found in the path of each video, or in a column."""

    end_offset: VideosEndOffset = 1
    column: VideoColumn = None
    pattern: str = Field(
        default=DATE,
        description="Regular expression searched in the video's path below the source; its first"
        " group is the date.",
        examples=[DATE, r"cam_(\d{8})"],
    )
    format: str = Field(
        default="%Y-%m-%d",
        description="How the date is written in the path, as Python's strptime spells it.",
        examples=["%Y-%m-%d", "%Y%m%d"],
    )


class VideosHourly(Hourly):
    """One partition per hour, found in a column."""

    end_offset: VideosEndOffset = 1
    column: VideoColumn = None


class VideosWeekly(Weekly):
    """One partition per week, found in a column."""

    end_offset: VideosEndOffset = 1
    column: VideoColumn = None


class VideosMonthly(Monthly):
    """One partition per month, found in a column."""

    end_offset: VideosEndOffset = 1
    column: VideoColumn = None


VideoPartitions = (
    Literal["none", "dynamic"]
    | Annotated[
        VideosDynamic | VideosStatic | VideosHourly | VideosDaily | VideosWeekly | VideosMonthly,
        Field(discriminator="type"),
    ]
)
"""What the `partitions:` block of a collection of videos may be."""

VIDEO_PARTITIONS_SCHEMA = text_or(
    one_of(("none", "dynamic")),
    tagged(
        {
            "dynamic": VideosDynamic,
            "static": VideosStatic,
            "hourly": VideosHourly,
            "daily": VideosDaily,
            "weekly": VideosWeekly,
            "monthly": VideosMonthly,
        }
    ),
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


def _check_video_column(
    locate: Locate,
    definition: dg.PartitionsDefinition,
    name: str,
    columns: Mapping[str, Column] | None,
) -> None:
    """Refuse a column that videos are not known by before they are read, or whose values are no keys."""
    if columns is None:
        raise locate(
            "files have no columns: partitions of a source of type `files` are found in the path, by"
            " a `pattern`",
            "column",
        )
    if name not in columns:
        kept = f" (kept: {', '.join(columns)})" if columns else ""
        raise locate(
            f"the source keeps no column {name!r}{kept}: add it to the source's `columns`, such as"
            f" `columns: {{{name}: str}}`.{did_you_mean(name, columns)}",
            "column",
        )
    types = key_types(definition)
    if columns[name].type not in types:
        raise locate(
            f"partitions are found by a column of type {', '.join(types)}; {name!r} is"
            f" {columns[name].type}",
            "column",
        )


def video_partitioning(
    locate: Locate, model: Any, *, name: str, columns: Mapping[str, Column] | None = None
) -> Partitioning | None:
    """How videos are partitioned.

    Args:
        locate: Makes errors about the block, or what is at a path below it.
        model: A `VideoPartitions`.
        name: The name of the set of dynamic partitions.
        columns: Those that the source keeps; None where it has none.
    """
    if model == "none":
        return None
    model = VideosDynamic(type="dynamic") if model == "dynamic" else model
    options: dict[str, Any] = model.model_dump()
    kind = options.pop("type")
    column = options.pop("column", None)
    of_path = {option: options.pop(option, None) for option in ("pattern", "format")}
    if kind == "dynamic":
        options["name"] = name
    if column is None and kind not in ("dynamic", "static", "daily"):
        raise locate(f"{kind} partitions are found in a column: name it in `column`")
    definition = _definition(locate, kind, options)
    if column is not None:
        for option in of_path:
            if option in model.model_fields_set:
                raise locate(
                    f"`{option}` is about paths, but partitions are found in the column {column!r}:"
                    " leave one of them out",
                    option,
                )
        _check_video_column(locate, definition, column, columns)
        return Partitioning(definition, (column,), keys_of(definition))
    if kind == "dynamic":
        return Partitioning(definition, ("video_id",), dynamic_key)
    pattern, date_format = _pattern(locate, of_path["pattern"]), of_path["format"]

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
    return Partitioning(definition, ("video_id",), key_of, follows_path=True)
