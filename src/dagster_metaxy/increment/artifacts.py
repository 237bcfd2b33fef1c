"""The files that computes write: where they lie, and how they appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_metaxy.increment.outcome import UpdateError

_WORK = ".work"
_STALE_AFTER_SECONDS = 24 * 3600
_LONGEST_NAME = 120


def safe_name(ids: Sequence[Any]) -> str:
    """A folder name for a sample that is unique, readable, and safe for any id.

    Whatever is not a letter, a digit, or one of `._-` is percent-encoded, parts are joined by
    commas, and long names are cut and end in a hash.
    """
    name = ",".join(
        re.sub(
            r"[^A-Za-z0-9._-]",
            lambda m: "".join(f"%{byte:02X}" for byte in m.group().encode("utf-8", "replace")),
            str(value),
        )
        for value in ids
    )
    if name.strip(".") == "":  # "", ".", ".."
        name = f"%{name}"
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


class Artifacts:
    """The artifact files of one feature.

    They lie in `<root>/<feature key>/<sample>/<version>/`. The version is the sample's
    provenance, which names the input and the code it came from: the files of a row are never
    overwritten while the row is live.

    Args:
        root: The folder for the artifacts of all features.
        key: The feature key.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root.joinpath(*key.split("/"))
        # Most features have no artifacts, and should not pay for looking for some.
        self._any = self.folder.is_dir() and any(p.name != _WORK for p in self.folder.iterdir())

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for the unfinished files of one run; what dead runs left is removed."""
        parent = self.folder / _WORK
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UpdateError(f"no place for artifacts: {error}") from error
        for left in parent.iterdir():
            # A run that is still going touches its folder with every sample.
            if time.time() - left.stat().st_mtime > _STALE_AFTER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            # Most features have no files: nothing of them is left behind.
            for empty in (parent, self.folder):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def publish(self, unfinished: Path, ids: Sequence[Any], version: str) -> Path:
        """Move the finished files of a sample to their place, in one step.

        Returns:
            The folder they lie in now.
        """
        self._any = True
        target = self.folder / safe_name(ids) / version
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # A run was killed between this step and the writing of the row: same input, same
            # code, but nobody vouches for the files.
            shutil.rmtree(target)
        os.replace(unfinished, target)
        return target

    def retire(self, ids: Sequence[Any], *, keep: str) -> None:
        """Remove the files of a sample's former versions, once the row of the new one is written."""
        if not self._any:
            return
        sample = self.folder / safe_name(ids)
        if sample.is_dir():
            for version in sample.iterdir():
                if version.name != keep:
                    shutil.rmtree(version, ignore_errors=True)

    def remove(self, ids: Sequence[Any]) -> None:
        """Remove all files of a sample that is gone."""
        if not self._any:
            return
        shutil.rmtree(self.folder / safe_name(ids), ignore_errors=True)
