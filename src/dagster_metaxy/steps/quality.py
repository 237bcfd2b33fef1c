"""The step `quality`: what can be measured of the picture of each video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Curves, Histogram
from dagster_metaxy.steps._picture import PictureStep
from dagster_metaxy.steps._step import of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer
    from dagster_metaxy.media.quality import Quality


class QualityStep(PictureStep):
    """Sharpness, brightness, contrast, motion, black and frozen share; one sample per video."""

    previews = (
        Curves("brightness_curve", low=0, high=1),
        Curves("sharpness_curve", low=0),
        # Of 1 at most, too, but a hundredth is much.
        Curves("motion_curve", low=0),
        Histogram("sharpness"),
    )

    writes_files: ClassVar[bool] = False

    type: Literal["quality"] = Field(
        description="Sharpness, brightness, contrast and motion of the picture, and how much of it is"
        " black or frozen; one sample per video.",
        examples=["quality"],
    )
    black_below: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A frame is black where 98 % of its pixels have less luma; 0 is black, 1 white.",
        examples=[0.1],
    )
    frozen_below: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="The picture stands still while its luma, 0 to 1, differs by less in the mean.",
        examples=[0.001],
    )

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "sharpness": Column(
                    "float",
                    description="Variance of the Laplacian of luma from 0 to 255, at 320 x 180"
                    " pixels: thousands with fine detail, below about 100 where it is blurred.",
                ),
                "brightness": Column("float", description="Mean luma, 0 (black) to 1 (white)."),
                "contrast": Column(
                    "float", description="Standard deviation of luma within a frame, 0 to 0.5."
                ),
                "motion": Column(
                    "float",
                    description="Mean absolute difference of luma from one frame to the next, 0 to 1.",
                ),
                "black_share": Column("float", description="Share of time that is black, 0 to 1."),
                "frozen_share": Column(
                    "float",
                    description="Share of time, 0 to 1, in which the picture stands still for a"
                    " second or longer.",
                ),
                "brightness_curve": Column("list[float]", description="Brightness of each second."),
                "sharpness_curve": Column(
                    "list[float]", description="Sharpness of the first frame of each second."
                ),
                "motion_curve": Column("list[float]", description="Motion in each second."),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video"),),
            description="Sharpness, brightness, contrast, motion, black and frozen share of each video.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[Quality]]:
        """Measures."""
        from dagster_metaxy.media.quality import QualityMeter

        return partial(QualityMeter, black_below=self.black_below, frozen_below=self.frozen_below)

    def rows(self, sample: Sample, result: Quality, directory: Path) -> Mapping[str, Any]:
        """One for each video."""
        return asdict(result)
