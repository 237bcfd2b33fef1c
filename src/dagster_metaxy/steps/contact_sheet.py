"""The step `contact_sheet`: each video at a glance."""

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
    from dagster_metaxy.media.contact_sheet import ContactSheet
    from dagster_metaxy.media.decoding import Viewer

_FILE = "contact_sheet.jpg"


class ContactSheetStep(PictureStep):
    """A grid of frames of the video with their times, as a JPEG; one sample per video."""

    previews = (Images("path", size=320, most=6),)

    type: Literal["contact_sheet"] = Field(
        description="A grid of frames of the video, evenly spaced, with their times, as a JPEG file;"
        " one sample per video.",
        examples=["contact_sheet"],
    )
    columns: int = Field(
        default=4, ge=1, le=50, description="Frames beside each other.", examples=[4]
    )
    # `rows` is a method.
    grid_rows: int = Field(
        default=4, ge=1, le=50, alias="rows", description="Frames below each other.", examples=[4]
    )
    width: int = Field(
        default=1280,
        ge=64,
        le=16_384,
        description="Width of the file in pixels; less where the video is too small for it, since"
        " frames are not enlarged.",
        examples=[1280],
    )

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "path": Column("str", description="The JPEG file."),
                "width": Column("int", description="Width in pixels."),
                "height": Column("int", description="Height in pixels."),
                "frames": Column("int", description="How many frames are on it."),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video"),),
            description=f"{self.columns} x {self.grid_rows} frames of each video on one picture.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[ContactSheet]]:
        """Writes the grid."""
        from dagster_metaxy.media.contact_sheet import ContactSheetMaker

        return partial(
            ContactSheetMaker,
            directory / _FILE,
            columns=self.columns,
            rows=self.grid_rows,
            width=self.width,
        )

    def rows(self, sample: Sample, result: ContactSheet, directory: Path) -> Mapping[str, Any]:
        """One for each video."""
        return {
            "path": directory / _FILE,
            "width": result.width,
            "height": result.height,
            "frames": result.frames,
        }
