"""Words of messages."""

from __future__ import annotations


def counted(number: int, one: str, many: str) -> str:
    """A number, and what there is of it: `1 file is`, `2 files are`."""
    return f"{number} {one if number == 1 else many}"
