"""The step `speech`: when somebody speaks in each video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Histogram, Timeline
from dagster_metaxy.steps._step import Step, of_videos, versioned


class SpeechStep(Step):
    """The stretches of speech, by a voice activity model; one sample per stretch."""

    previews = (Timeline(), Histogram("probability"))

    extra: ClassVar[str] = "speech"
    modules: ClassVar[tuple[str, ...]] = ("faster_whisper", "onnxruntime")

    type: Literal["speech"] = Field(
        description="When somebody speaks, by Silero's voice activity model; one sample per stretch.",
        examples=["speech"],
    )
    threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Probability from which sound counts as speech.",
        examples=[0.5],
    )
    min_speech_seconds: float = Field(
        default=0.25,
        ge=0,
        description="Stretches that are no longer than that are left out.",
        examples=[1],
    )
    min_silence_seconds: float = Field(
        default=0.5, ge=0, description="Shorter pauses do not end a stretch.", examples=[2]
    )
    pad_seconds: float = Field(
        default=0.1,
        ge=0,
        description="Added on both sides, or half of the pause between two.",
        examples=[0.4],
    )
    track: int = Field(
        default=0,
        ge=0,
        description="Index of the audio track, 0 for the first. A video with fewer is a failed sample.",
        examples=[1],
    )

    def feature(self, prefix: str) -> Feature:
        """The sound is what it depends on, and the model."""
        from dagster_metaxy.media.speech import model_file

        code_version = self.code_version(f"1;model={model_file().stem}")
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "segment_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "segment_index": Column("int", description="0 for the first stretch of speech."),
                "start": Column("float", description="Seconds from the start of the video."),
                "end": Column("float", description="Seconds from the start of the video."),
                "probability": Column(
                    "float", description="Mean probability of speech that the model gives, 0 to 1."
                ),
            },
            fields=(versioned("audio", code_version, prefix, "audio"),),
            deps=(of_videos(prefix, "audio", lineage=expansion(["video_id"])),),
            description="When somebody speaks in each video.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """The rows of a video: none where nobody speaks."""
        from dagster_metaxy.media import speech

        detect = partial(
            speech.detect,
            threshold=self.threshold,
            min_speech_seconds=self.min_speech_seconds,
            min_silence_seconds=self.min_silence_seconds,
            pad_seconds=self.pad_seconds,
            track=self.track,
        )
        found, _ = locations.read(sample["path"], detect, self._cache)
        for index, segment in enumerate(found):
            yield {
                "segment_index": index,
                "start": segment.start,
                "end": segment.end,
                "probability": segment.probability,
            }
