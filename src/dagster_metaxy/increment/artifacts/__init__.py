"""The files that computes write: where they lie, and how they appear whole or not at all.

In a folder on disk, or in an object store; `artifacts_of` is the one place that tells them apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dagster_metaxy.increment.artifacts.base import Artifacts
from dagster_metaxy.increment.artifacts.disk import DiskArtifacts
from dagster_metaxy.increment.artifacts.objects import ObjectArtifacts
from dagster_metaxy.locations import is_url

Root = Path | str
"""Where the artifacts of all features lie: a folder, or the URL of a place in an object store."""

# Other characters mean something else to some of those who read URLs.
_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9._-]+(/[A-Za-z0-9._,=-]+)*/?")


def root_of(written: str, project_root: Path) -> Root:
    """Where artifacts lie, as a component says it: a folder may be below that of the project."""
    return written if is_url(written) else project_root / written


def check_root(root: str) -> None:
    """Refuse what is no place for artifacts.

    Raises:
        ValueError: It is a URL, and of no object store.
    """
    parts = root.split("/")
    if is_url(root) and (not _URL.fullmatch(root) or {".", ".."} & {*parts}):
        shown = re.sub(r"//[^/]*@|[?#].*", lambda m: "//...@" if "@" in m[0] else "...", root)
        raise ValueError(
            f"{shown!r} is no place for artifacts: write s3://bucket/prefix, gs://bucket/prefix or"
            " az://container/prefix, of letters, digits and ._,=- (credentials come from the"
            " environment), or a folder"
        )


def artifacts_of(root: Root, key: str) -> Artifacts[Any]:
    """The artifacts of a feature, for one run.

    Args:
        root: Where those of all features lie.
        key: The feature key.
    """
    return ObjectArtifacts(str(root), key) if is_url(root) else DiskArtifacts(Path(root), key)
