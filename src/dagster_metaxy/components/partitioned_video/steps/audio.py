"""The step `audio`: the sound of each video as a WAV file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field

from dagster_metaxy import locations
from dagster_metaxy.components.partitioned_video.steps._step import Step, of_videos, versioned
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample


class AudioStep(Step):
    """The sound of the video as a mono WAV file; one sample per video that has any."""

    type: Literal["audio"] = Field(
        description="The sound of the video as a mono WAV file; one sample per video that has any.",
        examples=["audio"],
    )
    rate: int = Field(
        default=16_000, ge=1_000, description="Audio samples per second.", examples=[16_000]
    )

    def feature(self, prefix: str) -> Feature:
        """The sound alone is what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "path": Column("str", description="The WAV file, mono, 16 bit."),
                "duration": Column("float", description="Seconds of sound."),
                "rate": Column("int", description="Audio samples per second."),
            },
            fields=(versioned("audio", self.code_version("1"), prefix, "audio"),),
            deps=(of_videos(prefix, "audio"),),
            description=f"The sound of each video that has any: mono, {self.rate} Hz.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Mapping[str, Any]:
        """Writes the sound of a video, and gives its row."""
        from dagster_metaxy.media import audio

        file = context.artifacts / "audio.wav"
        extract = partial(audio.extract, target=file, rate=self.rate)
        sound, _ = locations.read(sample["path"], extract, self._cache)
        return {"path": file, "duration": sound.duration, "rate": sound.rate}
