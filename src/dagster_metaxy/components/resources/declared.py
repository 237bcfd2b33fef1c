"""Resources that YAML declares: their classes, and what they are made with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from dagster_metaxy.declare._dagster import ResolutionException
from dagster_metaxy.declare.environment import alternatives, rendered_late
from dagster_metaxy.declare.errors import (
    LocatedError,
    did_you_mean,
    located,
    located_validation_error,
)
from dagster_metaxy.declare.references import resolve_object
from dagster_metaxy.resources._environment import with_variables

CLASSES = (dg.ConfigurableResource, dg.ConfigurableIOManagerFactory)
INSTANCES = (*CLASSES, dg.ResourceDefinition)


@dataclass(frozen=True)
class Mistakes:
    """What stands in the place of a resource that cannot be made."""

    errors: tuple[ResolutionException, ...]


def resolve_resources(context: dg.ResolutionContext, value: Any) -> dict[str, Any]:
    """The resources that a YAML mapping declares, by name.

    Args:
        context: Where the mapping stands.
        value: By name, the `type` and the fields of each.

    Returns:
        The resources, and `Mistakes` in the place of those that cannot be made: they are told together
        when definitions are built.

    Raises:
        LocatedError: It is no mapping.
    """
    if not isinstance(value, Mapping):
        raise located(context, "resources: must be a mapping of names to resources")
    declared = _Declared(context, value)
    return {name: declared.resource(name) for name in value}


class _Declared:
    """Makes the resources of a mapping, each once."""

    def __init__(self, context: dg.ResolutionContext, values: Mapping[str, Any]) -> None:
        self.context = context
        self.values = values
        self.made: dict[str, Any] = {}
        self.begun: list[str] = []

    def resource(self, name: str) -> Any:
        """One of them, or `Mistakes`."""
        if name not in self.made:
            self.begun.append(name)
            try:
                self.made[name] = self._make(name)
            except ResolutionException as error:
                self.made[name] = Mistakes((error,))
            self.begun.remove(name)
        return self.made[name]

    def _make(self, name: Any) -> Any:
        if not isinstance(name, str) or not name.isidentifier():
            raise located(
                self.context,
                f"{name!r} is no name of a resource: write letters, digits and underscores, and no"
                " digit first",
                name,
                key=True,
            )
        context, fields = self.context.at_path(name), self.values[name]
        if not isinstance(fields, Mapping) or "type" not in fields:
            raise located(
                context,
                f"{name}: 'type' is missing: the class of the resource, such as"
                " dagster_metaxy.resources.JsonIOManager",
            )
        reference, given = fields["type"], {k: v for k, v in fields.items() if k != "type"}
        there = context.at_path("type")
        if not isinstance(reference, str) or "{{" in reference:
            raise located(there, f"{name}.type: must be the dotted path of a class, as text")
        found = resolve_object(there, reference, "class", "resources")
        if isinstance(found, INSTANCES):
            if given:
                raise located(
                    context,
                    f"{name}: {reference} is a resource already, and takes no fields",
                    next(iter(given)),
                    key=True,
                )
            return found
        if not isinstance(found, type) or not issubclass(found, CLASSES):
            raise located(
                there,
                f"{name}.type: {reference} is no resource: neither a class that inherits from"
                " dg.ConfigurableResource or dg.ConfigurableIOManager, nor an object made by"
                " @dg.resource or @dg.io_manager",
            )
        if inspect.isabstract(found):
            raise located(
                there, f"{name}.type: {reference} is abstract: name a class that inherits from it"
            )
        return self._instance(context, name, found, given)

    def _instance(
        self, context: dg.ResolutionContext, name: str, cls: type[Any], given: Mapping[str, Any]
    ) -> Any:
        fields = {field.alias or key: field for key, field in cls.model_fields.items()}
        values: dict[str, Any] = {}
        errors: list[ResolutionException] = []
        for key, value in given.items():
            if key not in fields and cls.model_config.get("extra") != "allow":
                there = ", ".join(fields) or "none"
                message = f"{name}.{key}: {cls.__name__} has no such field; it has: {there}."
                message += did_you_mean(str(key), fields)
                errors.append(located(context, message, key, key=True))
                continue
            annotation = fields[key].annotation if key in fields else Any
            try:
                values[key] = self._value(name, key, value, annotation)
            except ResolutionException as error:
                errors.append(error)
        for value in values.values():
            if isinstance(value, Mistakes):  # of the resource that it needs
                errors.extend(value.errors)
        if errors:
            return Mistakes(tuple(errors))
        try:
            return discreet(cls, frozenset(_variables(values)))(**values)
        except ValidationError as error:
            problems = error.errors(include_input=False)
            # Dagster gives null for a field that is left out.
            missing = [p["loc"][0] for p in problems if p["loc"] and p["loc"][0] not in given]
            if missing := list(dict.fromkeys(map(str, missing))):
                names = ", ".join(map(repr, missing))
                raise located(
                    context,
                    f"{name}: {names} {'is' if len(missing) == 1 else 'are'} missing"
                    f" ({cls.__name__})",
                ) from None
            for problem in problems:
                key = str(problem["loc"][0]) if problem["loc"] else ""
                if isinstance(values.get(key), _VARIABLES):
                    raise located(
                        context,
                        f"{name}.{key}: {cls.__name__} looks at the value before it is read from the"
                        f" environment ({problem['msg']}); write the value itself",
                        key,
                    ) from None
            told = located_validation_error(context, error, given)
            message = f"{name}.{told.message}".replace(f"{name}.attributes: ", f"{name}: ")
            raise LocatedError(message, told.place) from None
        except ImportError as error:
            raise located(context, f"{name}: {error}", "type") from None
        except Exception as error:  # of the class's own
            said = str(error).partition("\n")[0]
            raise located(
                context, f"{name}: {cls.__name__} cannot be made: {type(error).__name__}: {said}"
            ) from None

    def _value(self, name: str, key: str, value: Any, annotation: Any) -> Any:
        """What is written for a field; `{resource: name}` is another resource of the mapping."""
        if not (
            isinstance(value, Mapping) and [*value] == ["resource"] and _takes_resource(annotation)
        ):
            return rendered_late(self.context, (name, key), value, annotation)
        needed, place = value["resource"], (name, key, "resource")
        if needed not in self.values:
            there = ", ".join(map(str, self.values))
            raise located(
                self.context,
                f"{name}.{key}: there is no resource {needed!r} in this file; there are: {there}."
                + did_you_mean(str(needed), map(str, self.values)),
                *place,
            )
        if needed in self.begun:
            circle = " -> ".join([*self.begun[self.begun.index(needed) :], needed])
            raise located(
                self.context,
                f"{name}.{key}: resources need each other in a circle: {circle}",
                *place,
            )
        return self.resource(needed)


def _takes_resource(annotation: Any) -> bool:
    """Whether a field is for another resource."""
    # `dg.ResourceDependency` is Any by the time that a class is made.
    return any(
        one is Any or (isinstance(one, type) and issubclass(one, INSTANCES))
        for one in alternatives(annotation)
    )


_VARIABLES = (dg.EnvVar, type(dg.EnvVar.int("X")))


def _variables(value: Any) -> set[str]:
    """The names of the variables in values."""
    if isinstance(value, Mapping):
        return {name for item in value.values() for name in _variables(item)}
    if isinstance(value, list):
        return {name for item in value for name in _variables(item)}
    return {value.env_var_name} if isinstance(value, _VARIABLES) else set()


class _Discreet(BaseModel):
    """Tells no values in its errors, and takes variables from the environment at any depth."""

    model_config = ConfigDict(hide_input_in_errors=True)

    _late_variables: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _read_late_variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = cls._late_variables
        return {key: with_variables(value, names) for key, value in values.items()}


def discreet(cls: type[Any], variables: frozenset[str]) -> type[Any]:
    """The class of a resource, whose errors in a run tell no values: they may be secrets.

    Args:
        cls: The class.
        variables: The names of the variables that its fields are read from.
    """
    # The UI shows it as Markdown, in which what is indented is code.
    described = cls.__doc__ and inspect.cleandoc(cls.__doc__)
    made: Any = create_model(
        cls.__name__, __base__=(_Discreet, cls), __module__=cls.__module__, __doc__=described
    )
    made._late_variables = variables
    return made
