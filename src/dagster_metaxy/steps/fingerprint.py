"""The step `fingerprint`: perceptual hashes of each video."""

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
    from dagster_metaxy.media.fingerprint import Fingerprint

_FILE = "frames.jpg"

ALL_VIDEOS = "videos"
"""The group that all videos of a collection are in."""


class FingerprintStep(PictureStep):
    """Perceptual hashes of frames of the video; one sample per video."""

    previews = (Images("path", size=480, most=12),)

    type: Literal["fingerprint"] = Field(
        description="Perceptual hashes of eight frames of the video, which stay nearly the same when it"
        " is encoded again or scaled; one sample per video.",
        examples=["fingerprint"],
    )

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                # By which those of all videos come together.
                "collection": Column("str", description="The same for all videos."),
                "hashes": Column(
                    "list[str]",
                    description="Perceptual hashes (pHash) of eight frames in the middles of parts of"
                    " equal length, 16 hexadecimal digits each.",
                ),
                "duration": Column("float", description="Seconds of the picture."),
                "path": Column(
                    "str",
                    description="A JPEG file with every other one of these frames, small, side by"
                    " side: for people.",
                ),
            },
            fields=(versioned("video", self.code_version("2"), prefix, "video"),),
            deps=(of_videos(prefix, "video"),),
            description="Perceptual hashes of each video.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[Fingerprint]]:
        """Hashes frames, and writes some of them."""
        from dagster_metaxy.media.fingerprint import Fingerprinter

        return partial(Fingerprinter, directory / _FILE)

    def rows(self, sample: Sample, result: Fingerprint, directory: Path) -> Mapping[str, Any]:
        """One for each video."""
        return {
            "collection": ALL_VIDEOS,
            "hashes": result.hashes,
            "duration": result.duration,
            "path": directory / _FILE,
        }
