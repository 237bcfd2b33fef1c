"""What a person wants to see of a feature: pictures, curves, and how values are spread.

Each is a small image inside Markdown, so that Dagster's UI shows it without any server of ours: at once
where the Markdown has less than 1,000 characters, as that of a histogram, else at a click.
"""

from __future__ import annotations

import base64
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from dagster_metaxy import locations

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    from PIL.Image import Image

_LARGEST = 60_000
"""Bytes of a picture in the metadata; Dagster keeps it with every materialization."""
_SHEET_WIDTH, _SHEET_IMAGES, _LABEL = 960, 24, 14
_ITEMS, _KINDS, _LINES = 100, 20, 8
_EVERY = 1_000_000
"""Rows that are enough for all of any collection of videos."""
_COLORS = ("royalblue", "orange", "tomato", "teal", "orchid", "sienna")
_WIDTH, _HEIGHT, _MARGIN, _NAMES = 430, 160, 48, 100
"""Pixels of a drawing, which the UI cuts where it is wider than its column."""
_BARS = 24
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

    most_rows: ClassVar[int] = _SHEET_IMAGES
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

    Files that are gone, or that are no images, are left out.

    Attributes:
        size: Longest edge of each in pixels.
    """

    size: int = 160

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return "pictures"

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet."""
        shown = []
        for row in rows.iter_rows(named=True):
            try:
                image, _ = locations.read(
                    row[self.column], lambda file, row=row: self.small(file, row)
                )
            except Exception:  # whatever it is, it is no reason to fail
                continue
            shown.append((image, " ".join(str(row[c]) for c in ids)))
            if len(shown) * self.size**2 >= _SHEET_IMAGES * 160**2:
                break
        return _picture(_sheet(shown, self.size)) if shown else None

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
    text: str = ""

    most_rows: ClassVar[int] = 200

    @property
    def columns(self) -> Sequence[str]:
        """The corners of the boxes, in pixels of the image."""
        return ("left", "top", "right", "bottom", *filter(None, [self.text]))

    @property
    def upstream_columns(self) -> Sequence[str]:
        """The image file."""
        return (self.column,)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet."""
        ids = ids[:-1]  # the last is the number of the box
        images = rows.group_by(*ids, self.column, maintain_order=True).agg(self.columns)
        return super().show(images, ids)

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


class Curves(Preview):
    """A column of lists, each value a second, as a line for each sample."""

    most_rows: ClassVar[int] = len(_COLORS)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A plot."""
        lines = []
        for row in rows.iter_rows(named=True):
            values = [v for v in row[self.column] or () if v is not None and math.isfinite(v)]
            if values:
                lines.append((" ".join(str(row[c]) for c in ids), values))
        return _drawing(_plot(lines, self.unit)) if lines else None


class Histogram(Preview):
    """How the values of a column are spread over the collection."""

    most_rows: ClassVar[int] = 10_000

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A plot."""
        values = [v for v in rows[self.column].to_list() if v is not None and math.isfinite(v)]
        return _drawing(_bars(values, self.unit)) if values else None


@dataclass(frozen=True)
class Lists(Preview):
    """Columns of lists that belong together, item by item, as a table.

    Attributes:
        beside: The other columns.
    """

    beside: tuple[str, ...] = ()

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (*self.beside, self.column)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A table."""
        from dagster_metaxy.report.tables import metadata_table

        items = rows.select(self.columns).explode(self.columns).drop_nulls().head(_ITEMS)
        return metadata_table(items.rows(), self.columns) if items.height else None


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
class Values(Preview):
    """Some columns of the first rows, as a table: what there is to read.

    Attributes:
        beside: The columns before it.
    """

    beside: tuple[str, ...] = ()

    most_rows: ClassVar[int] = _ITEMS

    @property
    def columns(self) -> Sequence[str]:
        """All columns that it is made from."""
        return (*self.beside, self.column)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A table."""
        from dagster_metaxy.report.tables import metadata_table

        shown = list(dict.fromkeys([*ids[:-1], *self.columns]))
        return metadata_table(rows.select(shown).rows(), shown) if rows.height else None


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


def _picture(jpeg: bytes) -> dg.MetadataValue:
    return _markdown(f"![](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})")


def _drawing(svg: str) -> dg.MetadataValue:
    # Shorter than in base 64.
    return _markdown(f"![](<data:image/svg+xml,{quote(svg, safe=_PLAIN)}>)")


def _markdown(text: str) -> dg.MetadataValue:
    # Not at the top: a worker process that computes a step has no use for Dagster.
    import dagster as dg

    return dg.MetadataValue.md(text)


def _sheet(shown: Sequence[tuple[Image, str]], size: int) -> bytes:
    """Images in rows, with a name below each."""
    from PIL import Image, ImageDraw

    height = max(image.height for image, _ in shown) + _LABEL
    columns = max(1, min(_SHEET_WIDTH // size, len(shown)))
    sheet = Image.new("RGB", (columns * size, -(-len(shown) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, name) in enumerate(shown):
        left, top = index % columns * size, index // columns * height
        sheet.paste(image, (left + (size - image.width) // 2, top))
        fits = size // 6 - 1
        text = name if len(name) <= fits else f"...{name[3 - fits :]}"
        draw.text((left + 3, top + height - _LABEL + 1), text, "black")
    data = b""
    for quality, reduced in ((75, 1), (55, 1), (35, 1), (35, 2), (15, 4)):
        file = io.BytesIO()
        sheet.reduce(reduced).save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= _LARGEST:
            break
    return data


def _number(value: float) -> str:
    return f"{value:.4g}"


def _frame(
    low: float, high: float, left: str, right: str, unit: str, content: str, legend: int = 0
) -> str:
    """A drawing with axes.

    Args:
        low: The value at the bottom.
        high: At the top.
        left: What the left end of the horizontal axis is.
        right: What its right end is.
        unit: Of the vertical one.
        content: Elements between the axes, and those of the legend.
        legend: How high the legend is.
    """
    x, y, below = _MARGIN, _HEIGHT - 20, _HEIGHT - 6
    middle = f"<text x='{x - 4}' y='{y // 2}'>{escape(unit)}</text>" if unit else ""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT + legend}'"
        " font-family='Arial' font-size='11' fill='gray'>"
        f"<path d='M{x} 8V{y}H{_WIDTH}' fill='none' stroke='gray'/>"
        f"<text x='{x}' y='{below}'>{escape(left)}</text>"
        f"<g text-anchor='end'><text x='{x - 4}' y='16'>{_number(high)}</text>{middle}"
        f"<text x='{x - 4}' y='{y}'>{_number(low)}</text>"
        f"<text x='{_WIDTH}' y='{below}'>{escape(right)}</text></g>{content}</svg>"
    )


def _plot(lines: Sequence[tuple[str, Sequence[float]]], unit: str) -> str:
    """Lines over seconds."""
    low = min(min(values) for _, values in lines)
    high = max(max(values) for _, values in lines)
    longest = max(len(values) for _, values in lines)
    span, bottom, wide = (high - low) or 1.0, _HEIGHT - 20, _WIDTH - _MARGIN
    content = []
    for index, (name, values) in enumerate(lines):
        color = _COLORS[index % len(_COLORS)]
        step = -(-len(values) // wide)  # no more points than there are pixels
        points = " ".join(
            f"{_MARGIN + wide * at / max(1, longest - 1):.0f},"
            f"{bottom - (bottom - 10) * (value - low) / span:.0f}"
            for at, value in list(enumerate(values))[::step]
        )
        # A round end shows a line of one point, too.
        content.append(
            f"<polyline points='{points} {points.rpartition(' ')[2]}' fill='none' stroke='{color}'"
            " stroke-width='2' stroke-linecap='round'/>"
            f"<text x='{_MARGIN + index % 3 * wide // 3}' y='{_HEIGHT + 10 + index // 3 * 14}'"
            f" fill='{color}'>{escape(name if len(name) <= 20 else f'{name[:18]}...')}</text>"
        )
    legend = -(-len(lines) // 3) * 14
    return _frame(low, high, "0 s", f"{longest} s", unit, "".join(content), legend)


def _stretches(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Bars over seconds, a line of them for each name."""
    last = max(end for stretches in lines.values() for _, end in stretches) or 1.0
    left, high, wide = _NAMES, 16, _WIDTH - _NAMES
    drawn = []
    for line, (name, stretches) in enumerate(lines.items()):
        top = line * (high + 6) + 4
        path: dict[int, str] = {}  # neighbours in other shades, to be told apart
        for index, (start, end) in enumerate(stretches):
            begin, length = wide * start / last, wide * (end - start) / last
            path[index % 2] = (
                f"{path.get(index % 2, '')}M{left + begin:.0f} {top}h{max(1, length):.0f}"
                f"v{high}h-{max(1, length):.0f}z"
            )
        drawn += [f"<path d='{d}' opacity='{1 - 0.4 * shade}'/>" for shade, d in path.items()]
        shown = name if len(name) <= 16 else f"{name[:14]}..."
        drawn.append(f"<text x='0' y='{top + 12}' fill='gray'>{escape(shown)}</text>")
    below = len(lines) * (high + 6) + 16
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{below + 4}'"
        f" font-family='Arial' font-size='11' fill='{_COLORS[0]}'>{''.join(drawn)}"
        f"<g fill='gray'><text x='{left}' y='{below}'>0 s</text>"
        f"<text x='{_WIDTH}' y='{below}' text-anchor='end'>{_number(last)} s</text></g></svg>"
    )


def _bars(values: Sequence[float], unit: str) -> str:
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
    return _frame(0, most, left, right, "", content)
