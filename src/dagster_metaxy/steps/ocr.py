"""The step `ocr`: what is written in each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature, expansion
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.media import models
from dagster_metaxy.report.previews import Best, Boxes
from dagster_metaxy.steps._frame import (
    FRAME,
    FrameStep,
    looking,
    picture,
)


class OcrStep(FrameStep):
    """The lines of text in each frame of a step `frames`; one sample per line."""

    previews = (Boxes(), Best("text"))

    extra: ClassVar[str] = "ocr"
    modules: ClassVar[tuple[str, ...]] = ("rapidocr", "onnxruntime")

    type: Literal["ocr"] = Field(
        description="The lines of text in each frame of a step `frames`; one sample per line.",
        examples=["ocr"],
    )
    min_score: float = Field(
        default=0.5, ge=0, le=1, description="Less certain text is left out.", examples=[0.8]
    )
    model: str | None = Field(
        default=None,
        description="What reads it: a reader of your own by its dotted path, as"
        " `dagster_metaxy.media.ocr` tells. RapidOCR with its own models if left out.",
        examples=["my_project.models.Reader"],
    )

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str | None) -> str | None:
        if model is not None and models.is_file(model):
            raise ValueError(f"{model!r} is no dotted path of a reader, such as 'package.Reader'")
        return model

    @property
    def default_model(self) -> str:
        """RapidOCR, by the version of its package, which has the models inside."""
        from importlib.metadata import version

        return f"rapidocr-{version('rapidocr')}"

    def feature(self, prefix: str) -> Feature:
        """The frames are what it depends on."""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=(*FRAME, "text_index"),
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="The frame."),
                "text_index": Column("int", description="0 for the first line of a frame."),
                "text": Column("str", description="What is written."),
                "score": Column("float", description="How certain it is, 0 to 1."),
                "left": Column("float", description="Left edge, pixels from the frame's left."),
                "top": Column("float", description="Upper edge, pixels from the frame's top."),
                "right": Column("float", description="Right edge, pixels from the frame's left."),
                "bottom": Column("float", description="Lower edge, pixels from the frame's top."),
                "polygon": Column(
                    "list[float]",
                    description="x and y of each corner, in pixels: text may be slanted.",
                ),
            },
            fields=({"key": "text", "code_version": self.code_version("1")},),
            deps=(self.of_frames(prefix, lineage=expansion([*FRAME])),),
            description="The lines of text in each frame.",
        )

    def compute(self, sample: Sample, context: ComputeContext) -> Iterator[Mapping[str, Any]]:
        """The text of a frame."""
        from dagster_metaxy.media import ocr

        with looking(self):
            found = ocr.read(picture(sample), model=self.model, min_score=self.min_score)
        for index, line in enumerate(found):
            yield {
                "text_index": index,
                "text": line.text,
                "score": line.score,
                "left": line.left,
                "top": line.top,
                "right": line.right,
                "bottom": line.bottom,
                "polygon": list(line.polygon),
            }
