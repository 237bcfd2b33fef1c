"""Listing the videos of a local folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

from dagster_metaxy.increment.outcome import UpdateError

# fmt: off
VIDEO_ENDINGS = frozenset({
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
})
# fmt: on
"""What counts as a video where no glob is given, in upper or lower case."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class SourceError(UpdateError):
    """A source that could not be listed to the end: nothing can be said of what is missing."""


@dataclass(frozen=True)
class File:
    """A file as the listing shows it.

    Attributes:
        relative_path: Below the source, with forward slashes.
        path: Where to open it.
        size: In bytes.
        modified_at: Modification time, to the microsecond.
    """

    relative_path: str
    path: str
    size: int
    modified_at: datetime

    @property
    def stem(self) -> str:
        """The relative path without the ending."""
        path = PurePosixPath(self.relative_path)
        return str(path.with_name(path.stem))


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        files: In the order of their relative paths.
        unreadable: Relative paths that could not be looked at, with the reason.
        dangling: Relative paths of links that lead nowhere: there may be folders behind them, of
            a disk that is not mounted.
    """

    files: list[File] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    dangling: set[str] = field(default_factory=set)

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
            hasher.update(f"{file.relative_path}\0{file.size}\0{file.modified_at}\n".encode())
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
    pattern = glob_pattern(glob) if glob else None
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
            wanted = (
                pattern.fullmatch(relative)
                if pattern
                else os.path.splitext(name)[1].lower() in VIDEO_ENDINGS
            )
            if wanted:
                _add(listing, relative, path)
                if len(listing.files) == limit:
                    return listing
            elif os.path.islink(path) and not os.path.exists(path):
                listing.dangling.add(relative)
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
        microseconds = status.st_mtime_ns // 1000
        listing.files.append(
            File(
                relative_path=relative,
                path=path,
                size=status.st_size,
                modified_at=_EPOCH + timedelta(microseconds=microseconds),
            )
        )


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
