from __future__ import annotations

from conftest_increment import world

__all__ = ["world"]
