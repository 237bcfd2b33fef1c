"""The step `loudness`: how loud the sound of each video is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Curves, Histogram
from dagster_metaxy.steps._step import Step, of_videos, versioned


class LoudnessStep(Step):
    """The loudness of the sound by EBU R 128; one sample per video that has any."""

    previews = (
        Curves("short_term", "LUFS"),
        Histogram("integrated", "LUFS"),
    )

    type: Literal["loudness"] = Field(
        description="The loudness of the sound by EBU R 128: integrated, range, true peak, and its"
        " curve; one sample per video that has any.",
        examples=["loudness"],
    )
    track: int = Field(
        default=0,
        ge=0,
        description="Index of the audio track, 0 for the first. A video with fewer is a failed sample.",
        examples=[1],
    )

    def feature(self, prefix: str) -> Feature:
        """The sound alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "integrated": Column(
                    "float",
                    nullable=True,
                    description="LUFS of the whole; -70 is silence, null less than 0.4 s.",
                ),
                "loudness_range": Column(
                    "float",
                    nullable=True,
                    description="LU between quiet and loud parts; null for less than 0.4 s.",
                ),
                "true_peak": Column(
                    "float", nullable=True, description="dBTP; null where all samples are 0."
                ),
                "short_term": Column(
                    "list[float]",
                    description="LUFS, at least -70, of the 3 s from second 0, 1, 2 ... of the sound.",
                ),
                "start": Column(
                    "float", description="Seconds from the start of the video to that of its sound."
                ),
            },
            fields=(versioned("audio", self.code_version("1"), prefix, "audio"),),
            deps=(of_videos(prefix, "audio"),),
            description="The loudness of each video that has sound, by EBU R 128.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Mapping[str, Any]:
        """The row of a video."""
        from dagster_metaxy.media import loudness

        measure = partial(loudness.measure, track=self.track)
        found, _ = locations.read(sample["path"], measure, self._cache)
        return {
            "integrated": found.integrated,
            "loudness_range": found.loudness_range,
            "true_peak": found.true_peak,
            "short_term": found.short_term,
            "start": found.start,
        }
