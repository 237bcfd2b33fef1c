"""Rows as Dagster's tables, and as text for logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

_TYPES = {int: "int", float: "float"}


def metadata_table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """Rows as a table of Dagster's UI; what is no number is shown as text."""
    shown = [[v if isinstance(v, int | float) else str(v) for v in row] for row in rows]
    kinds = [{type(row[i]) for row in shown} for i in range(len(columns))]
    return dg.MetadataValue.table(
        records=[dg.TableRecord(dict(zip(columns, row, strict=True))) for row in shown],
        schema=dg.TableSchema(
            [
                dg.TableColumn(column, _TYPES.get(next(iter(kind), str), "string"))
                for column, kind in zip(columns, kinds, strict=True)
            ]
        ),
    )


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


def text_table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """Rows as lines of text, aligned, below their columns' names."""
    lines = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
