"""Dagster components for Metaxy: incremental pipelines over video, audio and any other samples.

Public names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster_metaxy.components import (
        MetaxyAssetComponent,
        MetaxyJobsComponent,
        PartitionedVideoComponent,
        ResourcesComponent,
    )

_PUBLIC = {
    "MetaxyAssetComponent": "dagster_metaxy.components",
    "MetaxyJobsComponent": "dagster_metaxy.components",
    "PartitionedVideoComponent": "dagster_metaxy.components",
    "ResourcesComponent": "dagster_metaxy.components",
}

__all__ = [
    "MetaxyAssetComponent",
    "MetaxyJobsComponent",
    "PartitionedVideoComponent",
    "ResourcesComponent",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
