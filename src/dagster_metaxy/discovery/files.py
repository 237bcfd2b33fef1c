"""Listing the videos of a folder, on a local disk or in an object store."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from dagster_metaxy import locations
from dagster_metaxy.increment.outcome import UpdateError

# fmt: off
VIDEO_ENDINGS = frozenset({
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
})
# fmt: on
"""What counts as a video where no glob is given, in upper or lower case."""


class SourceError(UpdateError):
    """A source that could not be listed to the end: nothing can be said of what is missing."""


@dataclass(frozen=True)
class File:
    """A file as the listing shows it.

    Attributes:
        relative_path: Below the source, with forward slashes; of a table, the video's id.
        path: Where to open it: a path, or a URL.
        size: In bytes; None where only reading tells.
        modified_at: Modification time, to the microsecond; None where only reading tells.
        etag: What an object store names the content by, or the version that a table gives.
        kept: Further columns of the root feature, which a table gives.
        id: The video's id, where the source gives it.
    """

    relative_path: str
    path: str
    size: int | None
    modified_at: datetime | None
    etag: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    @property
    def stem(self) -> str:
        """What the video's id is, unless it is taken: the relative path without the ending."""
        return self.id or stem(self.relative_path)

    @property
    def version(self) -> str:
        """What changes when the file does, as far as the listing tells."""
        return f"{self.size}:{self.modified_at and self.modified_at.isoformat()}:{self.etag}"

    def is_as(self, row: Mapping[str, Any]) -> bool:
        """Whether a stored row is of this file as it is now."""
        if self.id is not None and self.path != row["path"]:
            return False
        if self.etag is not None:
            return self.etag == row.get("etag") and self.size in (None, row["size"])
        return (self.size, self.modified_at) == (row["size"], row["modified_at"])


def stem(relative_path: str) -> str:
    """A path without its ending."""
    path = PurePosixPath(relative_path)
    return str(path.with_name(path.stem))


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        files: In the order of their relative paths.
        unreadable: Relative paths that could not be looked at, with the reason.
        dangling: Relative paths of links that lead nowhere: there may be folders behind them, of
            a disk that is not mounted.
        kept: Of those of the unreadable that a table gives, the further columns.
    """

    files: list[File] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    dangling: set[str] = field(default_factory=set)
    kept: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def may_hold(self, relative_path: str) -> bool:
        """Whether a path that is not listed may still be there."""
        return relative_path in self.unreadable or any(
            relative_path.startswith(f"{link}/") for link in self.dangling
        )

    @property
    def digest(self) -> str:
        """Changes when any file's path, size or modification time does."""
        hasher = hashlib.blake2b(digest_size=16)
        for file in self.files:
            shown = (file.relative_path, file.version, *((file.path,) if file.id else ()))
            hasher.update("\0".join((*shown, *map(str, file.kept.values()), "\n")).encode())
        for path in (*self.unreadable, *sorted(self.dangling)):
            hasher.update(f"{path}\n".encode("utf-8", "surrogateescape"))
        return hasher.hexdigest()


def glob_pattern(glob: str) -> re.Pattern[str]:
    """The regular expression of a glob over relative paths.

    `*` and `?` stay within a folder, `**/` goes through any number of them, `[...]` is a class,
    `{a,b}` are alternatives.
    """
    translated = []
    depth = 0
    i = 0
    while i < len(glob):
        if glob.startswith("**/", i):
            translated.append("(?:[^/]+/)*")
            i += 3
            continue
        if glob.startswith("**", i):
            translated.append(".*")
            i += 2
            continue
        character = glob[i]
        end = glob.find("]", i + 2) if character == "[" else -1
        if character == "*":
            translated.append("[^/]*")
        elif character == "?":
            translated.append("[^/]")
        elif end > 0:
            inner = glob[i + 1 : end].replace("\\", r"\\")
            translated.append(f"[{'^' + inner[1:] if inner[0] == '!' else inner}]")
            i = end
        elif character == "{":
            depth += 1
            translated.append("(?:")
        elif character == "}" and depth:
            depth -= 1
            translated.append(")")
        elif character == "," and depth:
            translated.append("|")
        else:
            translated.append(re.escape(character))
        i += 1
    return re.compile("".join(translated) + ")" * depth, re.DOTALL)


def list_files(folder: Path, glob: str | None = None, limit: int | None = None) -> Listing:
    """The videos below a folder.

    Links are followed, each folder is entered once, and hidden files and folders are left out.

    Args:
        folder: The source.
        glob: Which relative paths count; files with a usual video ending if left out.
        limit: How many files are enough; all if left out.

    Raises:
        SourceError: The folder, or one below it, could not be listed: what is not seen may
            still be there, so nothing may be taken as deleted.
    """
    wanted = _wanted(glob)
    listing = Listing()
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise SourceError(f"cannot list {error.filename}: {error.strerror}") from error

    if not folder.is_dir():
        raise SourceError(
            f"the source folder {folder} does not exist"
            if not folder.exists()
            else f"the source {folder} is not a folder"
        )
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        try:
            status = os.stat(parent)
        except OSError as error:
            raise SourceError(f"cannot list {parent}: {error.strerror}") from error
        if (status.st_dev, status.st_ino) in seen:  # a loop of links, or a second way in
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            if wanted(relative):
                _add(listing, relative, path)
                if len(listing.files) == limit:
                    return listing
            elif os.path.islink(path) and not os.path.exists(path):
                listing.dangling.add(relative)
    listing.files.sort(key=lambda file: file.relative_path)
    return listing


def _wanted(glob: str | None) -> Callable[[str], object]:
    """Which relative paths count."""
    if glob:
        return glob_pattern(glob).fullmatch
    return lambda relative: PurePosixPath(relative).suffix.lower() in VIDEO_ENDINGS


def list_objects(url: str, glob: str | None = None) -> Listing:
    """The videos below a URL of an object store.

    What looks like a hidden file or folder is left out, as on a disk.

    Args:
        url: A bucket or container, and a prefix.
        glob: Which paths below it count; those with a usual video ending if left out.

    Raises:
        SourceError: It could not be listed to the end.
    """
    wanted = _wanted(glob)
    root, prefix = locations.split(url.rstrip("/"))
    start = f"{prefix}/" if prefix else ""
    listing = Listing()
    try:
        for found in locations.objects(root, prefix):
            relative = found["path"].removeprefix(start)
            if wanted(relative) and not any(p.startswith(".") for p in relative.split("/")):
                path = f"{root}/{found['path']}"
                size, modified_at = found["size"], found["last_modified"]
                listing.files.append(File(relative, path, size, modified_at, found["e_tag"]))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot list {error}") from error
    listing.files.sort(key=lambda file: file.relative_path)
    return listing


def _add(listing: Listing, relative: str, path: str) -> None:
    try:
        relative.encode()
        status = os.stat(path)
    except UnicodeEncodeError:
        shown = relative.encode("utf-8", "backslashreplace").decode()
        listing.unreadable[shown] = "the file's name is not valid UTF-8"
    except OSError as error:
        listing.unreadable[relative] = str(error.strerror)
    else:
        if not S_ISREG(status.st_mode):  # a pipe would be waited for, for ever
            listing.unreadable[relative] = "is no regular file"
            return
        found = locations.status_of(status)
        listing.files.append(File(relative, path, found.size, found.modified_at))


def unique_ids(files: Sequence[File], taken: set[str]) -> dict[str, str]:
    """An id for each new file, by relative path: its path without the ending, where that is free.

    Args:
        files: In the order in which they are named.
        taken: Ids that other videos have.
    """
    taken = set(taken)
    ids = {}
    for file in files:
        candidate = file.stem
        if candidate in taken:
            candidate = file.relative_path
        number = 2
        while candidate in taken:
            candidate = f"{file.relative_path}~{number}"
            number += 1
        taken.add(candidate)
        ids[file.relative_path] = candidate
    return ids
