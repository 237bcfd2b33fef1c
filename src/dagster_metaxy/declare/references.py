"""Dotted references from YAML to Python functions and classes."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

import dagster as dg

from dagster_metaxy.declare.errors import did_you_mean, located
from dagster_metaxy.declare.schema import rendered


def resolve_function(context: dg.ResolutionContext, reference: Any) -> Callable[..., Any] | None:
    """The function that a YAML reference names.

    Args:
        context: Where the reference stands.
        reference: `.module.function` for a module beside the YAML file, `package.module.function`
            for an installed one, or a template that gives the function itself.

    Returns:
        The function; None where no reference is written.

    Raises:
        LocatedError: The module or the function is not there, importing it failed, or it is not
            callable.
    """
    value = rendered(context, reference)
    if value is None or callable(value):
        return value
    function = resolve_object(context, str(value), "function", "compute")
    if not callable(function):
        raise located(context, f"{value} is {type(function).__name__}, not a function")
    return function


def resolve_object(context: dg.ResolutionContext, reference: str, noun: str, module: str) -> Any:
    """What a YAML reference names.

    Args:
        context: Where the reference stands.
        reference: `.module.name` for a module beside the YAML file, `package.module.name` for an
            installed one.
        noun: What it has to be, for errors.
        module: What the module beside the YAML file may be called, for errors.

    Raises:
        LocatedError: The module or the name is not there, or importing it failed.
    """
    load_context = dg.ComponentLoadContext.from_resolution_context(context)
    beside = load_context.defs_relative_module_name(load_context.path)
    path = f"{beside}{reference}" if reference.startswith(".") else reference
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise located(
            context,
            f"{reference!r} names no {noun}. Write '.{module}.{reference}' for the {noun}"
            f" {reference!r} in {module}.py beside this file, or 'package.module.{noun}' for an"
            " installed one.",
        )
    try:
        imported = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            looked_for = (
                f"{load_context.path}/{'/'.join(reference.split('.')[1:-1])}.py"
                if reference.startswith(".")
                else f"installed module {module_name}"
            )
            raise located(context, f"there is no {looked_for} to take {name!r} from") from None
        raise located(context, _failed(module_name, error)) from None
    except SyntaxError as error:
        raise located(context, _failed(module_name, error)) from None
    except Exception as error:
        # Of its traceback, what the user's own module did is of use.
        raise located(context, _failed(module_name, error)) from _in_module(error, module_name)
    found = getattr(imported, name, None)
    if found is None:
        there = sorted(
            n
            for n, v in vars(imported).items()
            if not n.startswith("_")
            and callable(v)
            and str(getattr(v, "__module__", "")).startswith(module_name)
        )
        raise located(
            context,
            f"{imported.__file__} has no {noun} {name!r}; it has: {', '.join(there) or 'none'}."
            + did_you_mean(name, there),
        )
    return found


def _failed(module: str, error: Exception) -> str:
    """That a module could not be imported, why, and where in it."""
    if isinstance(error, SyntaxError):
        return f"importing {module} failed: {error.msg} ({error.filename}:{error.lineno})"
    last = traceback.extract_tb(_in_module(error, module).__traceback__)[:1]
    where = f" ({last[0].filename}:{last[0].lineno})" if last else ""
    said = str(error).partition("\n")[0]
    return f"importing {module} failed: {type(error).__name__}: {said}{where}"


def _in_module(error: Exception, module: str) -> Exception:
    """`error`, its traceback beginning where the module was run."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_globals.get("__name__") != module:
        frame = frame.tb_next
    return error.with_traceback(frame)
