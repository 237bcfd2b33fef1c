"""Variables from the environment, where Dagster does not put them in."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any


def with_variables(value: Any, names: Collection[str] | None = None) -> Any:
    """`value` with the values of variables: deep inside a field that takes anything, Dagster leaves
    `{"env": name}` of a `dg.EnvVar`.

    Args:
        value: A value of a field, as a run has it.
        names: The variables; any, if left out.

    Raises:
        ValueError: One is not set.
    """
    if isinstance(value, dict):
        name = value.get("env") if len(value) == 1 else None
        if isinstance(name, str) and (names is None or name in names):
            if name not in os.environ:
                raise ValueError(f"the environment variable {name} is not set")
            return os.environ[name]
        return {key: with_variables(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [with_variables(item, names) for item in value]
    return value
