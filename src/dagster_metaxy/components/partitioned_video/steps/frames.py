"""The step `frames`: pictures of each video as JPEG files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dagster_metaxy.components.partitioned_video.steps._step import (
    PictureStep,
    of_videos,
    versioned,
)
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer


class FramesStep(PictureStep):
    """Pictures of the video at regular times, as JPEG files; one sample per frame."""

    type: Literal["frames"] = Field(
        description="Pictures of the video at regular times, as JPEG files; one sample per frame.",
        examples=["frames"],
    )
    every_seconds: float = Field(
        default=1.0, gt=0, description="Seconds from one frame to the next.", examples=[1, 0.5]
    )
    max_size: int | None = Field(
        default=640,
        ge=16,
        description="Longest edge in pixels; smaller videos are not enlarged. Null keeps the size.",
        examples=[320],
    )
    quality: int = Field(
        default=85, ge=1, le=95, description="JPEG quality, 1 to 95.", examples=[85]
    )

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "frame_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="0 for the first frame taken."),
                "time": Column("float", description="Seconds from the start of the picture."),
                "path": Column("str", description="The JPEG file."),
                "width": Column("int", description="Width in pixels."),
                "height": Column("int", description="Height in pixels."),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video", lineage=expansion(["video_id"])),),
            description=f"Frames of each video, {self.every_seconds:g} s apart.",
        )

    def viewer(self, context: ComputeContext) -> Callable[[], Viewer[Any]]:
        """Writes the frames."""
        from dagster_metaxy.media.frames import FrameTaker

        return partial(
            FrameTaker,
            context.artifacts,
            every_seconds=self.every_seconds,
            max_size=self.max_size,
            quality=self.quality,
        )

    def rows(self, result: Any, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """One of each frame."""
        for frame in result:
            yield {
                "frame_index": frame.index,
                "time": frame.time,
                "path": context.artifacts / frame.file,
                "width": frame.width,
                "height": frame.height,
            }
