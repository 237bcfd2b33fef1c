"""Records as Dagster's tables, and as text for logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg


def metadata_table(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> dg.TableMetadataValue:
    """Records as a table of Dagster's UI; what is no number is shown as text."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({c: r[c] if isinstance(r[c], int) else str(r[c]) for c in columns})
            for r in records
        ],
        schema=dg.TableSchema([dg.TableColumn(column) for column in columns]),
    )


def text_table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Records as lines of text, aligned, below their columns' names."""
    lines = [list(columns), *([str(r[c]) for c in columns] for r in records)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
