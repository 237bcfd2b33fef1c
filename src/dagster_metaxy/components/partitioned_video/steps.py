"""The built-in steps: a feature declaration around a pure function of `media/`.

A step is a model of its parameters with a feature and a compute; adding one is a class here and a
word in `AnyStep` and `STEPS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid")

    _cache: locations.Cache | None = PrivateAttr(default=None)

    def reading_through(self, cache: locations.Cache | None) -> Self:
        """The same step, which keeps copies of remote videos."""
        step = self.model_copy()
        step._cache = cache
        return step

    def code_version(self, version: str) -> str:
        """`version` of the code, and every parameter: another value is another content."""
        parameters = self.model_dump(exclude={"type"})
        return ";".join([version, *(f"{name}={value}" for name, value in parameters.items())])


class FramesStep(_Step):
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
        """`<prefix>/frames`: depends on the picture alone."""
        videos = f"{prefix}/videos"
        return Feature(
            key=f"{prefix}/frames",
            id_columns=("video_id", "frame_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="0 for the first frame taken."),
                "time": Column("float", description="Seconds from the start of the picture."),
                "path": Column("str", description="The JPEG file."),
                "width": Column("int", description="Width in pixels."),
                "height": Column("int", description="Height in pixels."),
            },
            fields=(
                {
                    "key": "video",
                    "code_version": self.code_version("1"),
                    "deps": [{"feature": videos, "fields": ["video"]}],
                },
            ),
            # A video without a picture has no frames; that is no failure.
            deps=(
                {
                    "feature": videos,
                    "select": ("path", "video_codec"),
                    "filters": ["video_codec IS NOT NULL"],
                    "lineage": expansion(["video_id"]),
                },
            ),
            description=f"Frames of each video, {self.every_seconds:g} s apart.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """Writes the frames of a video, and gives their rows."""
        from dagster_metaxy.media import frames

        extract = partial(
            frames.extract,
            directory=context.artifacts,
            every_seconds=self.every_seconds,
            max_size=self.max_size,
            quality=self.quality,
        )
        found, _ = locations.read(sample["path"], extract, self._cache)
        for frame in found:
            yield {
                "frame_index": frame.index,
                "time": frame.time,
                "path": context.artifacts / frame.file,
                "width": frame.width,
                "height": frame.height,
            }


class AudioStep(_Step):
    """The sound of the video as a mono WAV file; one sample per video that has any."""

    type: Literal["audio"] = Field(
        description="The sound of the video as a mono WAV file; one sample per video that has any.",
        examples=["audio"],
    )
    rate: int = Field(
        default=16_000, ge=1_000, description="Audio samples per second.", examples=[16_000]
    )

    def feature(self, prefix: str) -> Feature:
        """`<prefix>/audio`: depends on the sound alone."""
        videos = f"{prefix}/videos"
        return Feature(
            key=f"{prefix}/audio",
            id_columns=("video_id",),
            columns={
                "video_id": Column("str", description="The video."),
                "path": Column("str", description="The WAV file, mono, 16 bit."),
                "duration": Column("float", description="Seconds of sound."),
                "rate": Column("int", description="Audio samples per second."),
            },
            fields=(
                {
                    "key": "audio",
                    "code_version": self.code_version("1"),
                    "deps": [{"feature": videos, "fields": ["audio"]}],
                },
            ),
            # A video without sound is a normal case.
            deps=(
                {
                    "feature": videos,
                    "select": ("path", "audio_codec"),
                    "filters": ["audio_codec IS NOT NULL"],
                },
            ),
            description=f"The sound of each video that has any: mono, {self.rate} Hz.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Mapping[str, Any]:
        """Writes the sound of a video, and gives its row."""
        from dagster_metaxy.media import audio

        file = context.artifacts / "audio.wav"
        extract = partial(audio.extract, target=file, rate=self.rate)
        sound, _ = locations.read(sample["path"], extract, self._cache)
        return {"path": file, "duration": sound.duration, "rate": sound.rate}


AnyStep = Annotated[FramesStep | AudioStep, Field(discriminator="type")]
STEPS: Mapping[str, type[BaseModel]] = {"frames": FramesStep, "audio": AudioStep}
