"""The step `audio`: the sound of each video as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Histogram
from dagster_metaxy.steps._step import Step, of_videos, versioned

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class AudioStep(Step):
    """The sound of the video as an audio file; one sample per video that has any."""

    previews = (Histogram("duration", "s"),)

    type: Literal["audio"] = Field(
        description="The sound of the video as an audio file; one sample per video that has any.",
        examples=["audio"],
    )
    rate: int = Field(
        default=16_000,
        ge=1_000,
        le=192_000,
        description="Audio samples per second.",
        examples=[16_000, 44_100],
    )
    channels: Literal[1, 2] | None = Field(
        default=1,
        description="1 mixes all channels to one, 2 to stereo; null keeps those of the video.",
        examples=[2],
    )
    format: Literal["wav", "flac", "mp3"] = Field(
        default="wav",
        description="`wav` and `flac` have 16-bit samples; `mp3` has 128 kbit/s, two channels at most,"
        " and the rates up to 48000 that are usual.",
        examples=["flac"],
    )
    track: int = Field(
        default=0,
        ge=0,
        description="Index of the audio track, 0 for the first. A video with fewer is a failed sample.",
        examples=[1],
    )

    @model_validator(mode="after")
    def _check_rate(self) -> Self:
        if self.format == "mp3" and self.rate not in _MP3_RATES:
            raise ValueError(
                f"MP3 has no rate of {self.rate}: take one of {', '.join(map(str, _MP3_RATES))}"
            )
        return self

    def feature(self, prefix: str) -> Feature:
        """The sound alone is what it depends on."""
        channels = {1: "mono", 2: "stereo", None: "channels as in the video"}[self.channels]
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "path": Column("str", description=f"The {self.format.upper()} file."),
                "duration": Column("float", description="Seconds of sound."),
                "rate": Column("int", description="Audio samples per second."),
                "channels": Column("int", description="Channels of the file."),
            },
            fields=(versioned("audio", self.code_version("2"), prefix, "audio"),),
            deps=(of_videos(prefix, "audio"),),
            description=f"The sound of each video that has any: {self.format.upper()}, {channels},"
            f" {self.rate} Hz.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Mapping[str, Any]:
        """Writes the sound of a video, and gives its row."""
        from dagster_metaxy.media import audio

        file = context.artifacts / f"audio.{self.format}"
        extract = partial(
            audio.extract,
            target=file,
            rate=self.rate,
            channels=self.channels,
            format=self.format,
            track=self.track,
        )
        sound, _ = locations.read(sample["path"], extract, self._cache)
        return {
            "path": file,
            "duration": sound.duration,
            "rate": sound.rate,
            "channels": sound.channels,
        }
