"""Where videos are found: in a folder, below the URL of an object store, in what a table or API lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column, ColumnError
from dagster_metaxy.discovery.files import (
    File,
    Listing,
    SourceError,
    list_files,
    list_objects,
    stem,
)
from dagster_metaxy.extras import MissingExtra, require

_REQUESTS = 16
"""Locations that are looked at, at once."""


class Source(Protocol):
    """Where videos are found."""

    @property
    def place(self) -> str:
        """What a person knows it by."""
        ...

    @property
    def resource(self) -> str | None:
        """The Dagster resource that it needs."""
        ...

    @property
    def columns(self) -> Mapping[str, Column]:
        """Columns that it gives beside those that every video has."""
        ...

    def listing(self, resources: Mapping[str, Any]) -> Listing:
        """What it holds now.

        Args:
            resources: Dagster's, by name.

        Raises:
            SourceError: It could not be listed to the end.
        """
        ...

    def video_id(self, relative_path: str) -> str:
        """The id of a video that is known by its path alone."""
        ...


@dataclass(frozen=True)
class Files:
    """The videos in a folder, or below a URL of an object store.

    Attributes:
        root: The folder, or the URL.
        glob: Which files count, by their path below it; those with a usual video ending if None.
    """

    root: Path | str
    glob: str | None = None

    resource = None
    columns: Mapping[str, Column] = field(default_factory=dict, init=False)

    @property
    def place(self) -> str:
        """The folder or URL."""
        return str(self.root)

    def listing(self, resources: Mapping[str, Any]) -> Listing:
        """All that it holds."""
        if isinstance(self.root, Path):
            return list_files(self.root, self.glob)
        return list_objects(self.root, self.glob)

    def video_id(self, relative_path: str) -> str:
        """The path without the ending."""
        return stem(relative_path)


@dataclass(frozen=True)
class Records:
    """The videos that the records of a table or API name, wherever these lie.

    Attributes:
        resource: The Dagster resource that gives the records.
        records: Takes the resource, and gives mappings.
        what: What a person knows them by.
        folder: What locations that are relative paths are below.
        id: The name of the field that holds the id ...
        location: ... of that with the path or URL ...
        version: ... and of that which changes when the video does: without one, each location is
            looked at each time.
        columns: Further fields, which become columns of the root feature.
    """

    resource: str
    records: Callable[[Any], Iterable[Mapping[str, Any]]]
    what: str
    folder: Path
    id: str = "id"
    location: str = "location"
    version: str | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What is asked, and of which resource."""
        return f"{self.what} of {self.resource!r}"

    def video_id(self, relative_path: str) -> str:
        """The id is all that there is."""
        return relative_path

    def listing(self, resources: Mapping[str, Any]) -> Listing:
        """All that is listed; one that cannot be used is named, and stops no other."""
        try:
            records = list(self.records(resources[self.resource]))
        except SourceError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())
            raise SourceError(
                f"cannot read {self.place}: {type(error).__name__}: {said}"
            ) from error
        listing = Listing()
        files: dict[str, File] = {}
        for number, record in enumerate(records, 1):
            try:
                file = self._file(number, record)
            except ValueError as error:
                listing.unreadable[self._name(number, record)] = str(error)
                continue
            other = files.pop(file.relative_path, None)
            if other is not None or file.relative_path in listing.unreadable:
                told = f", {other.path} and {file.path}" if other else ""
                listing.unreadable[file.relative_path] = f"the id is listed more than once{told}"
            else:
                files[file.relative_path] = file
        for scheme in {
            f.path.partition("://")[0] for f in files.values() if locations.is_url(f.path)
        }:
            what = f"{self.place}, where videos lie at {scheme}://,"
            try:
                require(what, "object-store", "obstore")
            except MissingExtra as error:
                raise SourceError(str(error)) from None
        listing.files.extend(self._seen(files, listing) if self.version is None else files.values())
        listing.files.sort(key=lambda file: file.relative_path)
        return listing

    def _name(self, number: int, record: Any) -> str:
        value = record.get(self.id) if isinstance(record, Mapping) else None
        return f"record {number}" if value is None else str(value)

    def _file(self, number: int, record: Any) -> File:
        """The file that a record names.

        Raises:
            SourceError: The record has not the fields that all have: the source is declared wrongly.
            ValueError: A value of it cannot be used.
        """
        if not isinstance(record, Mapping):
            raise SourceError(
                f"{self.place}: record {number} is no mapping of fields, but {type(record).__name__}"
            )
        named = [self.id, self.location, *((self.version,) if self.version else ())]
        wanted = [*named, *(name for name, column in self.columns.items() if not column.nullable)]
        if missing := [name for name in wanted if name not in record]:
            told = f"has no field {missing[0]!r}; it has: {', '.join(map(str, record))}"
            if number == 1:
                raise SourceError(f"{self.place}: record 1 {told}")
            raise ValueError(told)
        if empty := [name for name in named if record[name] in (None, "")]:
            raise ValueError(f"its {empty[0]!r} is empty")
        kept = {}
        for name, column in self.columns.items():
            try:
                kept[name] = column.check(record.get(name))
            except ColumnError as error:
                raise ValueError(f"column {name!r} {error}") from None
        location = str(record[self.location]).removeprefix("file://")
        if not locations.is_url(location):
            location = str(self.folder / location)
        etag = str(record[self.version]) if self.version else None
        name = str(record[self.id])
        return File(name, location, None, None, etag, kept, id=name)

    def _seen(self, files: Mapping[str, File], listing: Listing) -> Iterable[File]:
        """The files with size, time and ETag."""

        def look(file: File) -> File | str:
            try:
                found = locations.status(file.path)
            except OSError as error:
                return str(error) if error.errno is None else f"{file.path}: {error.strerror}"
            return replace(file, size=found.size, modified_at=found.modified_at, etag=found.etag)

        with ThreadPoolExecutor(_REQUESTS) as pool:
            for name, seen in zip(files, pool.map(look, files.values()), strict=True):
                if isinstance(seen, str):
                    listing.unreadable[name] = seen
                    listing.kept[name] = files[name].kept
                else:
                    yield seen
