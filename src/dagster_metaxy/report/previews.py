"""What a person wants to see of a feature: pictures, curves, and how values are spread.

Each is a small image inside Markdown, so that Dagster's UI shows it without any server of ours: at once
where the Markdown has less than 1,000 characters, as that of a histogram, else at a click.
"""

from __future__ import annotations

import base64
import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from typing_extensions import Self

from dagster_metaxy import locations

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    from PIL.Image import Image

_LARGEST = 60_000
"""Bytes of a picture in the metadata; Dagster keeps it with every materialization."""
_SHEET_WIDTH, _LABEL, _GAP = 960, 14, 6
_BRIEF_IMAGES, _BRIEF_LARGEST = 6, 15_000
"""Images, and bytes of the picture, of one partition: a run may tell of many."""
_ITEMS, _BEST, _KINDS, _LINES = 100, 30, 20, 8
_VIDEOS_READ, _CHARACTERS_READ = 5, 4_000
_EXPANDED = 1_000
"""Characters of Markdown that Dagster's UI shows without a click."""
_EVERY = 1_000_000
"""Rows that are enough for all of any collection of videos."""
_COLORS = ("royalblue", "orange", "tomato", "teal", "orchid", "sienna")
_WIDTH, _HEIGHT, _MARGIN, _NAMES = 360, 150, 48, 100
"""Pixels of a drawing, which the UI cuts where it is wider than its column."""
_BARS = 24
_NAMED_BARS = 12
"""So many values at most are shown one by one, with the names of their samples."""
_PLAIN = " ='/:,.-()"
"""What needs no escape in the URL of a drawing."""


@dataclass(frozen=True)
class Preview(ABC):
    """Something to see of the newest rows of a feature.

    Attributes:
        column: What it is made from.
        unit: Of the column's values.
    """

    column: str
    unit: str = ""

    most_rows: ClassVar[int] = 10_000
    of_all: ClassVar[bool] = False
    """Whether it is of the whole feature, and makes no sense of some partitions."""

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return self.column.replace("_", " ")

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (self.column,)

    @property
    def upstream_columns(self) -> Sequence[str]:
        """Columns of the feature that this one is computed from, which it is made from, too."""
        return ()

    def brief(self) -> Self:
        """The same with less of it, as for one partition of many."""
        return self

    @abstractmethod
    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """What is to be seen; None where there is nothing.

        Args:
            rows: At most `most_rows` of the feature.
            ids: The columns that name a sample.
        """


@dataclass(frozen=True)
class Images(Preview):
    """The image files that a column names, as a sheet of small ones with their names.

    As many are shown of each video as of any other, evenly over its rows. Files that are gone, or
    that are no images, are left out.

    Attributes:
        size: Longest edge of each in pixels.
        most: How many are shown.
        time: The column of the time in seconds that each is of, to be named by instead of the last id.
        largest: Bytes of the sheet.
    """

    size: int = 160
    most: int = 24
    time: str = ""
    largest: int = _LARGEST

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return "pictures"

    @property
    def columns(self) -> Sequence[str]:
        """The file, and its time."""
        return (self.column, *filter(None, [self.time]))

    def brief(self) -> Self:
        """A smaller sheet of fewer."""
        return replace(
            self,
            size=min(self.size, 320),
            most=min(self.most, _BRIEF_IMAGES),
            largest=_BRIEF_LARGEST,
        )

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet, and how many it leaves out."""
        return self.sheet(rows, ids, rows.height >= self.most_rows)

    def sheet(
        self, rows: pl.DataFrame, ids: Sequence[str], is_cut: bool
    ) -> dg.MetadataValue | None:
        """The same.

        Args:
            rows: Each with an image.
            ids: The columns that name one.
            is_cut: Whether there may be more than these.
        """
        if rows.is_empty():
            return None

        def image_of(row: Mapping[str, Any]) -> Image | None:
            try:
                return locations.read(row[self.column], lambda file: self.small(file, row))[0]
            except Exception:  # whatever it is, it is no reason to fail
                return None

        named = ids[:-1] if self.time and len(ids) > 1 else ids
        chosen = _spread(rows, ids[0], self.most).to_dicts()
        with ThreadPoolExecutor(8) as pool:  # files may be remote
            images = [*pool.map(image_of, chosen)]
        shown = []
        for row, image in zip(chosen, images, strict=True):
            if image is not None:
                at = f" {_clock(row[self.time])}" if self.time else ""
                shown.append((image, f"{_named(row, named)}{at}"))
        if not shown:
            return None
        left_out = ""
        if is_cut or len(shown) < rows.height:
            of = f"the newest {rows.height}" if is_cut else rows.height
            left_out = f"\n\n{len(shown)} of {of} pictures"
        return _picture(_sheet(shown, self.size, self.largest), left_out)

    def small(self, file: Any, row: Mapping[str, Any]) -> Image:
        """A file as a small image.

        Args:
            file: The file, or its path.
            row: Which names it.
        """
        from PIL import Image

        from dagster_metaxy.media.still import at_once

        with Image.open(at_once(file)) as image:
            image.draft("RGB", (self.size, self.size))  # a JPEG is decoded no larger than need be
            image.thumbnail((self.size, self.size))
            return image.convert("RGB")


class FirstFrames(Images):
    """The first frames of the video files that a column names, as `Images` are shown."""

    def small(self, file: Any, row: Mapping[str, Any]) -> Image:
        """The first frame of a file."""
        from PIL import Image

        from dagster_metaxy.media.frames import first

        return Image.fromarray(first(file, max_size=self.size))


@dataclass(frozen=True)
class Boxes(Images):
    """What was found in images: the image files of the upstream feature, with a frame around each.

    Attributes:
        text: The column of what is written there, if any.
    """

    column: str = "path"
    size: int = 320
    most: int = 9
    time: str = "time"
    text: str = ""

    most_rows: ClassVar[int] = 2_000

    @property
    def columns(self) -> Sequence[str]:
        """The corners of the boxes, in pixels of the image."""
        return ("left", "top", "right", "bottom", *filter(None, [self.text]))

    @property
    def upstream_columns(self) -> Sequence[str]:
        """The image file, and its time."""
        return (self.column, self.time)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet."""
        ids = ids[:-1]  # the last is the number of the box
        by = (*ids, *self.upstream_columns)
        images = rows.group_by(by, maintain_order=True).agg(self.columns)
        return self.sheet(images, ids, rows.height >= self.most_rows)

    def small(self, file: Any, row: Mapping[str, Any]) -> Image:
        """A file as a small image, with the boxes."""
        from PIL import Image, ImageDraw

        from dagster_metaxy.media.still import at_once

        with Image.open(at_once(file)) as opened:
            image = opened.convert("RGB")
        scale = self.size / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        draw = ImageDraw.Draw(image)
        for index, corners in enumerate(zip(*(row[c] for c in self.columns[:4]), strict=True)):
            left, top, right, bottom = (value * scale for value in corners)
            draw.rectangle((left, top, max(left, right), max(top, bottom)), outline="red", width=2)
            if self.text:
                draw.text((left, max(0.0, top - _LABEL)), row[self.text][index], "red")
        return image


@dataclass(frozen=True)
class Curves(Preview):
    """A column of lists, each value a second, as a line for each sample.

    Attributes:
        low: What the vertical axis begins at; the least value if None.
        high: What it ends at; the greatest value if None.
    """

    low: float | None = None
    high: float | None = None

    most_rows: ClassVar[int] = len(_COLORS)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A plot."""
        lines, without = [], []
        for row in rows.iter_rows(named=True):
            values = [v for v in row[self.column] or () if v is not None and math.isfinite(v)]
            name = _named(row, ids)
            if values:
                lines.append((name, values))
            else:
                without.append(name)
        short = f"too short: {', '.join(without)}" if without else ""
        if not lines:
            return _markdown(_escaped(short)) if short else None
        label = self.unit or self.column.removesuffix("_curve").replace("_", " ")
        return _drawing(_plot(lines, label, self.low, self.high, short))


class Histogram(Preview):
    """How the values of a column are spread over the collection; of few, each one."""

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return f"distribution of {super().title}"

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A plot; none of a single value, which is a number like others."""
        named = [
            (_named(row, ids), float(row[self.column]))
            for row in rows.iter_rows(named=True)
            if row[self.column] is not None and math.isfinite(row[self.column])
        ]
        if len(named) < 2:
            return None
        if len(named) <= _NAMED_BARS:
            return _drawing(_named_bars(named, self.unit))
        # Ids are called after what they count: `video_id`, `face_index`.
        what = re.sub("_(id|index)$", "", ids[-1]) if ids else "sample"
        return _drawing(_bars([value for _, value in named], self.unit, f"{what}s"))


@dataclass(frozen=True)
class Lists(Preview):
    """Columns of lists that belong together, item by item, as a table.

    Attributes:
        beside: The other columns.
        nothing: A sentence that is shown where the lists are empty.
    """

    beside: tuple[str, ...] = ()
    nothing: str = ""

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (*self.beside, self.column)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A table."""
        from dagster_metaxy.report.tables import metadata_table

        items = rows.select(self.columns).explode(self.columns).drop_nulls().head(_ITEMS)
        if items.is_empty():
            return _markdown(self.nothing) if self.nothing else None
        return metadata_table(items.rows(), self.columns)


@dataclass(frozen=True)
class Timeline(Preview):
    """Stretches of time, each from one column to another, as a line of bars for each video.

    Attributes:
        end: The column of where they end, in seconds.
    """

    column: str = "start"
    end: str = "end"

    most_rows: ClassVar[int] = 2_000

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return "timeline"

    @property
    def columns(self) -> Sequence[str]:
        """Where they begin, and where they end."""
        return (self.column, self.end)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A plot."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows.iter_rows(named=True):
            name = str(row[ids[0]])
            if name in lines or len(lines) < _LINES:
                lines.setdefault(name, []).append((row[self.column], row[self.end]))
        return _drawing(_stretches(lines)) if lines else None


@dataclass(frozen=True)
class Best(Preview):
    """Some columns of the rows with the highest score, as a table.

    Attributes:
        score: The column that they are sorted by.
    """

    score: str = "score"

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (self.score, self.column)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A table."""
        from dagster_metaxy.report.tables import metadata_table

        shown = [*ids[:-1], *self.columns]
        best = rows.sort(self.score, descending=True, nulls_last=True, maintain_order=True)
        best = rounded(best.select(shown).head(_BEST))
        return metadata_table(best.rows(), shown) if best.height else None


@dataclass(frozen=True)
class Transcript(Preview):
    """A column of text, as lines with their times, of the first videos.

    Attributes:
        start: The column of the time in seconds that each begins at.
    """

    start: str = "start"

    most_rows: ClassVar[int] = 2_000

    @property
    def columns(self) -> Sequence[str]:
        """The text, and its time."""
        return (self.start, self.column)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """Paragraphs."""
        videos = rows.partition_by(ids[0], maintain_order=True)[:_VIDEOS_READ]
        each = _CHARACTERS_READ // max(1, len(videos))
        shown = []
        for video in videos:
            lines, left = [f"**{_escaped(str(video[ids[0]][0]))}**"], each
            for start, text in video.select(self.columns).iter_rows():
                if left <= 0:
                    lines.append("...")
                    break
                line = f"{_clock(math.floor(start))} {' '.join(str(text).split())[:left]}"
                left -= len(line)
                lines.append(_escaped(line))
            shown.append("  \n".join(lines))  # two spaces break a line
        return _markdown("\n\n".join(shown)) if shown else None


@dataclass(frozen=True)
class Total(Preview):
    """The sum of a column over the collection, as a number that Dagster plots over time.

    Attributes:
        name: What it is.
        scale: How much of the column is one of it.
    """

    name: str = ""
    scale: float = 1.0

    most_rows: ClassVar[int] = _EVERY
    of_all: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return self.name

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A number."""
        import dagster as dg

        return dg.MetadataValue.float(round(float(rows[self.column].sum()) / self.scale, 3))


@dataclass(frozen=True)
class Kinds(Preview):
    """How many rows have each combination of values of some columns, as a table.

    Attributes:
        beside: The other columns.
        counted: What a row is, in the plural.
    """

    beside: tuple[str, ...] = ()
    counted: str = "rows"

    most_rows: ClassVar[int] = _EVERY
    of_all: ClassVar[bool] = True

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (self.column, *self.beside)

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return f"kinds of {self.counted}"

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A table."""
        from dagster_metaxy.report.tables import metadata_table

        kinds = rows.group_by(self.columns).len(self.counted)
        kinds = kinds.sort(
            [self.counted, *self.columns], descending=[True, *(False for _ in self.columns)]
        )
        shown = [["" if v is None else v for v in row] for row in kinds.head(_KINDS).rows()]
        return metadata_table(shown, kinds.columns) if shown else None


def _named(row: Mapping[str, Any], ids: Sequence[str]) -> str:
    """A sample in a drawing: what it is called, without the columns' names."""
    return " ".join(str(row[c]) for c in ids)


def rounded(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose floats have four digits that count, or those before the point."""
    import polars as pl
    import polars.selectors as cs

    def short(value: pl.Expr) -> pl.Expr:
        return pl.when(value.abs() < 1_000).then(value.round_sig_figs(4)).otherwise(value.round(0))

    lists = [n for n, t in rows.schema.items() if t in (pl.List(pl.Float64), pl.List(pl.Float32))]
    return rows.with_columns(
        short(cs.float()), *(pl.col(name).list.eval(short(pl.element())) for name in lists)
    )


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spaced."""
    return (
        [(2 * i + 1) * count // (2 * most) for i in range(most)]
        if count > most
        else [*range(count)]
    )


def _spread(rows: pl.DataFrame, column: str, most: int) -> pl.DataFrame:
    """At most so many rows: of each value of a column as many as of any other, evenly spaced."""
    import polars as pl

    groups = rows.partition_by(column, maintain_order=True)
    groups = [groups[index] for index in _evenly(len(groups), most)]
    each = most // len(groups)
    return pl.concat([group[_evenly(group.height, each)] for group in groups])


def _clock(seconds: float) -> str:
    """Minutes and seconds: `1:02.5`."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    whole, tenth = divmod(tenths, 10)
    return f"{minutes}:{whole:02}" + (f".{tenth}" if tenth else "")


def _escaped(text: str) -> str:
    """Text as Markdown shows it."""
    return re.sub(r"([\\`*_\[\]<>#|~&$!])", r"\\\1", text)


def _picture(jpeg: bytes, below: str = "") -> dg.MetadataValue:
    return _markdown(f"![](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}){below}")


def _drawing(svg: str) -> dg.MetadataValue:
    return _markdown(_embedded(svg))


def _embedded(svg: str) -> str:
    # Shorter than in base 64.
    return f"![](<data:image/svg+xml,{quote(svg, safe=_PLAIN)}>)"


def _markdown(text: str) -> dg.MetadataValue:
    # Not at the top: a worker process that computes a step has no use for Dagster.
    import dagster as dg

    return dg.MetadataValue.md(text)


def _sheet(shown: Sequence[tuple[Image, str]], size: int, largest: int) -> bytes:
    """Images in rows, with a name below each, as a JPEG of at most so many bytes."""
    from PIL import Image, ImageDraw

    columns = max(1, min(_SHEET_WIDTH // size, len(shown)))
    lines = [shown[begin : begin + columns] for begin in range(0, len(shown), columns)]
    heights = [max(image.height for image, _ in line) + _LABEL for line in lines]
    sheet = Image.new(
        "RGB",
        (columns * (size + _GAP) - _GAP, sum(heights) + (len(lines) - 1) * _GAP),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    fits = size // 6 - 1
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for index, (image, name) in enumerate(line):
            left = index * (size + _GAP) + (size - image.width) // 2
            sheet.paste(image, (left, top))
            text = name if len(name) <= fits else f"...{name[3 - fits :]}"
            wide = draw.textlength(text)
            # Below its picture, and as far to the left as it must be to end within the column.
            left = min(left, (index + 1) * (size + _GAP) - _GAP - int(wide))
            draw.text((left, top + image.height + 1), text, "black")
        top += height + _GAP
    data = b""
    for quality, reduced in ((75, 1), (55, 1), (35, 1), (55, 2), (35, 2), (15, 4)):
        file = io.BytesIO()
        sheet.reduce(reduced).save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= largest:
            break
    return data


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def _svg(height: int, fill: str, content: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}'"
        f" font-family='Arial' font-size='11' fill='{fill}'>{content}</svg>"
    )


def _frame(
    low: float, high: float, left: str, right: str, label: str, content: str, legend: int = 0
) -> str:
    """A drawing with axes.

    Args:
        low: The value at the bottom.
        high: At the top.
        left: What the left end of the horizontal axis is.
        right: What its right end is.
        label: What the vertical one is.
        content: Elements between the axes, and those of the legend.
        legend: How high the legend is.
    """
    x, y, below = _MARGIN, _HEIGHT - 20, _HEIGHT - 6
    return _svg(
        _HEIGHT + legend,
        "gray",
        f"<path d='M{x} 8V{y}H{_WIDTH}' fill='none' stroke='gray'/>"
        f"<text x='{x}' y='{below}'>{escape(left)}</text>"
        f"<text transform='rotate(-90)' x='-{y // 2}' y='11' text-anchor='middle'>{escape(label)}</text>"
        f"<g text-anchor='end'><text x='{x - 4}' y='16'>{_number(high)}</text>"
        f"<text x='{x - 4}' y='{y}'>{_number(low)}</text>"
        f"<text x='{_WIDTH}' y='{below}'>{escape(right)}</text></g>{content}",
    )


def _plot(
    lines: Sequence[tuple[str, Sequence[float]]],
    label: str,
    low: float | None,
    high: float | None,
    below: str,
) -> str:
    """Lines over seconds.

    Args:
        lines: Names and values.
        label: What the values are.
        low: The value at the bottom; the least if None.
        high: The value at the top; the greatest if None.
        below: What is said below the legend.
    """
    low = min(min(values) for _, values in lines) if low is None else low
    high = max(max(values) for _, values in lines) if high is None else high
    longest = max(len(values) for _, values in lines)
    span, bottom, wide = (high - low) or 1.0, _HEIGHT - 20, _WIDTH - _MARGIN
    content = []
    for index, (name, values) in enumerate(lines):
        color = _COLORS[index % len(_COLORS)]
        step = -(-len(values) // wide)  # no more points than there are pixels
        points = [
            (
                round(_MARGIN + wide * at / max(1, longest - 1)),
                round(bottom - (bottom - 10) * (value - low) / span),
            )
            for at, value in list(enumerate(values))[::step]
        ]
        if len(points) == 1:
            # Where a line would begin, but clear of the axis.
            ((_, height),) = points
            content.append(f"<circle cx='{_MARGIN + 4}' cy='{height}' r='4' fill='{color}'/>")
        else:
            along = " ".join(f"{x},{y}" for x, y in points)
            content.append(
                f"<polyline points='{along}' fill='none' stroke='{color}' stroke-width='2'/>"
            )
        content.append(
            f"<text x='{_MARGIN + index % 3 * wide // 3}' y='{_HEIGHT + 10 + index // 3 * 14}'"
            f" fill='{color}'>{escape(_cut(name, 20))}</text>"
        )
    legend = -(-len(lines) // 3) * 14
    if below:
        legend += 14
        content.append(
            f"<text x='{_MARGIN}' y='{_HEIGHT + legend - 4}'>{escape(_cut(below, 64))}</text>"
        )
    return _frame(low, high, "0 s", f"{longest} s", label, "".join(content), legend)


def _stretches(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Bars over seconds, a line of them for each name."""
    last = max(end for stretches in lines.values() for _, end in stretches) or 1.0
    left, high, wide = _NAMES, 16, _WIDTH - _NAMES
    drawn = []
    for line, (name, stretches) in enumerate(lines.items()):
        top = line * (high + 6) + 4
        # Neighbours in other shades, to be told apart; those of one pixel, once.
        bars: tuple[dict[str, None], dict[str, None]] = ({}, {})
        for index, (start, end) in enumerate(stretches):
            begin, length = wide * start / last, wide * (end - start) / last
            bars[index % 2][
                f"M{left + begin:.0f} {top}h{max(1, length):.0f}v{high}h-{max(1, length):.0f}z"
            ] = None
        drawn += [
            f"<path d='{''.join(path)}' opacity='{1 - 0.4 * shade}'/>"
            for shade, path in enumerate(bars)
            if path
        ]
        drawn.append(f"<text x='0' y='{top + 12}' fill='gray'>{escape(_cut(name, 16))}</text>")
    below = len(lines) * (high + 6) + 16
    return _svg(
        below + 4,
        _COLORS[0],
        f"{''.join(drawn)}<g fill='gray'><text x='{left}' y='{below}'>0 s</text>"
        f"<text x='{_WIDTH}' y='{below}' text-anchor='end'>{_number(last)} s</text></g>",
    )


def _named_bars(values: Sequence[tuple[str, float]], unit: str) -> str:
    """A bar from 0 for each value, with its name; names are as long as the UI shows at once.

    Where all are less than 0, as decibels, bars begin somewhat below the least: the more, the longer.
    """
    low, high = min(v for _, v in values), max(v for _, v in values)
    start = low - (0.1 * (high - low) or 1) if high < 0 else 0.0
    low, high = min(low, start), max(high, start)
    left, wide = 170, _WIDTH - 180
    zero, *ends = (
        round(left + wide * (value - low) / ((high - low) or 1))
        for value in (start, *(v for _, v in values))
    )
    path = "".join(f"M{zero} {10 + i * 14}H{end}" for i, end in enumerate(ends))
    svg = ""
    for longest in (20, 14, 10, 6):
        texts = "".join(
            f"<text y='{14 + i * 14}'>"
            # The unit once, to be short.
            + escape(f"{_cut(name, longest)} {_number(value)} {'' if i else unit}".strip())
            + "</text>"
            for i, (name, value) in enumerate(values)
        )
        svg = _svg(
            len(values) * 14 + 6,
            "gray",
            f"<path d='{path}' stroke='{_COLORS[0]}' stroke-width='10'/>{texts}",
        )
        if len(_embedded(svg)) < _EXPANDED:
            break
    return svg


def _bars(values: Sequence[float], unit: str, counted: str) -> str:
    """How many values are in each of equal parts of their range."""
    low, high = min(values), max(values)
    count = min(_BARS, math.ceil(math.sqrt(len(values)))) if high > low else 1
    parts = [0] * count
    for value in values:
        parts[min(count - 1, int((value - low) / ((high - low) or 1) * count))] += 1
    most, bottom = max(parts), _HEIGHT - 20
    wide = (_WIDTH - _MARGIN) // count
    bars = "".join(
        f"M{_MARGIN + index * wide + 1} {bottom}v-{round((bottom - 10) * part / most)}h{wide - 2}V{bottom}"
        for index, part in enumerate(parts)
        if part
    )
    content = f"<path d='{bars}' fill='{_COLORS[0]}'/>"
    left, right = (f"{_number(value)} {unit}".strip() for value in (low, high))
    return _frame(0, most, left, right, counted, content)
