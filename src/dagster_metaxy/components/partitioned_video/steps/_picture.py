"""What steps that look at the frames of a video have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dagster_metaxy import locations
from dagster_metaxy.components.partitioned_video.steps._step import Step
from dagster_metaxy.increment.compute import ComputeContext
from dagster_metaxy.increment.selection import Sample

if TYPE_CHECKING:
    from dagster_metaxy.media.decoding import Viewer


class PictureStep(Step):
    """A step that is a viewer of the video, and rows of what it has seen."""

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
        from dagster_metaxy.media.decoding import look

        directory = context.artifacts if self.writes_files else Path()
        seen = partial(look, viewer=self.viewer(directory))
        result, _ = locations.read(sample["path"], seen, self._cache)
        return self.rows(sample, result, directory)
