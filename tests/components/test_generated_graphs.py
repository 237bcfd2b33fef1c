"""Generated feature graphs, as YAML text and as Python: the same specs, versions and increments."""

from __future__ import annotations

import itertools
from typing import Any

import metaxy as mx
import polars as pl
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metaxy.ext.polars.handlers.delta import DeltaMetadataStore
from projects import Project

FIELDS = ["text", "title", "audio", "audio/french"]
DOC, PAGE = ["doc"], ["doc", "page"]
Attributes = dict[str, Any]


def _root(key: str, ids: list[str], fields: list[str], column: str) -> Attributes:
    return {"feature": key, "id_columns": ids, "fields": fields, "columns": {column: "int"}}


def _names(feature: Attributes) -> list[str]:
    return [f if isinstance(f, str) else f["key"] for f in feature["fields"]]


@st.composite
def _graphs(draw: st.DrawFn) -> list[Attributes]:
    """Two roots, and one to four features computed from them or from each other, as attributes."""
    some_fields = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)
    graph = [
        _root("g/docs", DOC, draw(some_fields), "size"),
        _root("g/pages", PAGE, draw(some_fields), "width"),
    ]
    for number in range(draw(st.integers(1, 4))):
        of_docs = [f for f in graph if f["id_columns"] == DOC]
        of_pages = [f for f in graph if f["id_columns"] == PAGE]
        shape = draw(st.sampled_from(["docs", "pages", "aggregation", "expansion"]))
        above: list[tuple[Attributes, Any]] = [
            (feature, None)
            for feature in draw(
                st.lists(
                    st.sampled_from(of_pages if shape == "pages" else of_docs),
                    min_size=shape != "aggregation",
                    max_size=1 if shape == "expansion" else 2,
                    unique_by=lambda f: f["feature"],
                )
            )
        ]
        if shape == "aggregation":
            how = st.sampled_from(["aggregation", {"type": "aggregation", "on": DOC}])
            above.append((draw(st.sampled_from(of_pages)), draw(how)))
        if shape == "expansion":
            above = [(above[0][0], {"type": "expansion", "on": DOC})]
        names = draw(some_fields)
        graph.append(
            {
                "feature": f"g/f{number}",
                "id_columns": PAGE if shape in ("pages", "expansion") else DOC,
                "columns": {f"v{number}": "int"},
                "fields": [draw(_field(name, [f for f, _ in above])) for name in names],
                "deps": [
                    draw(_dep(feature, lineage, index, names))
                    for index, (feature, lineage) in enumerate(above)
                ],
            }
        )
    return graph


@st.composite
def _field(draw: st.DrawFn, name: str, above: list[Attributes]) -> Any:
    field: Attributes = {"key": name}
    if version := draw(st.sampled_from([None, 1, "2"])):
        field["code_version"] = version
    kind = draw(st.sampled_from(["left out", "all", "listed"]))
    if kind == "all":
        field["deps"] = "all"
    elif kind == "listed":
        feature = draw(st.sampled_from(above))
        field["deps"] = [{"feature": feature["feature"]}]
        if draw(st.booleans()):
            chosen = st.lists(st.sampled_from(_names(feature)), min_size=1, unique=True)
            field["deps"][0]["fields"] = draw(chosen)
    return field if len(field) > 1 or draw(st.booleans()) else name


@st.composite
def _dep(draw: st.DrawFn, feature: Attributes, lineage: Any, index: int, fields: list[str]) -> Any:
    dep: Attributes = {"feature": feature["feature"]}
    (column,) = feature["columns"]
    if draw(st.booleans()):
        dep["rename"] = {column: f"{column}_above"}
        column = f"{column}_above"
    if draw(st.booleans()):
        dep["columns"] = [column]
    if draw(st.booleans()):
        dep["filters"] = [draw(st.sampled_from([f"{column} > 1", f"NOT {column} = 2"]))]
    if index and draw(st.booleans()):
        dep["optional"] = True
    if lineage:
        dep["lineage"] = lineage
    theirs = _names(feature)
    mapping = draw(
        st.sampled_from(
            [
                None,
                "default",
                "all",
                {"match_suffix": True, "exclude": theirs[1:]},
                {"explicit": dict.fromkeys(fields, theirs[:1])},
                {"explicit": {fields[0]: theirs[:1]}},
            ]
        )
    )
    if mapping:
        dep["fields_mapping"] = mapping
    return dep if len(dep) > 1 or draw(st.booleans()) else feature["feature"]


def _python(attributes: Attributes) -> mx.FeatureSpec:
    """The feature as one writes it in Python."""
    return mx.FeatureSpec(
        key=attributes["feature"],
        id_columns=attributes["id_columns"],
        fields=[f if isinstance(f, str) else _python_field(f) for f in attributes["fields"]],
        deps=[_python_dep(d) for d in attributes.get("deps", [])],
    )


def _python_field(field: Attributes) -> mx.FieldSpec:
    options: dict[str, Any] = {}
    if "code_version" in field:
        options["code_version"] = str(field["code_version"])
    if field.get("deps") == "all":
        options["deps"] = mx.SpecialFieldDep.ALL
    elif "deps" in field:
        options["deps"] = [mx.FieldDep(**dep) for dep in field["deps"]]
    return mx.FieldSpec(key=field["key"], **options)


def _python_dep(dep: Any) -> mx.FeatureDep:
    if isinstance(dep, str):
        return mx.FeatureDep(feature=dep)
    options = {k: dep[k] for k in ("rename", "filters", "optional") if k in dep}
    if "columns" in dep:
        options["select"] = tuple(dep["columns"])
    match dep.get("lineage"):
        case "aggregation":
            options["lineage"] = mx.LineageRelationship.aggregation()
        case {"type": "aggregation", "on": on}:
            options["lineage"] = mx.LineageRelationship.aggregation(on=on)
        case {"type": "expansion", "on": on}:
            options["lineage"] = mx.LineageRelationship.expansion(on=on)
    match dep.get("fields_mapping"):
        case "default":
            options["fields_mapping"] = mx.FieldsMapping.default()
        case "all":
            options["fields_mapping"] = mx.FieldsMapping.all()
        case {"match_suffix": suffix, "exclude": excluded}:
            options["fields_mapping"] = mx.FieldsMapping.default(
                match_suffix=suffix, exclude_fields=[mx.FieldKey(key) for key in excluded]
            )
        case {"explicit": explicit}:
            options["fields_mapping"] = mx.FieldsMapping.specific(
                {mx.FieldKey(k): {mx.FieldKey(v) for v in vs} for k, vs in explicit.items()}
            )
    return mx.FeatureDep(feature=dep["feature"], **options)


def _declare(attributes: Attributes) -> None:
    annotations = dict.fromkeys(attributes["id_columns"], "str") | dict.fromkeys(
        attributes["columns"], "int"
    )
    schema = {"properties": {name: {"type": kind} for name, kind in annotations.items()}}
    mx.current_graph().add_feature_definition(
        mx.FeatureDefinition(
            spec=_python(attributes),
            feature_schema=schema,
            feature_class_path=f"written.{attributes['feature'].replace('/', '_')}",
            project="sandbox",
        )
    )


def _new(store: mx.MetadataStore, key: str) -> pl.DataFrame:
    new = store.resolve_update(key).to_polars().new
    return new.select(sorted(new.columns))


def _write(store: mx.MetadataStore, feature: Attributes, new: pl.DataFrame) -> None:
    """Rows for the increment of a feature: one of each sample or group, two of each expanded."""
    ids = feature["id_columns"]
    if "page" in ids and "page" not in new.columns:
        pages = pl.DataFrame({"page": ["0", "1"]})
        new = new.join(pages, how="cross")
    kept = [*ids, "metaxy_provenance", "metaxy_provenance_by_field"]
    rows = new.unique(ids, maintain_order=True).select(kept)
    (column,) = feature["columns"]
    values = pl.int_range(pl.len()).alias(column)
    store.write(feature["feature"], rows.with_columns(values))


def _write_roots(store: mx.MetadataStore, roots: list[Attributes]) -> None:
    for root in roots:
        ids, (column,) = root["id_columns"], root["columns"]
        store.write(
            root["feature"],
            pl.DataFrame(
                [
                    dict(zip(ids, (doc, page), strict=False))
                    | {
                        column: number,
                        "metaxy_provenance_by_field": {
                            name.replace("/", "_"): f"{name}{doc}{page}" for name in _names(root)
                        },
                    }
                    for number, (doc, page) in enumerate(
                        itertools.product("abcd", "01" if "page" in ids else "0")
                    )
                ]
            ),
        )


def _refused(graph: mx.FeatureGraph, keys: list[str]) -> str | None:
    """The field that Metaxy finds no upstream fields for, if any."""
    for key in keys:
        plan = graph.get_feature_plan(key)
        for field in plan.feature.fields if plan.deps else []:
            try:
                plan.get_parent_fields_for_field(field.key)
            except RuntimeError:
                return field.key.to_string()
    return None


@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(graph=_graphs())
def test_equal(project: Project, graph: list[Attributes]) -> None:
    roots, computed = graph[:2], graph[2:]
    documents = [
        {
            "type": "dagster_metaxy.MetaxyAssetComponent",
            "attributes": {**attributes, "compute": "metaxy_examples.nothing"},
        }
        for attributes in computed
    ]
    project.write("graph/defs.yaml", yaml.safe_dump_all(documents))
    project.close()
    keys = [feature["feature"] for feature in graph]

    with mx.FeatureGraph().use() as by_python:
        for feature in graph:
            _declare(feature)
    refused = _refused(by_python, keys)
    with mx.FeatureGraph().use() as by_yaml:
        for feature in roots:
            _declare(feature)
        if refused:
            message = f"field {refused!r} depends on no upstream field"
            with pytest.raises(ComponentTreeException) as caught, project.sandbox.build_all_defs():
                pass
            assert message in str(caught.value.__cause__)
            return
        with project.sandbox.build_all_defs():
            pass
    for key in keys:
        written = by_python.feature_definitions_by_key[mx.FeatureKey(key)].spec
        declared = by_yaml.feature_definitions_by_key[mx.FeatureKey(key)].spec
        assert declared.model_dump() == written.model_dump()
        for graph_ in (by_python, by_yaml):
            assert graph_.get_feature_version(key) == by_python.get_feature_version(key)
            assert graph_.get_feature_version_by_field(
                key
            ) == by_python.get_feature_version_by_field(key)

    number = len(list(project.root.glob("store*")))
    store = DeltaMetadataStore(
        root_path=project.root / f"store{number}", hash_algorithm=mx.HashAlgorithm.XXHASH64
    )
    with store.open("w"):
        with by_python.use():
            _write_roots(store, roots)
        for feature in computed:
            with by_python.use():
                expected = _new(store, feature["feature"])
            with by_yaml.use():
                got = _new(store, feature["feature"])
            assert sorted(got.to_dicts(), key=repr) == sorted(expected.to_dicts(), key=repr)
            with by_python.use():
                _write(store, feature, expected)
