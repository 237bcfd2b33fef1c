"""The `source` and the `cache` of a collection, as they are written in YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dagster_metaxy import locations
from dagster_metaxy.components._columns import COLUMNS_SCHEMA, ColumnModels, declared_columns
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.schema import model_schema, text_or
from dagster_metaxy.discovery.sources import Files, Records, Source
from dagster_metaxy.discovery.videos import COLUMNS
from dagster_metaxy.extras import MissingExtra, require

Wrong = Callable[..., Exception]
"""Makes an error of a message and of the place in the `source` that it is about."""

SETTLE_SECONDS = 10.0
"""For how long a file may still be being copied, if nothing else is said."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FilesSource(_Model):
    """A folder of videos, or a URL of an object store."""

    type: Literal["files"] = Field(
        default="files", description="Files below a folder or URL.", examples=["files"]
    )
    path: str = Field(
        description="The folder, absolute or below the project's root; or a URL of an object store,"
        " whose credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`,"
        " `AWS_ENDPOINT_URL` ...).",
        examples=["videos", "s3://bucket/videos", "gs://bucket/videos"],
    )
    glob: str | None = Field(
        default=None,
        description="Which files count, by their path below the folder: `**/` is any folders, `*`"
        " any name, `{a,b}` either. Files with a usual video ending if left out.",
        examples=["**/*.mp4", "cam_*/*.{mp4,mkv}"],
    )

    settle_seconds: float = Field(
        default_factory=lambda: SETTLE_SECONDS,
        ge=0,
        description="A file on a disk that was written so few seconds ago, and cannot be read, is taken"
        " for one that is still being copied: it is waited for. 10 if left out.",
        examples=[60],
    )

    def source(self, project_root: Path, wrong: Wrong) -> Source:
        """What lists the files."""
        folder, glob = locations.split_glob(self.path)
        if glob:
            raise wrong(
                f"the folder and the glob are apart: path: {folder}, glob: {glob!r}", "path"
            )
        if not locations.is_url(self.path):
            return Files(project_root / self.path, self.glob)
        try:
            require("a source in an object store", "object-store", "obstore")
        except MissingExtra as error:
            raise wrong(str(error), "path") from None
        if self.path.startswith(("http://", "https://")):
            raise wrong(
                "a web server cannot be listed: write `type: http`, with an ApiResource that knows"
                " its videos",
                "path",
            )
        try:
            locations.object_store(locations.split(self.path)[0])
        except ValueError as error:
            raise wrong(str(error), "path") from None
        return Files(self.path, self.glob)


class _RecordsSource(_Model):
    resource: str = Field(
        description="The name of the resource that is asked, of a ResourcesComponent or of Python.",
        examples=["database"],
    )
    id: str = Field(
        default="id", description="The field with the video's id.", examples=["video_id"]
    )
    location: str = Field(
        default="location",
        description="The field with the path or URL of the video: `s3://`, `gs://`, `az://`,"
        " `https://`, or a path below the project's root.",
        examples=["url"],
    )
    version: str | None = Field(
        default=None,
        description="A field that changes when the video does, such as an ETag or a time. Without one,"
        " each video is asked for its size and time at every look.",
        examples=["updated_at"],
    )
    columns: ColumnModels = Field(
        default_factory=dict,
        json_schema_extra={"type": "object", **COLUMNS_SCHEMA},
        description="Further fields to keep as columns of the root feature, with their types. What is"
        " in them makes nothing stale.",
        examples=[{"title": "str", "recorded_at": {"type": "datetime", "nullable": True}}],
    )

    def _columns(self, wrong: Wrong, what: str) -> dict[str, Column]:
        for name in self.columns:
            if name in COLUMNS:
                raise wrong(f"every video has a column {name!r} already", "columns", name)
        told = f"What {what} of {self.resource!r} gives; kept with the video, and of no version."
        return {
            name: column if column.description else replace(column, description=told)
            for name, column in declared_columns(self.columns).items()
        }

    def _records(
        self,
        project_root: Path,
        wrong: Wrong,
        records: Callable[[Any], Iterable[Mapping[str, Any]]],
        what: str,
    ) -> Source:
        return Records(
            self.resource,
            records,
            what,
            project_root,
            id=self.id,
            location=self.location,
            version=self.version,
            columns=self._columns(wrong, what),
        )


class SqlSource(_RecordsSource):
    """The videos that a query lists."""

    type: Literal["sql"] = Field(description="What a query lists.", examples=["sql"])
    query: str = Field(
        description="Gives a row for each video, with the fields `id` and `location`.",
        examples=["SELECT id, url AS location, title, updated_at FROM videos WHERE ready"],
    )

    def source(self, project_root: Path, wrong: Wrong) -> Source:
        """What asks the database."""
        query = self.query
        return self._records(
            project_root, wrong, lambda database: database.query(query).to_dicts(), "the query"
        )


class HttpSource(_RecordsSource):
    """The videos that an API lists in JSON."""

    type: Literal["http"] = Field(description="What an API lists in JSON.", examples=["http"])
    path: str = Field(
        description="Of the listing, below the base_url of the ApiResource.", examples=["videos"]
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of the request.",
        examples=[{"status": "ready"}],
    )
    items: str | None = Field(
        default=None,
        description="The field of the JSON that holds the list; the JSON is a list if left out.",
        examples=["data"],
    )
    next: str | None = Field(
        default=None,
        description="The field of the JSON with the URL of the next page; the header `Link` says"
        " where if left out.",
        examples=["links.next"],
    )
    page_param: str | None = Field(
        default=None,
        description="The parameter that is the number of the page, from 1 until one is empty.",
        examples=["page"],
    )

    def source(self, project_root: Path, wrong: Wrong) -> Source:
        """What asks the API."""

        def records(api: Any) -> Iterable[Mapping[str, Any]]:
            return api.items(
                self.path,
                self.params or None,
                field=self.items,
                next_field=self.next,
                page_param=self.page_param,
            )

        return self._records(project_root, wrong, records, f"the listing {self.path!r}")


class CacheModel(_Model):
    """A local folder with copies of remote videos."""

    folder: str = Field(
        description="The folder, absolute or below the project's root.", examples=[".cache/videos"]
    )
    max_gigabytes: float = Field(
        default=20.0,
        gt=0,
        description="How much the copies may take; those that were not used for longest go first.",
        examples=[50],
    )

    def cache(self, project_root: Path) -> locations.Cache:
        """The cache itself."""
        return locations.Cache(project_root / self.folder, int(self.max_gigabytes * 1e9))


AnySource = Annotated[FilesSource | SqlSource | HttpSource, Field(discriminator="type")]

_SOURCES: Mapping[str, type[BaseModel]] = {
    "files": FilesSource,
    "sql": SqlSource,
    "http": HttpSource,
}
SOURCE_SCHEMA = text_or(
    {"type": "string"},
    {
        "type": "object",
        "properties": {"type": {"enum": list(_SOURCES)}},
        "if": {"required": ["type"]},
        "then": {
            "allOf": [
                {"if": {"properties": {"type": {"const": tag}}}, "then": model_schema(model)}
                for tag, model in _SOURCES.items()
            ]
        },
        "else": model_schema(FilesSource),
    },
)
