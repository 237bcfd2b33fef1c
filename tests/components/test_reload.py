"""Definitions loaded again in one process: what YAML says now, and nothing of what it said before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import metaxy as mx
import pytest
from projects import Project

DOCS = """
import metaxy as mx


class Docs(mx.BaseFeature, spec=mx.FeatureSpec(key="r/docs", id_columns=["doc"], fields=["text"])):
    doc: str
    size: int
"""


def _words(feature: str = "r/words", dep: str = "r/docs", version: int = 1) -> str:
    return f"""
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: {feature}
      deps: [{dep}]
      id_columns: [doc]
      fields: [{{key: default, code_version: {version}}}]
      columns: {{words: int}}
      compute: metaxy_examples.nothing
    """


@pytest.fixture
def reloaded(project: Project) -> Iterator[Project]:
    """A project whose root is a Python class of an entrypoint, in a process of its own graph."""
    module = f"reloaded_{project.root.name}"
    (project.root / f"{module}.py").write_text(DOCS)
    config = project.root / "metaxy.toml"
    config.write_text(config.read_text().replace("dagster_metaxy.entrypoint", module))
    project.write("words/defs.yaml", _words())
    sys.path.insert(0, str(project.root))
    with mx.FeatureGraph().use():
        yield project
    sys.path.remove(str(project.root))
    sys.modules.pop(module, None)


@contextmanager
def _loaded(project: Project) -> Iterator[dg.Definitions]:
    with project.sandbox.build_all_defs() as defs:
        yield defs


def _keys(project: Project) -> set[str]:
    with _loaded(project) as defs:
        graph = defs.resolve_asset_graph()
        return {key.to_user_string() for key in graph.materializable_asset_keys}


def _error(project: Project) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        _keys(project)
    return str(caught.value.__cause__ or caught.value)


def _declared() -> set[str]:
    return {key.to_string() for key in mx.current_graph().feature_definitions_by_key}


def test_twice(reloaded: Project) -> None:
    assert _keys(reloaded) == _keys(reloaded) == {"r/words"}
    assert _declared() == {"r/docs", "r/words"}


def test_changed_yaml(reloaded: Project) -> None:
    _keys(reloaded)
    before = mx.current_graph().get_feature_version("r/words")
    reloaded.write("words/defs.yaml", _words(version=2))
    with _loaded(reloaded) as defs:
        spec = defs.resolve_assets_def(dg.AssetKey(["r", "words"])).get_asset_spec()
    assert mx.current_graph().get_feature_version("r/words") != before
    code_version = mx.get_feature_by_key("r/words").spec.code_version
    assert spec.code_version == f"metaxy:{code_version}"


def test_removed_feature(reloaded: Project) -> None:
    reloaded.write("more/defs.yaml", _words("r/more", "r/words"))
    assert _keys(reloaded) == {"r/words", "r/more"}
    (reloaded.sandbox.defs_folder_path / "more/defs.yaml").unlink()
    (reloaded.sandbox.defs_folder_path / "more").rmdir()
    assert _keys(reloaded) == {"r/words"}
    assert _declared() == {"r/docs", "r/words"}


def test_renamed_feature_leaves_its_dependants_without_upstream(reloaded: Project) -> None:
    reloaded.write("more/defs.yaml", _words("r/more", "r/words"))
    _keys(reloaded)
    reloaded.write("words/defs.yaml", _words("r/word"))
    message = _error(reloaded)
    assert "more/defs.yaml:4:10: no feature 'r/words' is declared" in message
    assert "Did you mean 'r/word'?" in message


def test_feature_that_became_a_python_class_must_not_be_declared_twice(reloaded: Project) -> None:
    reloaded.write("docs/defs.yaml", _words("r/docs", "r/other"))
    assert "docs/defs.yaml:3:12: feature 'r/docs'" in _error(reloaded)


def test_two_components_of_one_feature_are_both_named(reloaded: Project) -> None:
    reloaded.write("again/defs.yaml", _words())
    for _ in range(2):
        message = _error(reloaded)
        assert "feature 'r/words' is declared twice" in message
        assert "words/defs.yaml:3" in message
        assert "again/defs.yaml:3" in message
