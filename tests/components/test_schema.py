"""The schema is the documentation: no attribute without description and example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dagster_metaxy import (
    MetaxyAssetComponent,
    MetaxyJobsComponent,
    PartitionedVideoComponent,
    ResourcesComponent,
)

COMPONENTS = [
    MetaxyAssetComponent,
    MetaxyJobsComponent,
    PartitionedVideoComponent,
    ResourcesComponent,
]


def _schema(component: Any) -> dict[str, Any]:
    return component.get_model_cls().model_json_schema()


def _attributes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from _attributes(item, f"{path}[{index}]")
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties":
                for name, attribute in value.items():
                    yield f"{path}.{name}", attribute
                    yield from _attributes(attribute, f"{path}.{name}")
            elif key != "examples":
                yield from _attributes(value, path)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_attribute_is_described_with_an_example(component: Any) -> None:
    # Conditions name a tag without describing it; what they lead to does.
    attributes = {
        path: attribute
        for path, attribute in _attributes(_schema(component))
        if set(attribute) not in ({"const"}, {"enum"})
    }
    assert len(attributes) >= len(component.model_fields)
    bare = [p for p, a in attributes.items() if not (a.get("description") and a.get("examples"))]
    assert bare == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_examples_are_valid(component: Any) -> None:
    schema = _schema(component)
    for name, attribute in schema["properties"].items():
        for example in attribute["examples"]:
            jsonschema.validate(example, {**attribute, "$defs": schema.get("$defs", {})})
            assert name


VALID: dict[str, Any] = {"source": "videos", "feature_prefix": "clips"}


@pytest.mark.parametrize(
    ("attributes", "path", "message"),
    [
        ({"partitions": "dynamc"}, ["partitions"], "'dynamc' is not one of"),
        ({"partitions": {"type": "yearly"}}, ["partitions", "type"], "'yearly' is not one of"),
        ({"partitions": {"type": "daily"}}, ["partitions"], "'start_date' is a required"),
        ({"steps": ["adio"]}, ["steps", 0], "'adio' is not one of"),
        ({"steps": [{"type": "frames", "every": 1}]}, ["steps", 0], "'every' was unexpected"),
        ({"steps": [{"type": "frames", "quality": 99}]}, ["steps", 0, "quality"], "99 is greater"),
        ({"sources": "x"}, [], "'sources' was unexpected"),
        ({"source": {"glob": "x"}}, ["source"], "'path' is a required"),
    ],
)
def test_what_editors_and_dg_check_yaml_point_at(
    attributes: dict[str, Any], path: list[Any], message: str
) -> None:
    validator = jsonschema.Draft7Validator(_schema(PartitionedVideoComponent))
    (error,) = validator.iter_errors({**VALID, **attributes})
    assert list(error.absolute_path) == path
    assert message in error.message


@pytest.mark.parametrize(
    "attributes",
    [
        {"partitions": "{{ env.PARTITIONS }}"},
        {"partitions": {"type": "daily", "start_date": "{{ env.START }}", "end_offset": "{{ 1 }}"}},
        {"steps": ["frames", "{{ step }}", {"type": "frames", "max_size": "{{ 320 }}"}]},
        {"steps": [{"type": "frames", "max_size": None}]},
        {"source": {"path": "{{ context.project_root }}/x"}},
    ],
)
def test_templates_pass(attributes: dict[str, Any]) -> None:
    jsonschema.validate({**VALID, **attributes}, _schema(PartitionedVideoComponent))


def test_the_reference_pipeline_is_valid() -> None:
    for file in (Path(__file__).parents[2] / "defs").glob("*/defs.yaml"):
        document = yaml.safe_load(file.read_text())
        component = {c.__name__: c for c in COMPONENTS}[document["type"].rpartition(".")[2]]
        jsonschema.validate(document["attributes"], _schema(component))


OWN: dict[str, Any] = {
    "feature": "t/x", "id_columns": ["x"], "columns": {}, "deps": ["t/y"], "compute": ".c.x"
}  # fmt: skip
DAYS: dict[str, Any] = {"type": "daily", "start_date": "2026-01-01"}
CAMERAS: dict[str, Any] = {"type": "static", "partition_keys": ["x"]}


@pytest.mark.parametrize(
    ("partitions", "path", "message"),
    [
        ({"type": "dayly"}, ["type"], "'dayly' is not one of"),
        ({**DAYS, "minute_offset": 60}, ["minute_offset"], "60 is greater"),
        ({**DAYS, "day_offset": 1}, [], "'day_offset' was unexpected"),
        ({**DAYS, "type": "weekly", "day_offset": 7}, ["day_offset"], "7 is greater"),
        ({**DAYS, "type": "monthly", "day_offset": 0}, ["day_offset"], "0 is less"),
        ({**DAYS, "type": "time_window"}, [], "'start' is a required"),
        ({"type": "static", "partition_keys": []}, ["partition_keys"], "[]"),
        ({"type": "multi", "partitions_defs": {"a": DAYS}}, ["partitions_defs"], "enough"),
        (
            {"type": "multi", "partitions_defs": {"a": DAYS, "b": {**CAMERAS, "keys": 1}}},
            ["partitions_defs", "b"],
            "'keys' was unexpected",
        ),
        (
            {"type": "multi", "partitions_defs": {"a": DAYS, "b": {"type": "multi"}}},
            ["partitions_defs", "b", "type"],
            "'multi' is not one of",
        ),
    ],
)
def test_wrong_partitions_in_an_editor(
    partitions: dict[str, Any], path: list[Any], message: str
) -> None:
    validator = jsonschema.Draft7Validator(_schema(MetaxyAssetComponent))
    errors = list(validator.iter_errors({**OWN, "partitions_def": partitions}))
    assert any(
        list(e.absolute_path) == ["partitions_def", *path] and message in e.message for e in errors
    ), [(list(e.absolute_path), e.message) for e in errors]


@pytest.mark.parametrize(
    ("mapping", "valid"),
    [
        (None, True),
        ("identity", True),
        ("{{ mapping }}", True),
        ({"type": "time_window", "start_offset": "{{ env.OFFSET }}"}, True),
        ({"type": "multi_to_single"}, True),
        (
            {
                "type": "multi",
                "downstream_mappings_by_upstream_dimension": {
                    "a": {"dimension_name": "b", "partition_mapping": "last"}
                },
            },
            True,
        ),
        ("static", False),
        ({"type": "identical"}, False),
        ({"type": "time_window", "offset": 1}, False),
        (
            {
                "type": "multi",
                "downstream_mappings_by_upstream_dimension": {
                    "a": {"dimension_name": "b", "partition_mapping": "multi"}
                },
            },
            False,
        ),
    ],
)
def test_partition_mappings_in_an_editor(mapping: Any, valid: bool) -> None:
    validator = jsonschema.Draft7Validator(_schema(MetaxyAssetComponent))
    deps = [{"feature": "t/y", "partition_mapping": mapping}]
    assert validator.is_valid({**OWN, "deps": deps}) == valid


@pytest.mark.parametrize(
    "partitions",
    [
        None,
        "{{ days }}",
        {**DAYS, "start_date": "{{ env.START }}", "hour_offset": "{{ env.HOUR }}"},
        {"type": "multi", "partitions_defs": {"a": "{{ days }}", "b": CAMERAS}},
        {"type": "multi", "partitions_defs": "{{ both }}"},
        {
            "type": "time_window", "start": "2026", "fmt": "%Y", "cron_schedule": "0 0 1 1 *",
            "end_offset": "{{ 1 }}", "timezone": "Europe/Paris",
        },
    ],
)  # fmt: skip
def test_partitions_that_are_valid(partitions: Any) -> None:
    schema = _schema(MetaxyAssetComponent)
    jsonschema.validate({**OWN, "partitions_def": partitions}, schema)
    both = {"date": "day", "camera": "camera"}
    jsonschema.validate({**OWN, "partitions_def": partitions, "partition_by": both}, schema)
