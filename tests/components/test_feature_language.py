"""What YAML declares equals what Python declares: the same specs, versions and provenance."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import metaxy as mx
import polars as pl
import pytest
from projects import Project

HEAD = """
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: t/child
      columns: {value: int}
      compute: .compute.value
      """

ID = ["doc"]
PAGES = ["doc", "page"]


def _parents() -> None:
    """Upstream features, as a project that knows no YAML declares them."""

    class Doc(
        mx.BaseFeature,
        spec=mx.FeatureSpec(
            key="t/doc",
            id_columns=ID,
            fields=["text", "title", mx.FieldSpec(key="audio/french", code_version="7")],
        ),
    ):
        doc: str
        size: int
        kind: str

    class Page(
        mx.BaseFeature, spec=mx.FeatureSpec(key="t/page", id_columns=PAGES, fields=["image"])
    ):
        doc: str
        page: int
        size: int


def _samples(store: mx.MetadataStore) -> None:
    store.write(
        "t/doc",
        pl.DataFrame(
            [
                {
                    "doc": doc,
                    "size": size,
                    "kind": kind,
                    "metaxy_provenance_by_field": {
                        "text": f"t{doc}",
                        "title": f"i{doc}",
                        "audio_french": f"f{doc}",
                    },
                }
                for doc, size, kind in (("a", 1, "x"), ("b", 5, "y"), ("c", 9, "x"))
            ]
        ),
    )
    store.write(
        "t/page",
        pl.DataFrame(
            [
                {
                    "doc": doc,
                    "page": page,
                    "size": page,
                    "metaxy_provenance_by_field": {"image": f"{doc}{page}"},
                }
                for doc, page in (("a", 0), ("a", 1), ("b", 0))
            ]
        ),
    )


LINEAGE = mx.LineageRelationship
MAPPING = mx.FieldsMapping

CASES: dict[str, tuple[str, Callable[[], mx.FeatureSpec]]] = {
    "plain": (
        "{id_columns: [doc], deps: [t/doc]}",
        lambda: mx.FeatureSpec(key="t/child", id_columns=ID, deps=[mx.FeatureDep(feature="t/doc")]),
    ),
    "fields": (
        "{id_columns: [doc], deps: [t/doc], fields: [one, {key: two, code_version: 3,"
        " deps: [{feature: t/doc, fields: [text, audio/french]}]}, {key: three, deps: all},"
        " {key: four, deps: [{feature: t/doc}]}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[mx.FeatureDep(feature="t/doc")],
            fields=[
                "one",
                mx.FieldSpec(
                    key="two",
                    code_version="3",
                    deps=[mx.FieldDep(feature="t/doc", fields=["text", "audio/french"])],
                ),
                mx.FieldSpec(key="three", deps=mx.SpecialFieldDep.ALL),
                mx.FieldSpec(key="four", deps=[mx.FieldDep(feature="t/doc")]),
            ],
        ),
    ),
    "columns": (
        "{id_columns: [doc], deps: [{feature: t/doc, rename: {size: bytes},"
        ' columns: [bytes, kind], filters: ["bytes > 3", "kind = \'x\'"]}]}',
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[
                mx.FeatureDep(
                    feature="t/doc",
                    rename={"size": "bytes"},
                    select=("bytes", "kind"),
                    filters=["bytes > 3", "kind = 'x'"],
                )
            ],
        ),
    ),
    "aggregation": (
        "{id_columns: [doc], deps: [{feature: t/page, lineage: {type: aggregation, on: [doc]}},"
        " {feature: t/doc, rename: {size: doc_size}}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[
                mx.FeatureDep(feature="t/page", lineage=LINEAGE.aggregation(on=["doc"])),
                mx.FeatureDep(feature="t/doc", rename={"size": "doc_size"}),
            ],
        ),
    ),
    "aggregation by all id columns": (
        "{id_columns: [doc], deps: [{feature: t/page, lineage: aggregation}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[mx.FeatureDep(feature="t/page", lineage=LINEAGE.aggregation())],
        ),
    ),
    "expansion": (
        "{id_columns: [doc, line], deps: [{feature: t/doc,"
        " lineage: {type: expansion, on: [doc]}}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=["doc", "line"],
            deps=[mx.FeatureDep(feature="t/doc", lineage=LINEAGE.expansion(on=["doc"]))],
        ),
    ),
    "optional": (
        "{id_columns: [doc], deps: [t/doc, {feature: t/page, optional: true,"
        " columns: [page], lineage: aggregation}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[
                mx.FeatureDep(feature="t/doc"),
                mx.FeatureDep(
                    feature="t/page",
                    optional=True,
                    select=("page",),
                    lineage=LINEAGE.aggregation(),
                ),
            ],
        ),
    ),
    "mapping all": (
        "{id_columns: [doc], fields: [text], deps: [{feature: t/doc, fields_mapping: all}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            fields=["text"],
            deps=[mx.FeatureDep(feature="t/doc", fields_mapping=MAPPING.all())],
        ),
    ),
    "mapping none": (
        "{id_columns: [doc], fields: [{key: text, deps: [{feature: t/doc, fields: [title]}]}],"
        " deps: [{feature: t/doc, fields_mapping: none}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            fields=[
                mx.FieldSpec(key="text", deps=[mx.FieldDep(feature="t/doc", fields=["title"])])
            ],
            deps=[mx.FeatureDep(feature="t/doc", fields_mapping=MAPPING.none())],
        ),
    ),
    "mapping suffix": (
        "{id_columns: [doc], fields: [french], deps: [{feature: t/doc,"
        " fields_mapping: {match_suffix: true, exclude: [title]}}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            fields=["french"],
            deps=[
                mx.FeatureDep(
                    feature="t/doc",
                    fields_mapping=MAPPING.default(
                        match_suffix=True, exclude_fields=[mx.FieldKey(["title"])]
                    ),
                )
            ],
        ),
    ),
    "mapping explicit": (
        "{id_columns: [doc], fields: [words], deps: [{feature: t/doc,"
        " fields_mapping: {explicit: {words: [text]}}}]}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            fields=["words"],
            deps=[
                mx.FeatureDep(feature="t/doc", fields_mapping=MAPPING.specific({"words": {"text"}}))
            ],
        ),
    ),
    "text like numbers": (
        '{id_columns: [doc], deps: [t/doc], metadata: {model: "12"},'
        ' fields: [{key: one, code_version: "1_0"}]}',
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[mx.FeatureDep(feature="t/doc")],
            fields=[mx.FieldSpec(key="one", code_version="1_0")],
            metadata={"model": "12"},
        ),
    ),
    "metadata": (
        "{id_columns: [doc], deps: [t/doc], metadata: {model: m, sizes: [1, 2]}, description: D.}",
        lambda: mx.FeatureSpec(
            key="t/child",
            id_columns=ID,
            deps=[mx.FeatureDep(feature="t/doc")],
            metadata={"model": "m", "sizes": [1, 2]},
            description="D.",
        ),
    ),
}


@pytest.fixture
def docs(project: Project) -> Project:
    """A project whose upstream features are Python classes of an entrypoint."""
    project.write("child/compute.py", "def value(sample): return {'value': 1}")
    return project


def _block(yaml: str) -> list[str]:
    """The top-level items of a flow mapping, a line each."""
    items, depth, start = [], 0, 1
    for position, character in enumerate(yaml):
        depth += (character in "[{") - (character in "]}")
        if (character == "," and depth == 1) or position == len(yaml) - 1:
            items.append(yaml[start:position].strip())
            start = position + 1
    return items


def _seen(store: mx.MetadataStore) -> Any:
    """Versions, and the increment with its provenance, of the child."""
    graph = mx.current_graph()
    with store.open("w"):
        if not store.has_feature("t/doc"):
            _samples(store)
        increment = store.resolve_update("t/child").to_polars().new
    columns = sorted(increment.columns)
    return (
        graph.get_feature_version("t/child"),
        graph.get_feature_version_by_field("t/child"),
        increment.select(columns).sort(
            [c for c in columns if not c.startswith("metaxy_")], nulls_last=True
        ).to_dicts(),
    )  # fmt: skip


def _stores(project: Project) -> dict[str, mx.MetadataStore]:
    from metaxy.ext.polars.handlers.delta import DeltaMetadataStore

    return {
        algorithm.value: DeltaMetadataStore(
            root_path=project.root / f"data/{algorithm.value}", hash_algorithm=algorithm
        )
        for algorithm in (mx.HashAlgorithm.XXHASH64, mx.HashAlgorithm.SHA256)
    }


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_hash(docs: Project, case: str) -> None:
    yaml, spec = CASES[case]
    # As text: PyYAML would write the key `on` as `true`.
    lines = [f"  {line}" for line in _block(yaml)]
    head = textwrap.dedent(HEAD).strip()
    docs.write("child/defs.yaml", "\n".join([head, *lines]) + "\n")

    with mx.FeatureGraph().use() as graph:
        _parents()
        docs.close()
        mx.MetaxyConfig.reset()
        with docs.sandbox.build_all_defs():
            declared = mx.get_feature_by_key("t/child")
            by_yaml = {name: _seen(store) for name, store in _stores(docs).items()}
        graph.remove_feature("t/child")
        written = spec()
        graph.add_feature_definition(
            mx.FeatureDefinition(
                spec=written, feature_schema={}, feature_class_path="x.Child", project="sandbox"
            )
        )
        by_python = {name: _seen(store) for name, store in _stores(docs).items()}
    assert declared.spec.model_dump() == written.model_dump()
    assert by_yaml == by_python
    assert all(len(rows) > 0 for _, _, rows in by_yaml.values())
