"""The step `fingerprint`: perceptual hashes of each video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.steps._picture import PictureStep
from dagster_metaxy.steps._step import of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer
    from dagster_metaxy.media.fingerprint import Fingerprint

ALL_VIDEOS = "videos"
"""The group that all videos of a collection are in."""


class FingerprintStep(PictureStep):
    """Perceptual hashes of frames of the video; one sample per video."""

    writes_files: ClassVar[bool] = False

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
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video"),),
            description="Perceptual hashes of each video.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[Fingerprint]]:
        """Hashes frames."""
        from dagster_metaxy.media.fingerprint import Fingerprinter

        return Fingerprinter

    def rows(self, sample: Sample, result: Fingerprint, directory: Path) -> Mapping[str, Any]:
        """One for each video."""
        return {"collection": ALL_VIDEOS, "hashes": result.hashes, "duration": result.duration}
