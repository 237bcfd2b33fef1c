"""The Metaxy project that the components of a Dagster project belong to: its configuration,
its stores, and the graph that its features are registered in."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import metaxy as mx

CONFIG_FILE = "metaxy.toml"

# The options of Metaxy's stores that name a place on a local disk.
_PATH_OPTIONS = ("root_path", "database", "uri", "warehouse")


class ConfigurationError(Exception):
    """A configuration of Metaxy that cannot be used."""


class ConfigurationMissing(ConfigurationError):
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
        import metaxy as mx

        # It comes at every read while nobody has pushed the definition of an external feature; runs
        # say what matters. Here, since Dagster resets the filters after it has loaded definitions.
        warnings.filterwarnings("ignore", category=mx.UnresolvedExternalFeatureWarning)
        with self.config.use(), self.graph.use():
            yield

    def store(self, name: str | None = None, run_id: str | None = None) -> mx.MetadataStore:
        """A store of metaxy.toml, closed.

        Args:
            name: Its name; the default store if left out.
            run_id: Kept beside every row that is written, as Metaxy's materialization id.
        """
        return self.config.get_store(name, materialization_id=run_id)

    def missing_store(self, name: str | None) -> str | None:
        """What to say where metaxy.toml has no store of a name; None where it has."""
        if name is None or name in self.config.stores:
            return None
        there = ", ".join(self.config.stores) or "none"
        return f"{CONFIG_FILE} has no store {name!r}; it has: {there}"

    def check_store(self, name: str | None = None) -> None:
        """Refuse a store that cannot be opened for what its configuration says.

        Args:
            name: Its name; the default store if left out.

        Raises:
            ConfigurationError: With file, line and column.
        """
        try:
            self.store(name)
        except Exception as error:  # of Metaxy, or of whatever the store rests on
            raise _unusable(self.config.config_file, error, name or self.config.store) from None


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
        ConfigurationError: It cannot be read; with file, line and column.
    """
    import metaxy as mx

    config = mx.MetaxyConfig.get() if mx.MetaxyConfig.is_set() else None
    # Configured in Python, or ours already: two projects in one process must not mix.
    if config is None or (config.config_file and not _serves(config.config_file, root)):
        try:
            config = mx.MetaxyConfig.load(auto_discovery_start=root)
        except Exception as error:  # of its reader, its parser, its models or its plugins
            raise _unusable(_config_file(root), error) from None
        if config.config_file is None and not config.stores:
            mx.MetaxyConfig.reset()
            raise ConfigurationMissing(
                f"no {CONFIG_FILE} in {root} or above it, so there is no store to keep samples in."
                f" Write one:\n\n{starter_config(name)}"
            )
        config = _anchored(config)
        try:
            mx.init(config)
        except Exception as error:
            mx.MetaxyConfig.reset()
            if type(error).__name__ != "EntrypointLoadError":
                raise  # of a feature that the user wrote
            raise _unusable(config.config_file, error) from None
    return MetaxyProject(config.project or name, config, mx.current_graph())


def _config_file(root: Path) -> Path | None:
    """The configuration file that Metaxy takes for a folder."""
    if named := os.environ.get("METAXY_CONFIG"):
        return Path(named)
    folders = (root, *root.parents)
    found = (f / name for f in folders for name in (CONFIG_FILE, "pyproject.toml"))
    return next((file for file in found if file.is_file()), None)


def _unusable(file: Path | None, error: Exception, store: str | None = None) -> ConfigurationError:
    """What is wrong with a configuration, in one sentence, and where.

    Metaxy's own messages hold pydantic's, with the values of the configuration, which may be secret.

    Args:
        file: The configuration.
        error: What Metaxy, or its parser, raised.
        store: The name of the store that it was raised for.
    """
    from pydantic import ValidationError

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)  # type: ignore[arg-type]
    invalid = next((e for e in causes if isinstance(e, ValidationError)), None)
    missing = next((e.name for e in causes if isinstance(e, ModuleNotFoundError)), None)
    what = str(error).partition("\n")[0]
    words = re.findall(r"'([^']+)'", what)
    if store is not None:
        words.append(f"stores.{store}]")
    if missing is not None and store is not None and not missing.startswith("metaxy"):
        extras = set(metadata("metaxy").get_all("Provides-Extra") or ()) & set(words[0].split("."))
        package = f"'metaxy[{min(extras)}]'" if extras else missing
        what = f"its type needs {missing}, which is not installed: pip install {package}"
    elif store is not None and what.startswith("Failed to import"):
        what = f"there is no type {words[0]!r}"
    elif invalid is not None:
        problems = invalid.errors(include_input=False)
        words[:0] = [str(p["loc"][-1]) for p in problems if p["loc"]]
        what = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems)
    if store is not None:
        what = f"the store {store!r} cannot be used: {what}"
    if at := re.search(r" \(at line (\d+), column (\d+)\)", what):
        return ConfigurationError(f"{file}:{at[1]}:{at[2]}: {what.replace(at[0], '')}")
    return ConfigurationError(f"{_place(file, words)}: {what}")


def _place(file: Path | None, words: list[str]) -> str:
    """The first place in a file that names one of the words."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
    for word in words:
        for number, line in enumerate(lines, 1):
            if (column := line.find(word)) >= 0 and not line.lstrip().startswith("#"):
                return f"{file}:{number}:{column + 1}"
    return str(file or CONFIG_FILE)


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
