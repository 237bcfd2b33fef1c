"""The step `scenes`: where each video is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Timeline
from dagster_metaxy.steps._picture import PictureStep
from dagster_metaxy.steps._step import of_videos, versioned

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer
    from dagster_metaxy.media.scenes import Scene


class ScenesStep(PictureStep):
    """What lies between the cuts of the video; one sample per scene, at least one per video."""

    previews = (Timeline(),)

    writes_files: ClassVar[bool] = False

    type: Literal["scenes"] = Field(
        description="What lies between the cuts of the video; one sample per scene.",
        examples=["scenes"],
    )
    threshold: float = Field(
        default=3.0,
        gt=1,
        description="How many times as much the picture changes at a cut as around it, at least.",
        examples=[3],
    )
    min_scene_seconds: float = Field(
        default=0.6,
        ge=0,
        description="How long a scene lasts, at least, before it is cut.",
        examples=[0.6],
    )

    def feature(self, prefix: str) -> Feature:
        """The picture alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "scene_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "scene_index": Column("int", description="0 for the first scene."),
                "start": Column("float", description="Seconds from the start of the picture."),
                "end": Column(
                    "float", description="Where the next scene begins, or the picture ends."
                ),
                "start_frame": Column("int", description="Number of its first frame, from 0."),
                "score": Column(
                    "float",
                    nullable=True,
                    description="How many times as much the picture changes at the cut that begins it"
                    " as around it; null for the first scene.",
                ),
            },
            fields=(versioned("video", self.code_version("1"), prefix, "video"),),
            deps=(of_videos(prefix, "video", lineage=expansion(["video_id"])),),
            description="The scenes of each video, from cut to cut.",
        )

    def viewer(self, directory: Path) -> Callable[[], Viewer[list[Scene]]]:
        """Finds the cuts."""
        from dagster_metaxy.media.scenes import SceneDetector

        return partial(
            SceneDetector, threshold=self.threshold, min_scene_seconds=self.min_scene_seconds
        )

    def rows(
        self, sample: Sample, result: list[Scene], directory: Path
    ) -> Iterator[Mapping[str, Any]]:
        """One for each scene."""
        for scene in result:
            yield {
                "scene_index": scene.index,
                "start": scene.start,
                "end": scene.end,
                "start_frame": scene.start_frame,
                "score": scene.score,
            }
