"""The step `near_duplicates`: pairs of videos that show nearly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, aggregation
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Lists, Pairs
from dagster_metaxy.steps._step import Step


class NearDuplicatesStep(Step):
    """The pairs of videos whose fingerprints are close, in one row."""

    previews = (
        Lists(
            "distances",
            "bits",
            ("video_ids", "other_ids"),
            nothing="No two videos are near duplicates of each other.",
        ),
        Pairs(unit="bits"),
    )

    of_all_videos: ClassVar[bool] = True
    inputs: ClassVar[Mapping[str, str]] = {"fingerprint": "fingerprint"}

    type: Literal["near_duplicates"] = Field(
        description="The pairs of videos of the collection that show nearly the same, whatever their"
        " encoding and size; one sample for the collection, made from `fingerprint`.",
        examples=["near_duplicates"],
    )
    fingerprint: str = Field(
        default="fingerprint",
        description="The name of the step whose fingerprints are compared.",
        examples=["fingerprint"],
    )
    max_distance: float = Field(
        default=12.0,
        ge=0,
        le=64,
        description="Bits, of 64, in which perceptual hashes of a pair differ in the mean, at most:"
        " encoded again, 0 to 3; trimmed by some percent, up to 12; others, mostly 20 to 40.",
        examples=[6],
    )

    def feature(self, prefix: str) -> Feature:
        """All fingerprints together are what it depends on."""
        source = f"{prefix}/{self.fingerprint}"
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=("collection",),
            columns={
                "collection": Column("str", description="The same for all videos."),
                "videos": Column("int", description="How many videos were compared."),
                "pairs": Column("int", description="How many pairs were found."),
                "video_ids": Column("list[str]", description="One video of each pair."),
                "other_ids": Column("list[str]", description="The other one."),
                "distances": Column(
                    "list[float]",
                    description="Bits, of 64, in which their hashes differ in the mean.",
                ),
            },
            fields=(
                {
                    "key": "video",
                    "code_version": self.code_version("1"),
                    "deps": [{"feature": source, "fields": ["video"]}],
                },
            ),
            deps=(
                {
                    "feature": source,
                    "select": ("collection", "video_id", "hashes"),
                    "lineage": aggregation(["collection"]),
                },
            ),
            description="The pairs of videos that show nearly the same.",
        )

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, samples: Sequence[Sample], context: ComputeContext
    ) -> Mapping[str, Any]:
        """Compares the fingerprints of all videos."""
        from dagster_metaxy.media import fingerprint

        samples = sorted(samples, key=lambda sample: sample["video_id"])
        found = list(fingerprint.near([s["hashes"] for s in samples], self.max_distance))
        return {
            "videos": len(samples),
            "pairs": len(found),
            "video_ids": [samples[pair.first]["video_id"] for pair in found],
            "other_ids": [samples[pair.second]["video_id"] for pair in found],
            "distances": [pair.distance for pair in found],
        }
