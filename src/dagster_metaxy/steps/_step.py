"""What the built-in steps have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.extras import require
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Preview

Stream = Literal["video", "audio"]


class Step(BaseModel):
    """Parameters, as YAML gives them; the feature they declare; and what computes it.

    A step is one file: a subclass with the feature, around a pure function of `media/`; and a line in
    `STEPS`.
    """

    model_config = ConfigDict(extra="forbid")

    extra: ClassVar[str] = "video"
    """The extra of this package that brings what the step imports."""
    modules: ClassVar[tuple[str, ...]] = ()
    """The modules of that extra that it imports."""
    previews: ClassVar[tuple[Preview, ...]] = ()
    """What its materializations show."""
    of_all_videos: ClassVar[bool] = False
    """Whether its samples are made from all videos, and belong to no partition."""
    inputs: ClassVar[Mapping[str, str]] = {}
    """The parameters that name other steps which it is made from, and the types of these."""
    workers: ClassVar[int | None] = None
    """How many samples are computed at once; as many as there are processors if left out."""
    batch_size: ClassVar[int] = 1
    """How many samples it gets at a time, where its `compute` takes a frame of them."""

    type: Any  # a literal in each step
    name: str | None = Field(
        default=None,
        description="What its feature is called; the step's type if left out. Two steps of one type"
        " need names.",
        examples=["keyframes"],
    )

    _cache: locations.Cache | None = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and not (name.isidentifier() and name.isascii() and "__" not in name):
            raise ValueError(f"{name!r} is no name: write letters, digits and single underscores")
        if name == "videos":
            raise ValueError("'videos' is the name of the collection itself")
        return name

    @property
    def feature_name(self) -> str:
        """What its feature is called, below the collection's prefix."""
        return self.name or self.type

    def check_installed(self) -> None:
        """Refuse to go on without what the step imports.

        Raises:
            MissingExtra: With the command that installs it.
        """
        require(f"the step {self.type!r}", self.extra, *self.modules)

    def below(self, project_root: Path) -> Self:
        """The same step, whose relative paths are below the project's root."""
        return self

    def reading_through(self, cache: locations.Cache | None) -> Self:
        """The same step, which keeps copies of remote videos."""
        step = self.model_copy()
        step._cache = cache
        return step

    def code_version(self, version: str) -> str:
        """`version` of the code, and the parameters: another value is another content.

        Those that have their defaults are left out, so that a parameter can be added to a step without
        making all samples stale; another default is another version of the code.
        """
        given = self.model_dump(exclude={"type", "name", *self.inputs}, exclude_defaults=True)
        return ";".join([version, *(f"{name}={value}" for name, value in sorted(given.items()))])

    @abstractmethod
    def feature(self, prefix: str) -> Feature:
        """The feature, `<prefix>/<name>`."""

    @abstractmethod
    def compute(
        self, sample: Sample, context: ComputeContext
    ) -> Mapping[str, Any] | Iterable[Mapping[str, Any]]:
        """The row, or rows, of a sample."""


def of_videos(prefix: str, *streams: Stream, **more: Any) -> dict[str, Any]:
    """The dependence of a step on the videos of the collection that have a stream.

    Those without it are no samples of the step, which is no failure.

    Args:
        prefix: Of the collection's features.
        streams: Of which each sample has at least one.
        more: Further parts of the dependence, such as its lineage.
    """
    codecs = [f"{stream}_codec" for stream in streams]
    return {
        "feature": f"{prefix}/videos",
        "select": ("path", *codecs),
        "filters": [" OR ".join(f"{codec} IS NOT NULL" for codec in codecs)],
        **more,
    }


def versioned(key: str, code_version: str, prefix: str, *streams: Stream) -> dict[str, Any]:
    """A field of a step that changes with streams of the video, and with nothing else of it.

    Args:
        key: The field.
        code_version: Of the step.
        prefix: Of the collection's features.
        streams: The fields of the videos that it is made from.
    """
    return {
        "key": key,
        "code_version": code_version,
        "deps": [{"feature": f"{prefix}/videos", "fields": [*streams]}],
    }
