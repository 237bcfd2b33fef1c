"""Packages that only some resources need."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError):
    """A package is not installed; with the command that installs it."""


def require(what: str, extra: str, *modules: str) -> None:
    """Refuse to go on without packages.

    Args:
        what: What needs them.
        extra: The extra of this package that brings them.
        modules: Their modules.

    Raises:
        MissingExtra: One is not installed.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise MissingExtra(
            f"{what} needs {' and '.join(missing)}, which is not installed:"
            f" pip install 'dagster-metaxy[{extra}]'"
        )
