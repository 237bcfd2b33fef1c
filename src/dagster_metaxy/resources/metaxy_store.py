"""Metaxy's stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    import metaxy as mx


def project_store(name: str | None, run_id: str | None) -> mx.MetadataStore:
    """A store of the project's metaxy.toml, closed.

    Args:
        name: Its name; the default store if None.
        run_id: Kept beside every row that is written, as Metaxy's materialization id.

    Raises:
        ValueError: metaxy.toml has no such store.
    """
    import metaxy as mx

    # Components of this package have done so; in a project without, it is looked for from here up.
    config = mx.MetaxyConfig.get() if mx.MetaxyConfig.is_set() else mx.init()
    if name is not None and name not in config.stores:
        there = ", ".join(config.stores) or "none"
        raise ValueError(f"{config.config_file or 'Metaxy'} has no store {name!r}; it has: {there}")
    return config.get_store(name, materialization_id=run_id)


class MetaxyStoreResource(dg.ConfigurableResource):
    """A store of metaxy.toml. What is written with it carries the id of the run.

    What a run leaves open is closed at its end, also where it fails.
    """

    name: str | None = Field(
        default=None, description="Its name in metaxy.toml; the default store if left out."
    )

    _run_id: str | None = PrivateAttr(default=None)
    _opened: ExitStack | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Find the store."""
        self._run_id = context.run.run_id if context.run else None
        project_store(self.name, self._run_id)
        self._opened = ExitStack()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close what is still open."""
        if self._opened is not None:
            self._opened.close()

    @contextmanager
    def open(self, mode: Literal["r", "w"] = "r") -> Iterator[mx.MetadataStore]:
        """The store, open inside the `with`.

        Args:
            mode: For reading, or for writing.
        """
        if self._opened is None:
            raise RuntimeError(
                "a MetaxyStoreResource is opened inside a run; elsewhere, enter"
                " `with resource.process_config_and_initialize_cm() as store:`"
            )
        with ExitStack() as stack:
            # Closed by whichever comes first: a `with` that was left half done ends with the run.
            self._opened.callback(stack.close)
            yield stack.enter_context(project_store(self.name, self._run_id).open(mode))
