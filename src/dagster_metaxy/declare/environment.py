"""Variables from the environment that are read when a run starts, never when definitions load.

Dagster puts the value of `{{ env.X }}` in the place of the template: a secret would become part of
the definitions. Here the template stands for the variable itself, `dg.EnvVar("X")`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import dagster as dg

from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.errors import located, located_template_error
from dagster_metaxy.declare.schema import rendered


class _Variable:
    """What `{{ env.X }}` gives; it can only stand alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self, *_: Any) -> NoReturn:
        raise ResolutionException(
            f"{{{{ env.{self.name} }}}} must be the whole value, since it is read when a run starts:"
            " put the whole value into the variable"
        )

    __str__ = __bool__ = __len__ = __iter__ = __eq__ = __call__ = __getitem__ = _refuse  # type: ignore[assignment]
    __hash__ = object.__hash__


class _Environment:
    """What `env` is in templates."""

    def __call__(self, name: str, default: Any = ...) -> Any:
        return default if default is not ... and name not in os.environ else _Variable(name)

    def __getattr__(self, name: str) -> _Variable:
        if name.startswith(("jinja", "__")):  # looked for by jinja2
            raise AttributeError(name)
        return _Variable(name)


def rendered_late(
    context: dg.ResolutionContext, path: Sequence[str | int], value: Any, annotation: Any
) -> Any:
    """`value` with its templates rendered; where `{{ env.X }}` stands, `dg.EnvVar`.

    `{{ env('X', 'default') }}` is the default where X is not set when definitions load.

    Args:
        context: What the value is part of.
        path: From there to the value.
        value: What is written.
        annotation: The type that it is for: a variable for a whole number or a truth value is
            another one than that for a text.

    Raises:
        LocatedError: A template fails, a variable is not the whole value, or it stands where Dagster
            reads none.
    """
    context = context.with_scope(env=_Environment())
    below, whole = context, value
    for part in path:
        below = below.at_path(part)
    for part in reversed(path):
        whole = {part: whole}
    try:
        found = rendered(below, value)
    except ResolutionException as error:
        raise located_template_error(context, error, whole) from None
    return _with_variables(context, tuple(path), found, [annotation])


def _with_variables(
    context: dg.ResolutionContext,
    path: tuple[str | int, ...],
    value: Any,
    annotations: Sequence[Any],
) -> Any:
    types = [t for annotation in annotations for t in alternatives(annotation)]
    if isinstance(value, Mapping):
        return {
            key: _with_variables(context, (*path, key), item, _below(types, key))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _with_variables(context, (*path, index), item, _below(types, index))
            for index, item in enumerate(value)
        ]
    if not isinstance(value, _Variable):
        return value
    if any(t is Any or (isinstance(t, type) and issubclass(str, t)) for t in types):
        return dg.EnvVar(value.name)
    if int in types or bool in types:
        return dg.EnvVar.int(value.name)
    names = " or ".join(getattr(t, "__name__", str(t)) for t in types if t is not type(None))
    raise located(
        context,
        f"{'.'.join(map(str, path))}: Dagster reads texts, whole numbers and truth values from the"
        f" environment, and no {names}; write the value itself",
        *path,
    )


def alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, or the type itself, without what annotates them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in get_args(annotation):
            yield from alternatives(one)
    elif origin is Literal:
        yield from {type(word) for word in get_args(annotation)}
    else:
        yield annotation


def _below(types: Sequence[Any], key: str | int) -> list[Any]:
    """The types of what stands at a key, or an index, of values of some types."""
    found = []
    for one in types:
        origin, arguments = get_origin(one) or one, get_args(one)
        fields = getattr(one, "model_fields", {})
        if key in fields:
            found.append(fields[key].annotation)
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            found.append(arguments[1] if arguments else Any)
        elif isinstance(origin, type) and issubclass(origin, Sequence | set):
            found.append(arguments[0] if arguments else Any)
    return found or [Any]
