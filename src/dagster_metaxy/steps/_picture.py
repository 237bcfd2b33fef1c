"""What steps that look at the frames of a video have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dagster_metaxy import locations
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample
from dagster_metaxy.steps._step import Step

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer


class PictureStep(Step):
    """A step that is a viewer of the video, and rows of what it has seen."""

    modules = ("av", "PIL", "numpy")

    writes_files: ClassVar[bool] = True
    """Whether the viewer writes files; otherwise its directory is none that it may use."""

    @abstractmethod
    def viewer(self, directory: Path) -> Callable[[], Viewer[Any]]:
        """Makes the viewer of one video.

        Args:
            directory: Where it writes files.
        """

    @abstractmethod
    def rows(
        self, sample: Sample, result: Any, directory: Path
    ) -> Mapping[str, Any] | Iterable[Mapping[str, Any]]:
        """The row, or rows, of a sample.

        Args:
            sample: The video.
            result: What the viewer gave.
            directory: Where it wrote files.
        """

    def compute(
        self, sample: Sample, context: ComputeContext
    ) -> Mapping[str, Any] | Iterable[Mapping[str, Any]]:
        """Looks at a video, and gives its row, or rows."""
        (returned,) = look_together(sample, [(self.compute, context)])
        if isinstance(returned, Exception):
            raise returned
        return returned


def look_together(
    sample: Sample, calls: Sequence[tuple[Callable[..., Any], ComputeContext]]
) -> list[Any]:
    """Have picture steps look at a video, which is decoded once.

    Args:
        sample: The video.
        calls: The steps, by their `compute`, each with its context.

    Returns:
        What each computes, or the exception that it met by itself.

    Raises:
        MediaError: The video cannot be decoded.
    """
    from dagster_metaxy.media import decoding

    steps: list[PictureStep] = [compute.__self__ for compute, _ in calls]  # type: ignore[attr-defined]
    folders = [
        context.artifacts if step.writes_files else Path()
        for step, (_, context) in zip(steps, calls, strict=True)
    ]
    viewers = [step.viewer(folder) for step, folder in zip(steps, folders, strict=True)]
    look = partial(decoding.look_together, viewers=viewers)
    found, _ = locations.read(sample["path"], look, steps[0]._cache)
    return [
        result if isinstance(result, Exception) else step.rows(sample, result, folder)
        for step, result, folder in zip(steps, found, folders, strict=True)
    ]
