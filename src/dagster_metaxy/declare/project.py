"""The Metaxy project that the components of a Dagster project belong to: its configuration,
its stores, and the graph that its features are registered in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import metaxy as mx

CONFIG_FILE = "metaxy.toml"

# The options of Metaxy's stores that name a place on a local disk.
_PATH_OPTIONS = ("root_path", "database", "uri", "warehouse")


class ConfigurationMissing(Exception):
    """There is no metaxy.toml, nor a [tool.metaxy] in pyproject.toml, to take stores from."""


@dataclass(frozen=True)
class MetaxyProject:
    """Metaxy's configuration and feature graph, kept together.

    Both are context variables in Metaxy, which threads and later calls do not see: whoever
    works with features enters `use()` first.
    """

    name: str
    config: mx.MetaxyConfig
    graph: mx.FeatureGraph

    @contextmanager
    def use(self) -> Iterator[None]:
        """Make this configuration and this graph the active ones."""
        with self.config.use(), self.graph.use():
            yield

    def store(self, name: str | None = None, run_id: str | None = None) -> mx.MetadataStore:
        """A store of metaxy.toml, closed.

        Args:
            name: Its name; the default store if left out.
            run_id: Kept beside every row that is written, as Metaxy's materialization id.
        """
        return self.config.get_store(name, materialization_id=run_id)


def load_project(root: Path, name: str) -> MetaxyProject:
    """The Metaxy project of a Dagster project.

    A configuration that is already active (`MetaxyConfig.use()`, a test) is respected; else
    metaxy.toml is looked for in `root` and above, and the features of its entrypoints are
    loaded, as Metaxy's own `mx` command does.

    Args:
        root: The folder of the Dagster project.
        name: The project's name where the configuration gives none.

    Raises:
        ConfigurationMissing: With what to write.
    """
    import metaxy as mx

    config = mx.MetaxyConfig.get() if mx.MetaxyConfig.is_set() else None
    # Configured in Python, or ours already: two projects in one process must not mix.
    if config is None or (config.config_file and not _serves(config.config_file, root)):
        config = mx.MetaxyConfig.load(auto_discovery_start=root)
        if config.config_file is None and not config.stores:
            mx.MetaxyConfig.reset()
            raise ConfigurationMissing(
                f"no {CONFIG_FILE} in {root} or above it, so there is no store to keep samples in."
                f" Write one:\n\n{starter_config(name)}"
            )
        config = _anchored(config)
        mx.init(config)
    return MetaxyProject(config.project or name, config, mx.current_graph())


def has_config(root: Path) -> bool:
    """Whether a configuration of Metaxy is found in `root` or above it, or in the environment."""
    import metaxy as mx

    try:
        config = mx.MetaxyConfig.load(auto_discovery_start=root)
        return config.config_file is not None or bool(config.stores)
    finally:
        mx.MetaxyConfig.reset()


def _serves(config_file: Path, root: Path) -> bool:
    return root.resolve().is_relative_to(config_file.resolve().parent)


def _anchored(config: mx.MetaxyConfig) -> mx.MetaxyConfig:
    """`config` with relative paths of stores taken from its own folder.

    Metaxy takes them from the working directory, which differs between `dg`, the daemon's run
    workers and an IDE: the same file would open different stores.
    """
    if config.config_file is None:
        return config
    folder = config.config_file.parent
    stores = {}
    for name, store in config.stores.items():
        options = dict(store.config)
        for option in _PATH_OPTIONS:
            path = options.get(option)
            if isinstance(path, str) and "://" not in path and not path.startswith((":", "~")):
                options[option] = str(folder / path)
        stores[name] = store.model_copy(update={"config": options})
    return config.model_copy(update={"stores": stores})


def starter_config(project: str) -> str:
    """A metaxy.toml with the embedded default store.

    Delta works offline and takes several writers at once.
    """
    return f'''\
project = "{project}"
store = "dev"
hash_truncation_length = 16
# Shows the features that components declare to Metaxy's own `mx` command.
entrypoints = ["dagster_metaxy.entrypoint"]

[stores.dev]
type = "metaxy.ext.polars.handlers.delta.DeltaMetadataStore"

[stores.dev.config]
root_path = "data/metaxy"
hash_algorithm = "xxhash64"
'''
