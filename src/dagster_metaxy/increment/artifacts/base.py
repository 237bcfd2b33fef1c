"""What the artifacts of a feature are, wherever they lie, and which rows name which."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dagster_metaxy.increment.outcome import ArtifactFile
from dagster_metaxy.increment.selection import Ids
from dagster_metaxy.increment.store import PROVENANCE, is_system

_LONGEST_NAME = 120
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


class Location(Protocol):
    """Where a folder or a file is; its text is what rows and messages name it by. As of `Path`."""

    @property
    def name(self) -> str: ...

    @property
    def parent(self) -> Location: ...

    @property
    def parts(self) -> tuple[str, ...]: ...


L = TypeVar("L", bound=Location)


def is_of(name: str, version: str) -> bool:
    """Whether a folder of that name holds files of a version of a sample."""
    return name == version or name.startswith(f"{version}-")


def key_folder(key: str) -> str:
    """The name of a feature's folder."""
    return "__".join(key.split("/"))


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


def safe_url_name(ids: Sequence[Any]) -> str:
    """The same for URLs, in which some readers take `%2e` for a dot, and others do not."""
    return safe_name(ids).replace("%", "~")


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


@dataclass(frozen=True)
class Contents(Generic[L]):
    """What a folder holds.

    Attributes:
        folder: The folder.
        files: How many files are in it.
        size: Their size in bytes.
        changed: Unix time of the last change in it.
    """

    folder: L
    files: int
    size: int
    changed: float


Telling = Callable[[Any], AbstractContextManager[None]]
"""A context in which what is wrong with a location is taken note of, so that others go on."""


class Artifacts(ABC, Generic[L]):
    """The artifact files of one feature, in one run.

    They lie in `<root>/<feature key>/<sample>/<version>/`, the key's parts joined by two
    underscores, as in Metaxy's table names. The version is the sample's provenance, which names the
    input and the code it came from. Computed once more from the same, files lie beside those before
    in `<version>-<random>`, and the rows tell by their paths which are theirs.

    Computes write to a folder on disk, `unfinished`; what is finished is published. It is sent to
    worker processes, which publish, too.

    Attributes:
        folder: The feature's folder.
    """

    folder: L

    @property
    @abstractmethod
    def any(self) -> bool:
        """Whether the feature has, or had, files at all; most have none."""

    @abstractmethod
    def sample_name(self, ids: Sequence[Any]) -> str:
        """The name of a sample's folder."""

    @abstractmethod
    def at(self, sample: str, version: str) -> L:
        """The folder of a version of a sample, by their names."""

    @abstractmethod
    def versions(self, sample: str) -> list[L]:
        """The folders of all versions of a sample that are there."""

    @abstractmethod
    def is_there(self, folder: L) -> bool:
        """Whether there is anything of a version of a sample."""

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """`map`, at once where that is faster."""
        return map(function, items)

    def of(self, ids: Ids, version: str) -> set[L]:
        """The folders of a version of a sample that are there."""
        there = self.versions(self.sample_name(ids))
        return {folder for folder in there if is_of(folder.name, version)}

    def of_rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[str],
        becomes: Mapping[Ids, str] | None = None,
    ) -> set[L]:
        """The folders that rows have their files in.

        They are those that the rows name. A compute may write files that its rows do not name:
        then, they are all of the rows' version.

        Args:
            rows: Rows of the feature.
            columns: The columns that name a sample.
            becomes: The versions that samples are computed to. Of the same version, only folders
                that rows name are told from those that are published.
        """
        named: dict[tuple[Ids, str], set[L]] = {}
        for row in rows:
            ids, version = tuple(row[c] for c in columns), row[PROVENANCE]
            named.setdefault((ids, version), set()).update(self._named(ids, version, row))
        folders = list(set().union(*named.values()))
        there = self.each(self.is_there, folders)
        found = {folder for folder, is_there in zip(folders, there, strict=True) if is_there}
        unnamed = [
            (ids, version)
            for (ids, version), folders in named.items()
            if not folders and (becomes or {}).get(ids) != version
        ]
        return found.union(*self.each(lambda one: self.of(*one), unnamed))

    def _named(self, ids: Ids, version: str, row: Mapping[str, Any]) -> Iterator[L]:
        """The folders of a version of a sample that a row names."""
        sample = self.sample_name(ids)
        # Anywhere in a path: a project may have been moved, or be mounted elsewhere.
        part = f"/{self.folder.name}/{sample}/"
        for column, value in row.items():
            if is_system(column):
                continue
            for text in _texts(value):
                _, found, rest = text.rpartition(part)
                if found and is_of(name := rest.partition("/")[0], version):
                    yield self.at(sample, name)

    @abstractmethod
    def unfinished(self) -> Path:
        """A new, empty folder on disk for the files of a sample that is being computed.

        Raises:
            StoreError: There is no place for it.
        """

    @property
    @abstractmethod
    def handed(self) -> Path:
        """The folder on disk for what other updates have computed for this feature, of any run; it is
        no garbage for a day after something was put there."""

    @abstractmethod
    def close(self) -> None:
        """Remove the unfinished files of this run."""

    @abstractmethod
    def publish(self, unfinished: Path, ids: Sequence[Any], version: str) -> L:
        """Move the finished files of a sample to a place of their own, which no row names yet.

        Returns:
            The folder they lie in now.

        Raises:
            StoreError: They cannot be moved there.
        """

    @abstractmethod
    def file(self, folder: L, path: Path) -> str:
        """What a row names a file by.

        Args:
            folder: What `publish` gave.
            path: Of the file, below the folder.
        """

    @abstractmethod
    def retire(self, folders: Iterable[L]) -> None:
        """Remove the files of versions of samples, of which no row is live any more.

        What is left of them, as by a kill, is garbage.

        Raises:
            StoreError: An object store refuses.
        """

    @abstractmethod
    def files_of(self, texts: Iterable[str]) -> list[L]:
        """Those of some texts that name a file of this feature."""

    @abstractmethod
    def unlink(self, files: Sequence[L]) -> None:
        """Remove single files, which may be gone.

        Raises:
            OSError: A disk refuses.
            StoreError: An object store refuses.
        """

    @abstractmethod
    def listed(self, notes: list[str], telling: Telling) -> list[Contents[L]]:
        """All folders that may be garbage.

        Args:
            notes: Where to say what is left alone.
            telling: For what cannot be looked at.
        """

    @abstractmethod
    def remove(self, garbage: Contents[L], before: float) -> bool:
        """Remove a folder that was found to be garbage.

        Args:
            garbage: What it held then.
            before: Unix time. If it was changed since, it stays.

        Returns:
            Whether it went.

        Raises:
            OSError: A disk refuses.
            StoreError: An object store refuses.
        """

    @abstractmethod
    def beside(self) -> list[L]:
        """The folders of all features that are there.

        Raises:
            StoreError: An object store refuses.
        """


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
