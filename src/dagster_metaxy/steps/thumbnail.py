"""The step `thumbnail`: one frame that stands for each video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Images
from dagster_metaxy.steps._picture import PictureStep
from dagster_metaxy.steps._step import of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer
    from dagster_metaxy.media.thumbnail import Thumbnail

_FILE = "thumbnail.jpg"


class ThumbnailStep(PictureStep):
    """A frame that stands for the video, as a JPEG; one sample per video."""

    previews = (Images("path"),)

    type: Literal["thumbnail"] = Field(
        description="A frame that stands for the video, the sharpest and richest in contrast of"
        " eight, as a JPEG file; one sample per video.",
        examples=["thumbnail"],
    )
    max_size: int | None = Field(
        default=640,
        ge=16,
        description="Longest edge in pixels; smaller videos are not enlarged. Null keeps the size.",
        examples=[320],
    )
    quality: int = Field(default=85, ge=1, le=95, description="JPEG's, 1 to 95.", examples=[85])

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "path": Column("str", description="The JPEG file."),
                "time": Column("float", description="Seconds from the start of the picture."),
                "width": Column("int", description="Width in pixels."),
                "height": Column("int", description="Height in pixels."),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video"),),
            description="A frame that stands for each video.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[Thumbnail]]:
        """Writes the frame."""
        from dagster_metaxy.media.thumbnail import ThumbnailTaker

        return partial(
            ThumbnailTaker, directory / _FILE, max_size=self.max_size, quality=self.quality
        )

    def rows(self, sample: Sample, result: Thumbnail, directory: Path) -> Mapping[str, Any]:
        """One for each video."""
        return {
            "path": directory / _FILE,
            "time": result.time,
            "width": result.width,
            "height": result.height,
        }
