"""Errors that say where in the YAML they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
from pydantic import ValidationError

from dagster_metaxy.declare._dagster import ResolutionException, source_of


def located(
    context: dg.ResolutionContext | None, message: str, *path: str | int
) -> ResolutionException:
    """An error about the YAML value at `path` below `context`, carrying file, line and a snippet.

    Args:
        context: What Dagster hands to resolvers; None where the component was built in Python.
        message: What is wrong and how to mend it.
        path: Keys and indices from the context's own position to the value.
    """
    source = source_of(context, message, *path) if context is not None else None
    if source is None:
        return ResolutionException(message)
    position, snippet = source
    return ResolutionException(f"{position}: {message}\n{snippet}")


def position(context: dg.ResolutionContext | None, *path: str | int) -> str:
    """`file:line` of the YAML value at `path` below `context`; `Python` where there is no YAML."""
    source = source_of(context, "", *path) if context is not None else None
    return source[0] if source else "Python"


def located_validation_error(
    context: dg.ResolutionContext, error: ValidationError, values: Any
) -> ResolutionException:
    """The most telling of pydantic's errors, at its own position in the YAML.

    Dagster locates errors of the YAML model; those of the component's own types (a wrong word
    for an enumeration, a number out of bounds, an unknown key of a nested mapping) come without
    file or line, and one for each alternative that was tried.

    Args:
        context: Where `values` stand.
        error: What pydantic raised.
        values: The attributes as they were written.
    """
    problems = [(_path(values, problem["loc"]), problem) for problem in error.errors()]
    # Of the alternatives that were tried, the one meant is the one that got furthest.
    path, problem = max(
        problems,
        key=lambda p: (
            len(p[0]) + (p[1]["type"] == "missing"),
            p[1]["type"] in ("literal_error", "union_tag_invalid"),
        ),
    )
    name = ".".join(map(str, path)) or "attributes"
    match problem["type"]:
        case "extra_forbidden":
            what = f"{name}: there is no such attribute"
        case "missing":
            what = f"{name}: {problem['loc'][-1]!r} is missing"
        case _:
            what = f"{name}: {problem['msg'].removeprefix('Value error, ')}"
            if problem["type"] != "value_error":
                what += f" (got {problem['input']!r})"
    return located(context, what, *path)


def _path(values: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of an error's location that stands in the YAML: pydantic mixes in its own types."""
    path: list[int | str] = []
    for part in loc:
        if (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        ):
            path.append(part)
            values = values[part]  # type: ignore[index]
    return tuple(path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.85)
    return f" Did you mean '{near[0]}'?" if near else ""
