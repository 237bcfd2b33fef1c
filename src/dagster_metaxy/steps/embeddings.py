"""The step `embeddings`: a vector of each frame, by a model of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dagster_metaxy.declare.columns import Column
from dagster_metaxy.declare.feature import Feature
from dagster_metaxy.report.previews import Neighbours
from dagster_metaxy.steps._frame import (
    FRAME,
    FrameStep,
    looking,
    picture,
)

if TYPE_CHECKING:
    import polars as pl


class EmbeddingsStep(FrameStep):
    """A vector of each frame of a step `frames`, by a model of your own."""

    previews = (Neighbours(),)

    extra: ClassVar[str] = "embeddings"
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    batch_size: ClassVar[int] = 16

    type: Literal["embeddings"] = Field(
        description="A vector of each frame of a step `frames`, by a model of your own.",
        examples=["embeddings"],
    )
    model: str = Field(
        description="The path of an ONNX file, absolute or below the project's root; or a callable"
        " of your own by its dotted path, as `dagster_metaxy.media.embeddings` tells.",
        examples=["models/clip.onnx", "my_project.models.Embedder"],
    )
    dimension: int = Field(
        ge=1, description="How many values a vector has; the model is checked.", examples=[512]
    )
    normalize: bool = Field(
        default=True, description="Whether vectors are scaled to length 1.", examples=[False]
    )
    size: int = Field(
        default=224,
        ge=1,
        description="Of an ONNX model: pixels of each side of its input.",
        examples=[336],
    )
    fit: Literal["crop", "stretch"] = Field(
        default="crop",
        description="Of an ONNX model: what becomes of frames that are not square: the middle is cut"
        " out, or they are distorted.",
        examples=["stretch"],
    )
    mean: tuple[float, float, float] = Field(
        default=(0.0, 0.0, 0.0),
        description="Of an ONNX model: what is taken from red, green and blue, which are 0 to 1.",
        examples=[[0.485, 0.456, 0.406]],
    )
    std: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 1.0),
        description="Of an ONNX model: what red, green and blue are then divided by.",
        examples=[[0.229, 0.224, 0.225]],
    )
    channels: Literal["rgb", "bgr"] = Field(
        default="rgb", description="Of an ONNX model: the order of colours.", examples=["bgr"]
    )
    layout: Literal["nchw", "nhwc"] = Field(
        default="nchw",
        description="Of an ONNX model: colours before the sides (`nchw`), or after them.",
        examples=["nhwc"],
    )
    output: str | None = Field(
        default=None,
        description="Of an ONNX model: the output that is the vector; the first if left out.",
        examples=["image_embeds"],
    )

    def feature(self, prefix: str) -> Feature:
        """The frames are what it depends on."""
        length = ", of length 1" if self.normalize else ""
        return Feature(
            key=f"{prefix}/{self.feature_name}",
            id_columns=FRAME,
            columns={
                "video_id": Column("str", description="The video."),
                "frame_index": Column("int", description="The frame."),
                "embedding": Column(
                    "list[float]", description=f"A vector of {self.dimension} values{length}."
                ),
            },
            fields=({"key": "embedding", "code_version": self.code_version("1")},),
            deps=(self.of_frames(prefix),),
            description="A vector of each frame.",
        )

    def compute(self, samples: pl.DataFrame) -> pl.DataFrame:  # type: ignore[override]
        """The vectors of some frames."""
        import polars as pl

        from dagster_metaxy.media import embeddings

        preparation = embeddings.Preparation(
            self.size, self.fit, self.mean, self.std, self.channels, self.layout
        )
        with looking(self):
            found = embeddings.embed(
                [picture(sample) for sample in samples.iter_rows(named=True)],
                model=self.model,
                dimension=self.dimension,
                preparation=preparation,
                output=self.output,
                normalize=self.normalize,
            )
        return samples.select(FRAME).with_columns(
            pl.Series("embedding", found.tolist(), pl.List(pl.Float64))
        )
