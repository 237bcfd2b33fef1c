"""The stores of a project's features, for one job over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dagster_metaxy.components._graph import ProjectFeatures
from dagster_metaxy.increment.store import opened as opened_store

if TYPE_CHECKING:
    import metaxy as mx


@dataclass(frozen=True)
class ProjectStores:
    """Opens the store of each feature, once.

    Attributes:
        features: All features that components declare.
        default: The store of features that name none; the project's default store if None.
    """

    features: ProjectFeatures
    default: str | None = None

    @contextmanager
    def open(
        self, mode: Literal["r", "w"], run_id: str
    ) -> Iterator[Callable[[str], mx.MetadataStore]]:
        """Make the project's features the active ones, and give the open store of each.

        Args:
            mode: For reading, or for writing.
            run_id: Kept beside every row that is written.
        """
        project = self.features.project
        opened: dict[str | None, mx.MetadataStore] = {}
        with project.use(), ExitStack() as stack:

            def store_of(key: str) -> mx.MetadataStore:
                asset = self.features.assets.get(key)
                name = asset.store if asset and asset.store else self.default
                if name not in opened:
                    opened[name] = stack.enter_context(
                        opened_store(project.store(name, run_id), mode)
                    )
                return opened[name]

            yield store_of
