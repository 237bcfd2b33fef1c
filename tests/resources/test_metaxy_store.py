"""MetaxyStoreResource: a store of metaxy.toml, in real runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import metaxy as mx
import pytest
from metaxy.metadata_store.exceptions import StoreNotOpenError
from projects import Project

from dagster_metaxy.declare.project import starter_config
from dagster_metaxy.resources import MetaxyStoreResource

COMPONENT = """
    type: dagster_metaxy.ResourcesComponent
    attributes:
      resources:
        store: {type: dagster_metaxy.resources.MetaxyStoreResource, name: dev}
    """
ASSETS = """
    import dagster as dg
    import metaxy as mx
    import polars as pl

    from dagster_metaxy.resources import MetaxyStoreResource

    LEFT_OPEN = []


    class Books(mx.BaseFeature, spec=mx.FeatureSpec(key="library/books", id_columns=["book"])):
        book: str


    @dg.asset
    def books(context, store: MetaxyStoreResource):
        rows = pl.DataFrame({"book": ["1"], "metaxy_provenance_by_field": [{"default": "a"}]})
        with store.open("w") as opened:
            opened.write(Books, rows)
        half_done = store.open("r")
        LEFT_OPEN.append((half_done.__enter__(), half_done))
        if context.run.tags.get("fail"):
            raise ValueError("of the asset")
    """


@pytest.fixture
def books(project: Project) -> Project:
    project.write("resources/defs.yaml", COMPONENT)
    project.write("books.py", ASSETS)
    return project


@pytest.mark.parametrize("fails", [False, True])
def test_rows_carry_the_id_of_the_run_and_all_is_closed_after_it(
    books: Project, fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Runs may have another working directory.
    monkeypatch.chdir(tmp_path)
    tags = {"fail": "yes"} if fails else {}
    result = books.materialize("books", tags=tags, raise_on_error=False)
    assert result.success is not fails
    rows = books.rows("library/books")
    assert rows["metaxy_materialization_id"].to_list() == [result.run_id]
    (module,) = (m for name, m in sys.modules.items() if name.endswith("defs.books"))
    ((left, _),) = module.LEFT_OPEN
    with pytest.raises(StoreNotOpenError):
        left.read("library/books").collect()


def test_the_default_store(books: Project) -> None:
    books.write("resources/defs.yaml", COMPONENT.replace(", name: dev", ""))
    assert books.materialize("books").success
    assert books.rows("library/books").height == 1


def test_without_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project in Python alone, metaxy.toml is that of the working directory."""
    mx.MetaxyConfig.reset()
    (tmp_path / "metaxy.toml").write_text(
        starter_config("alone").replace('entrypoints = ["dagster_metaxy.entrypoint"]', "")
    )
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []

    @dg.asset
    def look(store: MetaxyStoreResource) -> None:
        with store.open("w") as opened:
            shown.append(opened.display())

    try:
        assert dg.materialize([look], resources={"store": MetaxyStoreResource()}).success
        assert "data/metaxy" in shown[0]
        missing: Any = MetaxyStoreResource(name="nope")
        result = dg.materialize([look], resources={"store": missing}, raise_on_error=False)
        (failure,) = (e for e in result.all_events if e.is_failure and e.event_specific_data)
        assert "has no store 'nope'; it has: dev" in str(failure.event_specific_data)
    finally:
        mx.MetaxyConfig.reset()


def test_outside_of_a_run() -> None:
    with (
        pytest.raises(RuntimeError, match="process_config_and_initialize_cm"),
        MetaxyStoreResource().open(),
    ):
        pass
