"""JSON schemas of structured YAML attributes, and one clear error where a value does not fit.

Dagster widens every attribute to "its type, or a string", so that templates pass. Of a wrong key
deep inside a list, its messages then name the attribute and every alternative, not the key. Here the
YAML model takes anything (the component's own types check it, in YAML and in Python alike), while
the schema, made of branches by what is written instead of alternatives, lets editors and
`dg check yaml` point at the key itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel

Schema = dict[str, Any]

TEMPLATE = r"\{\{.*\}\}"
_DOCUMENTATION = ("description", "examples", "default", "title")


def structured(
    schema: Schema, *types: str, description: str, examples: list[Any], nullable: bool = False
) -> Any:
    """How an attribute with structure is resolved from YAML: templates rendered, else as written.

    Args:
        schema: What the attribute may be.
        types: The JSON types that it may have, beside a template.
        description: What it means.
        examples: Values that are valid.
        nullable: Whether null means the same as leaving it out.
    """
    shown = [*types, *(["string"] if "string" not in types else [])]
    shown += ["null"] if nullable else []
    return dg.Resolver(
        rendered,
        model_field_type=object,
        description=description,
        examples=examples,
        # The generated alternatives, any or a string, would hide what is below them.
        json_schema_extra={"anyOf": [{"type": shown}], **schema},
    )


def plain(description: str, examples: list[Any], model_field_type: Any = None) -> Any:
    """How an attribute of text is resolved from YAML: as Dagster does, but text without a template
    is left alone.

    Args:
        description: What it means.
        examples: Values that are valid.
        model_field_type: What the YAML may have; the attribute's own type if left out.
    """
    return dg.Resolver(
        rendered, model_field_type=model_field_type, description=description, examples=examples
    )


def rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """`value` with its templates rendered.

    Text without any is left alone: Dagster renders it, too, which takes most of the time, and makes
    the number 12 of the text '12'.
    """
    if isinstance(value, dict):
        return {k: rendered(context.at_path(k), v) for k, v in value.items()}
    if isinstance(value, list):
        return [rendered(context.at_path(i), v) for i, v in enumerate(value)]
    if isinstance(value, str) and not any(mark in value for mark in ("{{", "{%", "{#")):
        return value
    return context.resolve_value(value)


def model_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model, in one piece, that admits templates for values that are no strings."""
    whole = model.model_json_schema()
    inlined = _inline(whole, whole.pop("$defs", {}))
    inlined["properties"] = {
        name: _templated(schema) for name, schema in inlined["properties"].items()
    }
    return inlined


def one_of(words: tuple[str, ...]) -> Schema:
    """One of some words, or a template."""
    return {"if": {"pattern": TEMPLATE}, "else": {"enum": list(words)}}


def text_or(text: Schema, other: Schema) -> Schema:
    """`text` where a string is written, else `other`."""
    return {"if": {"type": "string"}, "then": text, "else": other}


def tagged(models: Mapping[str, type[BaseModel]]) -> Schema:
    """An object whose `type` says which model it is."""
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(models)}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": tag}}, "required": ["type"]},
                "then": model_schema(model),
            }
            for tag, model in models.items()
        ],
    }


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return _inline({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
    return {name: _inline(value, definitions) for name, value in schema.items()}


def _templated(schema: Schema) -> Schema:
    types = [alternative.get("type") for alternative in schema.get("anyOf", [schema])]
    if "string" in types and "enum" not in schema:
        return schema
    shown = {name: schema[name] for name in _DOCUMENTATION if name in schema}
    return {**shown, "if": {"type": "string", "pattern": TEMPLATE}, "else": schema}
