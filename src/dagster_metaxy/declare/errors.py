"""Errors that say where in the YAML they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def located_validation_error(
    context: dg.ResolutionContext, error: ValidationError
) -> ResolutionException:
    """The first line of a pydantic error at its own position in the YAML.

    Dagster locates errors of the YAML model; those of the component's own types (a wrong word
    for an enumeration, a number out of bounds) come without file or line.
    """
    problems = error.errors()
    message = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        f" (got {problem['input']!r})"
        for problem in problems
    )
    return located(context, message, *problems[0]["loc"][:1])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.85)
    return f" Did you mean '{near[0]}'?" if near else ""
