"""Artifacts in a folder on disk: what is finished is moved to its place, whole, by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dagster_metaxy.increment.artifacts.base import (
    Artifacts,
    Contents,
    Telling,
    key_folder,
    safe_name,
)
from dagster_metaxy.increment.store import StoreError

_WORK = ".work"
"""In a feature's folder, that of the files that are not finished, a folder for each run."""

_STALE_AFTER_SECONDS = 24 * 3600
_NAMED = 3


class DiskArtifacts(Artifacts[Path]):
    """The artifacts of one feature in a folder on disk.

    Args:
        root: The folder for the artifacts of all features.
        key: The feature key.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / key_folder(key)
        self._work = self.folder / _WORK / uuid.uuid4().hex

    @property
    def any(self) -> bool:
        return self.folder.is_dir()

    def sample_name(self, ids: Sequence[Any]) -> str:
        return safe_name(ids)

    def at(self, sample: str, version: str) -> Path:
        return self.folder / sample / version

    def versions(self, sample: str) -> list[Path]:
        folder = self.folder / sample
        return [*folder.iterdir()] if folder.is_dir() else []

    def is_there(self, folder: Path) -> bool:
        return folder.is_dir()

    def unfinished(self) -> Path:
        try:
            return self._new_folder().resolve()
        except OSError as error:
            raise StoreError(f"no place for artifacts: {error}") from error

    def _new_folder(self) -> Path:
        if not self._work.is_dir():
            self._work.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._work.parent.iterdir())
        return Path(tempfile.mkdtemp(dir=self._work))

    @property
    def handed(self) -> Path:
        return self.folder / _WORK / "handed"

    def close(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def publish(self, unfinished: Path, ids: Sequence[Any], version: str) -> Path:
        target = self.at(self.sample_name(ids), version)
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

    def file(self, folder: Path, path: Path) -> str:
        return os.fspath(folder / path)

    def retire(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            self._discard(folder)
            with contextlib.suppress(OSError):  # other versions are in it
                folder.parent.rmdir()

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

    def files_of(self, texts: Iterable[str]) -> list[Path]:
        prefix = os.fspath(self.folder) + os.sep
        return sorted(Path(text) for text in texts if text.startswith(prefix))

    def unlink(self, files: Sequence[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)

    def listed(self, notes: list[str], telling: Telling) -> list[Contents[Path]]:
        """Versions of samples, what dead runs left, and empty sample folders.

        Links are not followed; they stay, as does what no update makes.
        """
        top = self.folder
        if top.is_symlink():
            notes.append(f"{top} is a link, and is not looked at")
            return []
        listed: list[Contents[Path]] = []
        strange: list[Path] = []
        for sample in _folders(top, strange, telling):
            versions = _folders(sample, strange, telling)
            for version in versions:
                with telling(version):
                    listed.append(contents(version))
            with telling(sample):
                if not versions and sample.name != _WORK and not any(sample.iterdir()):
                    listed.append(contents(sample))
        if strange:
            some = ", ".join(map(str, sorted(strange)[:_NAMED]))
            some += ", ..." if len(strange) > _NAMED else ""
            notes.append(f"links, and files that no update has put there, are left alone: {some}")
        return listed

    def remove(self, garbage: Contents[Path], before: float) -> bool:
        """Beside a running update it is safe as long as that writes each row before its files are
        as old as those looked for: what it has published since the listing is young, and is looked
        at again here; what it publishes in the moment between this look and the removal is another
        inode, and is put back.
        """
        folder = garbage.folder
        inode = folder.lstat().st_ino
        if contents(folder).changed >= before:
            return False
        if folder.parent == self.folder:
            folder.rmdir()  # fails if a run has published into it meanwhile
        else:
            self.discard(folder, inode)
            with contextlib.suppress(OSError):  # other versions are in it
                folder.parent.rmdir()
        return True

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

    def beside(self) -> list[Path]:
        root = self.folder.parent
        return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def contents(folder: Path) -> Contents[Path]:
    """What a folder holds; links are not followed.

    Raises:
        OSError: It cannot be looked at as a whole.
    """
    own = folder.lstat()
    # Its own status changed when it was renamed to its place, which its times do not tell.
    changed = max(own.st_mtime, own.st_ctime)
    files = size = 0
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                changed = max(changed, status.st_mtime)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    files += 1
                    size += status.st_size
    return Contents(folder, files, size, changed)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove those folders for unfinished files that runs which were killed have left."""
    for left in folders:
        with contextlib.suppress(OSError):
            # A run that is still going touches its folder with every sample.
            if time.time() - left.stat().st_mtime > _STALE_AFTER_SECONDS:
                shutil.rmtree(left)


def _folders(folder: Path, strange: list[Path], telling: Telling) -> list[Path]:
    """The folders in a folder; what else is there is strange."""
    folders = []
    with telling(folder), os.scandir(folder) as entries:
        for entry in entries:
            kind = folders if entry.is_dir(follow_symlinks=False) else strange
            kind.append(Path(entry.path))
    return folders
