"""Packages that only some components, steps and resources need."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError):
    """Packages are not installed; with the command that installs them.

    Args:
        needs: What needs packages, the extra of this package that brings them, and the modules.
    """

    def __init__(self, *needs: tuple[str, str, list[str]]) -> None:
        self.needs = needs
        wanted = "; ".join(f"{what} needs {' and '.join(modules)}" for what, _, modules in needs)
        several = len({module for *_, modules in needs for module in modules}) > 1
        extras = ",".join(dict.fromkeys(extra for _, extra, _ in needs))
        super().__init__(
            f"{wanted}, which {'are' if several else 'is'} not installed:"
            f" pip install 'dagster-metaxy[{extras}]'"
        )


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
        raise MissingExtra((what, extra, missing))
