"""The step `clips`: pieces of each video as MP4 files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Posters
from dagster_metaxy.steps._step import Step, of_videos, versioned


class ClipsStep(Step):
    """Pieces of the video as MP4 files, by length or by scenes; one sample per clip."""

    previews = (Posters("path", time="start"),)

    inputs: ClassVar[Mapping[str, str]] = {"scenes": "scenes"}

    type: Literal["clips"] = Field(
        description="Pieces of the video as MP4 files, by length or by scenes; one sample per clip.",
        examples=["clips"],
    )
    seconds: float = Field(
        default=10.0, ge=0.5, description="Length of a clip in seconds.", examples=[10]
    )
    min_seconds: float = Field(
        default=1.0,
        ge=0,
        description="A last clip that would be shorter joins the one before.",
        examples=[1],
    )
    scenes: str | None = Field(
        default=None,
        description="Cut where the scenes begin that the step of this name has found, instead of by"
        " length.",
        examples=["scenes"],
    )
    tolerance_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How far a cut may be moved to a keyframe: clips from keyframe to keyframe are"
        " copied, which is fast and loses nothing; others are encoded anew. 0 cuts exactly.",
        examples=[2],
    )
    crf: int = Field(
        default=20,
        ge=0,
        le=51,
        description="Quality of what is encoded: 0 loses least, 51 most; 18 is hard to tell from the"
        " video.",
        examples=[20],
    )
    preset: Literal[
        "ultrafast",
        "superfast",
        "veryfast",
        "faster",
        "fast",
        "medium",
        "slow",
        "slower",
        "veryslow",
    ] = Field(
        default="veryfast",
        description="Of the encoder: slower ones make smaller files.",
        examples=["medium"],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scenes is not None and (
            given := [n for n in ("seconds", "min_seconds") if n in self.model_fields_set]
        ):
            raise ValueError(f"clips are cut by {given[0]} or by scenes: leave one of the two out")
        return self

    def feature(self, prefix: str) -> Feature:
        """Picture and sound are what it depends on, and the scenes."""
        version = versioned("clip", self.code_version("1"), prefix, "video", "audio")
        deps = [of_videos(prefix, "video", "audio", lineage=expansion(["video_id"]))]
        how = f"{self.seconds:g} s long"
        if self.scenes is not None:
            how = "one for each scene"
            scenes = f"{prefix}/{self.scenes}"
            version["deps"].append({"feature": scenes, "fields": ["video"]})
            deps.append(
                {
                    "feature": scenes,
                    "select": ("scene_index", "start", "end"),
                    "lineage": aggregation(["video_id"]),
                }
            )
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("video_id", "clip_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "clip_index": Column("int", description="0 for the first clip."),
                "start": Column(
                    "float",
                    description="Seconds from the start of the picture; of the sound, where there is"
                    " no picture.",
                ),
                "end": Column(
                    "float", description="Where the next clip begins, or the video ends."
                ),
                "duration": Column("float", description="Seconds."),
                "path": Column("str", description="The MP4 file."),
                "size": Column("int", description="Size of the file in bytes."),
                "copied": Column(
                    "bool",
                    description="Whether the picture (the sound, where there is no picture) is as it"
                    " was, not encoded anew.",
                ),
            },
            fields=(version,),
            deps=tuple(deps),
            description=f"Clips of each video, {how}.",
        )

    def compute(
        self, sample: Sample | Sequence[Sample], context: ComputeContext
    ) -> Iterator[Mapping[str, Any]]:
        """Cuts a video, and gives the rows of its clips.

        Args:
            sample: The video; the scenes of one, where it is cut by these.
            context: For the files.
        """
        from dagster_metaxy.media import clips

        if isinstance(sample, Mapping):
            path = sample["path"]
            bounds = partial(clips.evenly, seconds=self.seconds, min_seconds=self.min_seconds)
        else:
            path = sample[0]["path"]
            scenes = sorted(sample, key=lambda scene: scene["scene_index"])
            bounds = partial(_of_scenes, scenes)
        cut = partial(
            clips.cut,
            directory=context.artifacts,
            bounds=bounds,
            tolerance_seconds=self.tolerance_seconds,
            crf=self.crf,
            preset=self.preset,
        )
        made, _ = locations.read(path, cut, self._cache)
        for clip in made:
            yield {
                "clip_index": clip.index,
                "start": clip.start,
                "end": clip.end,
                "duration": clip.end - clip.start,
                "path": context.artifacts / clip.file,
                "size": clip.size,
                "copied": clip.copied,
            }


def _of_scenes(scenes: Sequence[Sample], duration: float) -> list[float]:
    return [*(scene["start"] for scene in scenes), scenes[-1]["end"]]
