"""The step `frames`: pictures of each video as image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Images
from dagster_metaxy.steps._picture import PictureStep
from dagster_metaxy.steps._step import of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer
    from dagster_metaxy.media.frames import Frame


class FramesStep(PictureStep):
    """Pictures of the video, as image files; one sample per frame."""

    previews = (Images("path", time="time"),)

    type: Literal["frames"] = Field(
        description="Pictures of the video, as image files; one sample per frame.",
        examples=["frames"],
    )
    every_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Seconds from one frame to the next. One of `every_seconds`, `every_nth`, `count`"
        " and `keyframes` says which frames are taken.",
        examples=[1, 0.5],
    )
    every_nth: int | None = Field(
        default=None, ge=1, description="Take each n-th frame, from the first.", examples=[25]
    )
    count: int | None = Field(
        default=None,
        ge=1,
        description="Take so many frames of each video, from the middles of parts of equal length.",
        examples=[8],
    )
    keyframes: bool = Field(
        default=False,
        description="Take the frames that are coded without any other: fast, and unevenly spaced.",
        examples=[True],
    )
    max_size: int | None = Field(
        default=640,
        ge=16,
        description="Longest edge in pixels; smaller videos are not enlarged. Null keeps the size.",
        examples=[320],
    )
    format: Literal["jpeg", "png", "webp"] = Field(
        default="jpeg", description="Of the files.", examples=["webp"]
    )
    quality: int = Field(
        default=85, ge=1, le=95, description="Of JPEG and WebP, 1 to 95.", examples=[85]
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        modes = ("every_seconds", "every_nth", "count", "keyframes")
        given = [name for name in modes if name in self.model_fields_set and getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} both say which frames are taken: write one of"
                f" {', '.join(modes)}"
            )
        if self.format == "png" and "quality" in self.model_fields_set:
            raise ValueError("PNG loses nothing and has no quality: leave `quality` out")
        return self

    def _which(self) -> Mapping[str, Any]:
        """The parameter that says which frames are taken."""
        if self.every_nth or self.count:
            return {"every_nth": self.every_nth} if self.every_nth else {"count": self.count}
        return {"keyframes": True} if self.keyframes else {"every_seconds": self.every_seconds}

    def _described(self) -> str:
        match self._which():
            case {"every_nth": n}:
                return f"Each frame of {n} of each video."
            case {"count": n}:
                return f"{n} frames of each video, evenly spaced."
            case {"keyframes": _}:
                return "The keyframes of each video."
        return f"Frames of each video, {self.every_seconds:g} s apart."

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "frame_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="0 for the first frame taken."),
                "time": Column("float", description="Seconds from the start of the picture."),
                "path": Column("str", description="The image file."),
                "width": Column("int", description="Width in pixels."),
                "height": Column("int", description="Height in pixels."),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video", lineage=expansion(["video_id"])),),
            description=self._described(),
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[list[Frame]]]:
        """Writes the frames."""
        from dagster_metaxy.media.frames import FrameTaker

        return partial(
            FrameTaker,
            directory,
            **self._which(),
            max_size=self.max_size,
            format=self.format,
            quality=self.quality,
        )

    def rows(
        self, sample: Sample, result: list[Frame], directory: Path
    ) -> Iterator[Mapping[str, Any]]:
        """One for each frame."""
        for frame in result:
            yield {
                "frame_index": frame.index,
                "time": frame.time,
                "path": directory / frame.file,
                "width": frame.width,
                "height": frame.height,
            }
