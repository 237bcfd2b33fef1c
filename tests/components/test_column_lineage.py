"""The columns of an asset, and the upstream columns that they come from, as Dagster shows them."""

from __future__ import annotations

import dagster as dg
import pytest
from projects import Project


@pytest.fixture
def pages(project: Project) -> Project:
    project.write(
        "features/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: l/docs
          deps: [l/source]
          id_columns: [doc]
          columns: {path: {type: str, description: Where it is.}, size: int}
          compute: metaxy_examples.nothing
        ---
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: l/pages
          deps: [{feature: l/docs, lineage: {type: expansion, on: [doc]}, rename: {size: doc_size}}]
          id_columns: [doc, page]
          columns: {page: int, path: str, doc_size: int, image: bytes}
          compute: metaxy_examples.nothing
        ---
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: l/books
          deps:
            - {feature: l/pages, lineage: {type: aggregation, on: [doc]}, columns: [image]}
            - {feature: l/docs, rename: {path: source_path}}
          id_columns: [doc]
          columns: {source_path: str, pages: "list[int]"}
          compute: metaxy_examples.nothing
        """,
    )
    return project


def _metadata(project: Project, key: str) -> dict[str, object]:
    asset = project.load().resolve_assets_def(dg.AssetKey(key.split("/")))
    return dict(asset.get_asset_spec().metadata)


def _lineage(project: Project, key: str) -> dict[str, set[str]]:
    lineage = _metadata(project, key)["dagster/column_lineage"]
    assert isinstance(lineage, dg.TableColumnLineage)
    return {
        column: {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}
        for column, deps in lineage.deps_by_column.items()
        if not column.startswith("metaxy_")
    }


def test_schema(pages: Project) -> None:
    schema = _metadata(pages, "l/docs")["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    columns = {
        column.name: (column.type, column.description)
        for column in schema.columns
        if not column.name.startswith("metaxy_")
    }
    assert columns == {"doc": ("Any", None), "path": ("str", "Where it is."), "size": ("int", None)}


def test_expansion_and_rename(pages: Project) -> None:
    assert _lineage(pages, "l/pages") == {
        "doc": {"l/docs.doc"},
        "path": {"l/docs.path"},
        "doc_size": {"l/docs.size"},
    }


def test_aggregation_and_rename(pages: Project) -> None:
    assert _lineage(pages, "l/books") == {
        "doc": {"l/pages.doc", "l/docs.doc"},
        "source_path": {"l/docs.path"},
    }
