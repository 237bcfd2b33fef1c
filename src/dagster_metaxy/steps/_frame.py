"""What the steps have in common that look at the pictures of a step `frames` with a model."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from dagster_metaxy import locations
from dagster_metaxy.increment.outcome import UpdateError
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.media import models
from dagster_metaxy.steps._step import Step

if TYPE_CHECKING:
    from dagster_metaxy.media._picture import Pixels

FRAME = ("video_id", "frame_index")


class FrameStep(Step):
    """A step that looks at each frame of a step `frames` with a model."""

    inputs: ClassVar[Mapping[str, str]] = {"frames": "frames"}

    frames: str = Field(
        default="frames",
        description="The step whose frames it looks at.",
        examples=["keyframes"],
    )
    model: Any = None  # each step says what it may be

    @property
    def default_model(self) -> str:
        """The name and version of the model that is used where none is named."""
        raise NotImplementedError

    def below(self, project_root: Path) -> Self:
        """The same step, whose model is found wherever the process runs."""
        if self.model is None or not models.is_file(self.model):
            return self
        return self.model_copy(update={"model": str(project_root / self.model)})

    def check_installed(self) -> None:
        """Refuse to go on without what the step imports, and without the model.

        Raises:
            MissingExtra: With the command that installs it.
            ModelError: The model is not there.
        """
        if self.model is None or models.is_file(self.model):
            super().check_installed()
        if self.model is not None:
            models.identity(self.model)

    def code_version(self, version: str) -> str:
        """`version`, the parameters, and the model: by its content, not by where it lies."""
        model = self.default_model if self.model is None else models.identity(self.model)
        return super(FrameStep, self.model_copy(update={"model": model})).code_version(version)

    def of_frames(self, prefix: str, **more: Any) -> dict[str, Any]:
        """The dependence on the frames; `more` are its further parts, such as its lineage."""
        return {"feature": f"{prefix}/{self.frames}", "select": ("path",), **more}


def picture(sample: Sample) -> Pixels:
    """The pixels of a frame."""
    from dagster_metaxy.media import still

    pixels, _ = locations.read(sample["path"], still.rgb)
    return pixels


@contextmanager
def looking(step: FrameStep) -> Generator[None]:
    """What is wrong with the model is no matter of one frame: it ends the update."""
    try:
        yield
    except models.ModelError as error:
        raise UpdateError(f"the step {step.feature_name!r}: {error}") from error
