"""The step `faces`: where faces are in each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.report.previews import Boxes, Histogram
from dagster_metaxy.steps._frame import (
    FRAME,
    FrameStep,
    looking,
    picture,
)


class FacesStep(FrameStep):
    """The faces in each frame of a step `frames`; one sample per face."""

    previews = (Boxes(), Histogram("score"))

    extra: ClassVar[str] = "faces"
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    type: Literal["faces"] = Field(
        description="The faces in each frame of a step `frames`; one sample per face.",
        examples=["faces"],
    )
    min_score: float = Field(
        default=0.5, ge=0, le=1, description="Less certain faces are left out.", examples=[0.7]
    )
    min_size: int = Field(
        default=0,
        ge=0,
        description="Faces whose shorter side has fewer pixels of the frame are left out.",
        examples=[24],
    )
    model: str | None = Field(
        default=None,
        description="What finds them: the path of an ONNX file with another CenterFace, absolute or"
        " below the project's root; or a detector of your own by its dotted path, as"
        " `dagster_metaxy.media.faces` tells. A CenterFace that is inside this package if left out.",
        examples=["my_project.models.Detector"],
    )

    @property
    def default_model(self) -> str:
        """CenterFace, by the content of its file."""
        from dagster_metaxy.media import faces, models

        return models.identity(str(faces.CENTERFACE))

    def feature(self, prefix: str) -> Feature:
        """The frames are what it depends on."""
        place = "pixels from the {} of the frame."
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=(*FRAME, "face_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="The frame."),
                "face_index": Column("int", description="0 for the most certain face of a frame."),
                "left": Column("float", description="Left edge, " + place.format("left")),
                "top": Column("float", description="Upper edge, " + place.format("top")),
                "right": Column("float", description="Right edge, " + place.format("left")),
                "bottom": Column("float", description="Lower edge, " + place.format("top")),
                "score": Column("float", description="How certain it is, 0 to 1."),
                "landmarks": Column(
                    "list[float]",
                    nullable=True,
                    description="x and y, in pixels, of the left and the right eye, the tip of the"
                    " nose, and the left and the right corner of the mouth, as seen by who looks.",
                ),
            },
            fields=({"key": "faces", "code_version": self.code_version("1")},),
            deps=(self.of_frames(prefix, lineage=expansion([*FRAME])),),
            description="The faces in each frame.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """The faces of a frame."""
        from dagster_metaxy.media import faces

        with looking(self):
            found = faces.detect(
                picture(sample),
                model=self.model,
                min_score=self.min_score,
                min_size=self.min_size,
            )
        for index, face in enumerate(found):
            yield {
                "face_index": index,
                "left": face.left,
                "top": face.top,
                "right": face.right,
                "bottom": face.bottom,
                "score": face.score,
                "landmarks": None if face.landmarks is None else list(face.landmarks),
            }
