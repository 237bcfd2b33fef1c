"""The files that computes write: where they lie, and how they appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mimetypes
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster_metaxy.increment.outcome import ArtifactFile
from dagster_metaxy.increment.selection import Ids
from dagster_metaxy.increment.store import PROVENANCE, StoreError, is_system

WORK = ".work"
"""In a feature's folder, that of the files that are not finished, a folder for each run."""


_STALE_AFTER_SECONDS = 24 * 3600
_LONGEST_NAME = 120
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def is_of(name: str, version: str) -> bool:
    """Whether a folder of that name holds files of a version of a sample."""
    return name == version or name.startswith(f"{version}-")


def safe_name(ids: Sequence[Any]) -> str:
    """A folder name for a sample that is unique, readable, and safe for any id.

    Whatever is not a letter, a digit, or one of `._-` is percent-encoded, parts are joined by
    commas, and long names are cut and end in a hash. So do those that another file system takes for
    another name, or refuses: it may know no case, or be of Windows.
    """
    name = ",".join(
        re.sub(
            r"[^A-Za-z0-9._-]",
            lambda m: "".join(f"%{byte:02x}" for byte in m.group().encode("utf-8", "replace")),
            str(value),
        )
        for value in ids
    )
    if name.strip(".") == "":  # "", ".", ".."
        name = f"%{name}"
    if name.startswith("."):
        name = f"%2e{name[1:]}"
    unsafe = name != name.lower() or name.endswith(".") or _RESERVED.match(name)
    if unsafe or len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name[: _LONGEST_NAME - 17]}-{digest}"
        if _RESERVED.match(name):  # Windows looks no further than the first dot
            name = f"%{name}"
    return name


def files_in(folder: Path) -> list[ArtifactFile]:
    """The files below the folder of a sample."""
    return [
        ArtifactFile(
            path.relative_to(folder).as_posix(),
            mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            path.stat().st_size,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


class Artifacts:
    """The artifact files of one feature, in one run.

    They lie in `<root>/<feature key>/<sample>/<version>/`, the key's parts joined by two
    underscores, as in Metaxy's table names. The version is the sample's provenance, which names the
    input and the code it came from. Computed once more from the same, files lie beside those before
    in `<version>-<random>`, and the rows tell by their paths which are theirs.

    Args:
        root: The folder for the artifacts of all features.
        key: The feature key.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / "__".join(key.split("/"))
        self._work = self.folder / WORK / uuid.uuid4().hex

    @property
    def any(self) -> bool:
        """Whether the feature has, or had, files at all; most have none."""
        return self.folder.is_dir()

    def of(self, ids: Ids, version: str) -> set[Path]:
        """The folders of a version of a sample that are there."""
        sample = self.folder / safe_name(ids)
        if not sample.is_dir():
            return set()
        return {folder for folder in sample.iterdir() if is_of(folder.name, version)}

    def of_rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[str],
        becomes: Mapping[Ids, str] | None = None,
    ) -> set[Path]:
        """The folders that rows have their files in.

        They are those that the rows name. A compute may write files that its rows do not name:
        then, they are all of the rows' version.

        Args:
            rows: Rows of the feature.
            columns: The columns that name a sample.
            becomes: The versions that samples are computed to. Of the same version, only folders
                that rows name are told from those that are published.
        """
        named: dict[tuple[Ids, str], set[Path]] = {}
        for row in rows:
            ids, version = tuple(row[c] for c in columns), row[PROVENANCE]
            named.setdefault((ids, version), set()).update(self._named(ids, version, row))
        found: set[Path] = set()
        for (ids, version), folders in named.items():
            if folders:
                found |= {folder for folder in folders if folder.is_dir()}
            elif (becomes or {}).get(ids) != version:
                found |= self.of(ids, version)
        return found

    def _named(self, ids: Ids, version: str, row: Mapping[str, Any]) -> Iterator[Path]:
        """The folders of a version of a sample that a row names."""
        sample = self.folder / safe_name(ids)
        # Anywhere in a path: a project may have been moved, or be mounted elsewhere.
        part = f"/{self.folder.name}/{sample.name}/"
        for column, value in row.items():
            if is_system(column):
                continue
            for text in _texts(value):
                _, found, rest = text.rpartition(part)
                if found and is_of(name := rest.partition("/")[0], version):
                    yield sample / name

    def unfinished(self) -> Path:
        """A new, empty folder for the files of a sample that is being computed.

        Raises:
            StoreError: There is no place for it.
        """
        try:
            return self._new_folder().resolve()
        except OSError as error:
            raise StoreError(f"no place for artifacts: {error}") from error

    def _new_folder(self) -> Path:
        if not self._work.is_dir():
            self._work.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        return Path(tempfile.mkdtemp(dir=self._work))

    def _remove_leftovers(self) -> None:
        """Remove what runs that were killed have left."""
        for left in self._work.parent.iterdir():
            with contextlib.suppress(OSError):
                # A run that is still going touches its folder with every sample.
                if time.time() - left.stat().st_mtime > _STALE_AFTER_SECONDS:
                    shutil.rmtree(left)

    def close(self) -> None:
        """Remove the unfinished files of this run."""
        shutil.rmtree(self._work, ignore_errors=True)

    def publish(self, unfinished: Path, ids: Sequence[Any], version: str) -> Path:
        """Move the finished files of a sample to a place of their own, in one step.

        Returns:
            The folder they lie in now.
        """
        target = self.folder / safe_name(ids) / version
        for _ in range(10):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(unfinished, target)
                return target
            except FileNotFoundError:
                continue  # a deletion beside this run took the sample's folder
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise StoreError(f"artifacts cannot be published: {error}") from error
            # What is there may be what the live row names, or what another run is about to write
            # the row of.
            target = target.with_name(f"{version}-{uuid.uuid4().hex[:8]}")
        raise StoreError(f"artifacts cannot be published: others keep writing {target}")

    def retire(self, folder: Path) -> None:
        """Remove the files of a version of a sample, of which no row is live any more."""
        self._discard(folder)
        with contextlib.suppress(OSError):  # other versions are in it
            folder.parent.rmdir()

    def discard(self, folder: Path, inode: int) -> None:
        """Remove a folder that is garbage; a kill leaves no half of it under its name.

        Args:
            folder: The folder.
            inode: Its inode when it was found to be garbage. One that another run has published
                under the same name since then stays.

        Raises:
            OSError: It stays where it is, or a part of it, among the unfinished files.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        away = Path(tempfile.mkdtemp(dir=self._work)) / "discarded"
        os.replace(folder, away)
        if away.stat().st_ino == inode:
            shutil.rmtree(away)
        else:
            os.replace(away, folder)

    def _discard(self, folder: Path) -> None:
        """Remove a folder, which is gone from its place at once and whole."""
        if not folder.is_dir():
            return
        try:
            discarded = self._new_folder()
            os.rename(folder, discarded)  # over an empty folder: in one step
        except OSError:  # as a full disk
            discarded = folder
        shutil.rmtree(discarded, ignore_errors=True)


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
