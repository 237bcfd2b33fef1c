"""Errors that say where in the YAML they are."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from pydantic import BaseModel, PrivateAttr, ValidationError, create_model, model_validator

from dagster_metaxy.declare._dagster import ResolutionException, source_of

_Path = tuple[int | str, ...]
_VALUE = re.compile(r"\s*:\s+(?=[^\s#])")
_VARIABLE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")


class Position(NamedTuple):
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class LocatedError(ResolutionException):
    """An error about a place in the YAML.

    Attributes:
        message: What is wrong and how to mend it.
        place: Where; None where the component was built in Python.
    """

    def __init__(self, message: str, place: Position | None, also: Collection[str] = ()) -> None:
        told = f"{place}: {message}\n{_snippet(place)}" if place else message
        super().__init__("\n".join([told, "", "Also wrong:", *also]) if also else told)
        self.message = message
        self.place = place

    @property
    def sentence(self) -> str:
        """Place and message, in one line."""
        return f"{self.place}: {self.message}" if self.place else self.message


def with_others(
    error: ResolutionException, others: Iterable[ResolutionException]
) -> ResolutionException:
    """`error`, and a line for each of the others."""
    lines = dict.fromkeys(
        other.sentence if isinstance(other, LocatedError) else str(other).partition("\n")[0]
        for other in others
    )
    if not lines:
        return error
    if isinstance(error, LocatedError):
        told: ResolutionException = LocatedError(error.message, error.place, lines)
    else:
        told = ResolutionException("\n".join([str(error), "", "Also wrong:", *lines]))
    told.__cause__ = error.__cause__
    return told


def position(
    context: dg.ResolutionContext | None, *path: str | int, key: bool = False
) -> Position | None:
    """Where the YAML value at `path` below `context` stands; None where there is no YAML.

    A value that begins below its key has the position of the key, and one that is not there that
    of what is nearest above it.

    Args:
        context: What Dagster hands to resolvers; None where the component was built in Python.
        path: Keys and indices from the context's own position to the value.
        key: Whether the key is meant, not its value.
    """
    source = source_of(context, *path) if context is not None else None
    if source is None:
        return None
    file, (line, column), (end_line, end_column) = source
    lines = _lines(file)
    # Of the value of a mapping, Dagster knows only where the key stands.
    if not key and line == end_line <= len(lines):
        found = _VALUE.match(lines[line - 1], end_column - 1)
        column = found.end() + 1 if found else column
    return Position(file, line, column)


def located(
    context: dg.ResolutionContext | None, message: str, *path: str | int, key: bool = False
) -> LocatedError:
    """An error about the YAML value at `path` below `context`, with file, line, column and a snippet.

    Args:
        context: What Dagster hands to resolvers; None where the component was built in Python.
        message: What is wrong and how to mend it.
        path: Keys and indices from the context's own position to the value.
        key: Whether the key is meant, not its value.
    """
    return LocatedError(message, position(context, *path, key=key))


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:  # YAML that is in no file
        return []


def _snippet(place: Position) -> str:
    """The lines around a place, with a mark below it."""
    shown = []
    for number, line in enumerate(_lines(place.file), 1):
        if abs(number - place.line) <= 2:
            shown.append(f"{number:>5} | {line}".rstrip())
        if number == place.line:
            shown.append(f"      | {' ' * (place.column - 1)}^")
    return "\n".join(shown)


class _Forgiving(BaseModel):
    """Remembers what is wrong with its values instead of raising it."""

    _error: ValidationError | None = PrivateAttr(default=None)
    _written: Any = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, values: Any, validate: Any) -> Any:
        try:
            return validate(values)
        except ValidationError as error:
            model = cls.model_construct()
            model._error = error
            model._written = values
            return model


@cache
def forgiving(model: type[BaseModel]) -> type[BaseModel]:
    """`model`, of which `check_written()` raises what is wrong with its values: Dagster would raise it
    with every alternative that was tried, and no column."""
    return create_model(model.__name__, __base__=(_Forgiving, model), __doc__=model.__doc__)


def written(model: BaseModel) -> dict[str, Any]:
    """The attributes as they were written, right or wrong, templates unrendered."""
    if isinstance(model, _Forgiving) and model._error is not None:
        return dict(model._written)
    return {name: getattr(model, name) for name in model.model_fields_set}


def check_written(
    context: dg.ResolutionContext, model: BaseModel, late: Collection[str] = ()
) -> None:
    """Refuse what can be told of attributes before templates are rendered.

    Args:
        context: Where the attributes stand.
        model: The attributes.
        late: The attributes whose variables from the environment are read when a run starts.

    Raises:
        LocatedError: They do not fit the model, or a text takes a variable from the environment
            that is not set.
    """
    if isinstance(model, _Forgiving) and model._error is not None:
        known = type(model).model_fields
        raise located_validation_error(context, model._error, model._written, known)
    for path, text in _texts({k: v for k, v in written(model).items() if k not in late}):
        for variable in _VARIABLE.finditer(text):
            # Dagster would take null for it, or put the word None into a text.
            if variable[1] not in os.environ:
                raise located(context, f"{_name(path)}: {_not_set(variable[1])}", *path)


def located_template_error(
    context: dg.ResolutionContext, error: ResolutionException, values: Any
) -> ResolutionException:
    """The error of a template, at its own position in the YAML.

    Args:
        context: Where `values` stand.
        error: What Dagster raised.
        values: The attributes as they were written.
    """
    if isinstance(error, LocatedError):
        return error
    for path, text in _texts(values):
        try:
            context.resolve_value(text)
        except ResolutionException as found:
            # Above it, Dagster shows its own snippet or traceback.
            said = [line for line in str(found).splitlines() if line[:1].strip()]
            what = said[-1].removeprefix("UndefinedError: ").removeprefix("jinja2.exceptions.")
            return located(context, f"{_name(path)}: the template fails: {what}", *path)
    return error


def located_validation_error(
    context: dg.ResolutionContext,
    error: ValidationError,
    values: Any,
    known: Iterable[str] = (),
) -> LocatedError:
    """The most telling of pydantic's errors, at its own position in the YAML.

    Dagster locates errors of the YAML model, by file and line; those of the component's own types
    (a wrong word for an enumeration, a number out of bounds, an unknown key of a nested mapping)
    come without, and one for each alternative that was tried.

    What a template gave is not shown: it may be a secret.

    Args:
        context: Where `values` stand.
        error: What pydantic raised.
        values: The attributes as they were written.
        known: The names of the attributes that there are.
    """
    problems = [(_path(values, problem["loc"]), problem) for problem in error.errors()]
    # Of the alternatives that were tried, the one meant is the one that got furthest.
    path, problem = max(
        problems,
        key=lambda p: (
            len(p[0]) + (p[1]["type"] == "missing"),
            p[1]["type"] in ("extra_forbidden", "literal_error", "union_tag_invalid"),
        ),
    )
    there, given = _at(values, path), problem["input"]
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    match problem["type"]:
        case "extra_forbidden":
            hint = did_you_mean(str(path[-1]), known) if len(path) == 1 else ""
            message = f"{_name(path)}: there is no such attribute{'.' if hint else ''}{hint}"
            return located(context, message, *path, key=True)
        case "missing" | "union_tag_not_found":
            names = [p["loc"][-1] for at, p in problems if at == path and p["type"] == "missing"]
            names = [repr(name) for name in dict.fromkeys(names)] or ["'type'"]
            what = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
        case "union_tag_invalid":
            path, limits = (*path, "type"), problem.get("ctx", {})
            shown = _shown(_at(values, path), limits.get("tag"))
            what = f"must be one of {limits.get('expected_tags')} (got {shown})"
        case "value_error":
            what = message
            if _is_template(there):
                what = what.replace(repr(given), repr(there))
        case _:
            what = f"{message} (got {_shown(there, given)})"
    return located(context, f"{_name(path)}: {what}", *path)


def _shown(there: Any, given: Any) -> str:
    """A wrong value, in short; what is written, where a template gave it."""
    if _is_template(there):
        return repr(there)
    if isinstance(given, Mapping):
        return "a mapping"
    if isinstance(given, list | tuple):
        return "a list"
    shown = repr(given)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def _not_set(variable: str) -> str:
    return (
        f"the environment variable {variable} is not set; set it, or give a default:"
        f" {{{{ env('{variable}', 'default') }}}}"
    )


def _name(path: _Path) -> str:
    return ".".join(map(str, path)) or "attributes"


def _texts(values: Any, path: _Path = ()) -> Iterator[tuple[_Path, str]]:
    """All texts in values, with their paths."""
    if isinstance(values, str):
        yield path, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _texts(value, (*path, key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _texts(value, (*path, index))


def _at(values: Any, path: _Path) -> Any:
    """The value at a path, or the template that stands there instead of what holds it."""
    for part in path:
        if isinstance(values, str):
            break
        values = values[part]
    return values


def _path(values: Any, loc: _Path) -> _Path:
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
