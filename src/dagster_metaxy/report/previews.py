"""What a person wants to see of the rows of a feature: pictures, curves, and how values are spread.

Each is a small image inside Markdown, so that Dagster's UI shows it without any server of ours: at once
where the Markdown has less than 1,000 characters, as that of a histogram, else at a click.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.report import drawings

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    from PIL.Image import Image

_LARGEST = 60_000
"""Bytes of a picture in the metadata; Dagster keeps it with every materialization."""
_BRIEF_IMAGES, _BRIEF_LARGEST = 6, 15_000
"""Images, and bytes of the picture, of one partition: a run may tell of many."""
_ITEMS, _BEST, _KINDS, _LINES = 100, 30, 20, 8
_VIDEOS_READ, _CHARACTERS_READ = 5, 4_000
_EVERY = 1_000_000
"""Rows that are enough for all of any collection of videos."""
_APART = 10.0
"""Seconds between frames of a video that may show something else."""
_NAMED_BARS = 12
"""So many values at most are shown one by one, with the names of their samples."""


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

    @property
    def upstream_ids(self) -> Sequence[str]:
        """What names a row of that feature; if empty, the columns that name a row of this one."""
        return ()

    def of_upstream(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows, each of one of that feature, to which its columns are then added."""
        return rows

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
        chosen = _spread(rows, ids[0], self.most).to_dicts()
        shown = [
            (image, self.name(row, ids))
            for row, image in zip(chosen, self.images(chosen), strict=True)
            if image is not None
        ]
        if not shown:
            return None
        left_out = ""
        if is_cut or len(shown) < rows.height:
            of = f"the newest {rows.height}" if is_cut else rows.height
            left_out = f"\n\n{len(shown)} of {of} pictures"
        return self.lines(drawings.in_lines(shown, self.size), left_out)

    def lines(self, lines: Sequence[Sequence[drawings.Named]], below: str) -> dg.MetadataValue:
        """A sheet of lines of images, and Markdown below it."""
        return _markdown(drawings.of_jpeg(drawings.sheet(lines, self.size, self.largest)) + below)

    def name(self, row: Mapping[str, Any], ids: Sequence[str]) -> str:
        """What the image of a row is called."""
        if not self.time:
            return _named(row, ids)
        # A space of the sheet's font is narrow.
        return f"{_named(row, ids[:-1] or ids)}  {_clock(row[self.time])}"

    def images(self, rows: Sequence[Mapping[str, Any]]) -> list[Image | None]:
        """The small images of rows; None for each that cannot be read."""

        def image_of(row: Mapping[str, Any]) -> Image | None:
            try:
                return locations.read(row[self.column], lambda file: self.small(file, row))[0]
            except Exception:  # whatever it is, it is no reason to fail
                return None

        with ThreadPoolExecutor(8) as pool:  # files may be remote
            return [*pool.map(image_of, rows)]

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


class Posters(Images):
    """A frame of each of the video files that a column names, as `Images` are shown."""

    def small(self, file: Any, row: Mapping[str, Any]) -> Image:
        """A frame from near the start of a file."""
        from PIL import Image

        from dagster_metaxy.media.frames import poster

        return Image.fromarray(poster(file, max_size=self.size))


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
                draw.text((left, max(0.0, top - drawings.LABEL)), row[self.text][index], "red")
        return image


@dataclass(frozen=True)
class Pairs(Images):
    """Pictures of both videos of some pairs side by side: of nearer pairs, and of less near ones.

    Lists in one row say which pairs there are; the image files are those of the upstream feature.

    Attributes:
        first: The column of the one video of each pair.
        second: The column of the other one.
        distance: The column of how far they are from each other.
    """

    column: str = "path"
    size: int = 480
    most: int = 6
    first: str = "video_ids"
    second: str = "other_ids"
    distance: str = "distances"

    @property
    def columns(self) -> Sequence[str]:
        """The pairs."""
        return (self.first, self.second, self.distance)

    @property
    def upstream_columns(self) -> Sequence[str]:
        """The image file."""
        return (self.column,)

    @property
    def upstream_ids(self) -> Sequence[str]:
        """The video."""
        return ("video_id",)

    def of_upstream(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Two rows for each of the pairs that are shown."""
        import polars as pl

        pairs = rows.explode(self.columns).drop_nulls(self.columns)
        pairs = pairs.sort(self.distance, maintain_order=True)
        pairs = pairs[_evenly(pairs.height, self.most)].with_row_index("pair")
        return pl.concat(pairs.with_columns(video_id=c) for c in (self.first, self.second))

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet, with a line for each pair."""
        if rows.is_empty():
            return None
        videos = rows.unique("video_id").to_dicts()
        images = dict(zip((v["video_id"] for v in videos), self.images(videos), strict=True))
        lines = []
        for row in rows.unique("pair").sort("pair").iter_rows(named=True):
            one, other = images.get(row[self.first]), images.get(row[self.second])
            if one is not None and other is not None:
                distance = f"{row[self.distance]:.3g} {self.unit}".strip()
                lines.append([(one, row[self.first]), (other, f"{row[self.second]}   {distance}")])
        return self.lines(lines, "") if lines else None


@dataclass(frozen=True)
class Neighbours(Images):
    """Some frames, each in a line with those whose vectors are nearest to its own.

    The image files are those of the upstream feature. What is within 10 s of a frame of the line, in
    the same video, is left out, since it shows the same.

    Attributes:
        vector: The column of vectors.
        nearest: How many are shown beside each frame.
    """

    column: str = "path"
    size: int = 200
    most: int = 4
    time: str = "time"
    vector: str = "embedding"
    nearest: int = 3

    most_rows: ClassVar[int] = 1_000

    @property
    def title(self) -> str:
        """What Dagster shows it by."""
        return "nearest neighbours"

    @property
    def columns(self) -> Sequence[str]:
        """The vectors."""
        return (self.vector,)

    @property
    def upstream_columns(self) -> Sequence[str]:
        """The image file, and its time."""
        return (self.column, self.time)

    def brief(self) -> Self:
        """A smaller sheet of fewer."""
        return replace(super().brief(), most=2)

    def show(self, rows: pl.DataFrame, ids: Sequence[str]) -> dg.MetadataValue | None:
        """A sheet, with a line for each frame."""
        import numpy as np
        import polars as pl

        if not (count := rows.height):
            return None
        lengths = pl.Series([len(vector or ()) for vector in rows[self.vector].to_list()])
        rows = rows.filter(lengths == lengths.mode().max())  # others are of a former model
        vectors = np.array(rows[self.vector].to_list(), np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        has_direction = np.isfinite(norms) & (norms > 0)
        rows = rows.drop(self.vector).filter(pl.Series(has_direction)).with_row_index("at")
        if rows.is_empty():
            return None
        vectors = vectors[has_direction] / norms[has_direction, None]
        frames = rows.to_dicts()
        found: list[list[tuple[int, str]]] = []
        for at in _spread(rows, ids[0], self.most)["at"]:
            line = [(at, self.name(frames[at], ids))]
            likeness = vectors @ vectors[at]
            for other in np.argsort(-likeness, kind="stable").tolist():
                if len(line) > self.nearest:
                    break
                if all(self._is_elsewhere(frames[other], frames[seen], ids) for seen, _ in line):
                    name = f"{likeness[other]:.2f}   {self.name(frames[other], ids)}"
                    line.append((other, name))
            found.append(line)
        wanted = sorted({at for line in found for at, _ in line})
        images = dict(zip(wanted, self.images([frames[at] for at in wanted]), strict=True))
        lines = []
        for (query, name), *others in found:
            near = [(image, text) for at, text in others if (image := images[at]) is not None]
            if (image := images[query]) is not None and near:
                lines.append([(image, name), *near])
        if not lines:
            return None
        of = f"the newest {count}" if count >= self.most_rows else count
        return self.lines(
            lines, f"\n\nIn each line, a frame and the nearest of {of} by cosine similarity"
        )

    def _is_elsewhere(
        self, one: Mapping[str, Any], other: Mapping[str, Any], ids: Sequence[str]
    ) -> bool:
        """Whether a frame is of another video than another one, or of another part of it."""
        return one[ids[0]] != other[ids[0]] or abs(one[self.time] - other[self.time]) >= _APART


@dataclass(frozen=True)
class Curves(Preview):
    """A column of lists, each value a second, as a line for each sample.

    Attributes:
        low: What the vertical axis begins at; the least value if None.
        high: What it ends at; the greatest value if None.
    """

    low: float | None = None
    high: float | None = None

    most_rows: ClassVar[int] = len(drawings.COLORS)

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
        return _markdown(drawings.of_svg(drawings.plot(lines, label, self.low, self.high, short)))


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
            return _markdown(drawings.of_svg(drawings.named_bars(named, self.unit)))
        # Ids are called after what they count: `video_id`, `face_index`.
        what = re.sub("_(id|index)$", "", ids[-1]) if ids else "sample"
        values = [value for _, value in named]
        return _markdown(drawings.of_svg(drawings.bars(values, self.unit, f"{what}s")))


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
        return _markdown(drawings.of_svg(drawings.stretches(lines))) if lines else None


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
        from dagster_metaxy.report.tables import metadata_table, rounded

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


def _markdown(text: str) -> dg.MetadataValue:
    # Not at the top: a worker process that computes a step has no use for Dagster.
    import dagster as dg

    return dg.MetadataValue.md(text)
