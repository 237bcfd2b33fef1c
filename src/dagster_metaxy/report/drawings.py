"""How pictures are put on a sheet and values drawn, for Markdown in Dagster's UI: as text, whatever they are of."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from PIL.Image import Image

LABEL = 14
"""Pixels of a line of text on a picture."""
COLORS = ("royalblue", "orange", "tomato", "teal", "orchid", "sienna")
"""Of lines that are told apart."""
_SHEET_WIDTH, _GAP = 960, 6
_EXPANDED = 1_000
"""Characters of Markdown that Dagster's UI shows without a click."""
_WIDTH, _HEIGHT, _MARGIN, _NAMES = 360, 150, 48, 100
"""Pixels of a drawing, which the UI cuts where it is wider than its column."""
_BARS = 24
_PLAIN = " ='/:,.-()"
"""What needs no escape in the URL of a drawing."""


def of_jpeg(jpeg: bytes) -> str:
    """Markdown that shows a JPEG."""
    return f"![](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def of_svg(svg: str) -> str:
    """Markdown that shows a drawing."""
    # Shorter than in base 64.
    return f"![](<data:image/svg+xml,{quote(svg, safe=_PLAIN)}>)"


Named = tuple["Image", str]
"""An image, and what is written below it."""


def in_lines(images: Sequence[Named], size: int) -> list[Sequence[Named]]:
    """Images in lines that are as long as a sheet is wide.

    Args:
        images: In their order.
        size: Their longest edge in pixels.
    """
    columns = max(1, _SHEET_WIDTH // size)
    return [images[begin : begin + columns] for begin in range(0, len(images), columns)]


def sheet(lines: Sequence[Sequence[Named]], size: int, largest: int) -> bytes:
    """Lines of images, with what is written below each, as a JPEG.

    Args:
        lines: Each with one image at least.
        size: Their longest edge in pixels.
        largest: Bytes at most.
    """
    from PIL import Image, ImageDraw

    columns = max(map(len, lines))
    heights = [max(image.height for image, _ in line) + LABEL for line in lines]
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


def plot(
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
        color = COLORS[index % len(COLORS)]
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


def stretches(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
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
        COLORS[0],
        f"{''.join(drawn)}<g fill='gray'><text x='{left}' y='{below}'>0 s</text>"
        f"<text x='{_WIDTH}' y='{below}' text-anchor='end'>{_number(last)} s</text></g>",
    )


def named_bars(values: Sequence[tuple[str, float]], unit: str) -> str:
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
            f"<path d='{path}' stroke='{COLORS[0]}' stroke-width='10'/>{texts}",
        )
        if len(of_svg(svg)) < _EXPANDED:
            break
    return svg


def bars(values: Sequence[float], unit: str, counted: str) -> str:
    """How many values are in each of equal parts of their range."""
    low, high = min(values), max(values)
    count = min(_BARS, math.ceil(math.sqrt(len(values)))) if high > low else 1
    parts = [0] * count
    for value in values:
        parts[min(count - 1, int((value - low) / ((high - low) or 1) * count))] += 1
    most, bottom = max(parts), _HEIGHT - 20
    wide = (_WIDTH - _MARGIN) // count
    path = "".join(
        f"M{_MARGIN + index * wide + 1} {bottom}v-{round((bottom - 10) * part / most)}h{wide - 2}V{bottom}"
        for index, part in enumerate(parts)
        if part
    )
    content = f"<path d='{path}' fill='{COLORS[0]}'/>"
    left, right = (f"{_number(value)} {unit}".strip() for value in (low, high))
    return _frame(0, most, left, right, counted, content)
