"""Dagster's own tests of components: how the attributes of assets and ops are customized.

What YAML of other integrations puts below `translation:` and `op:` stands in ours as attributes of
the component; what we have no attribute for goes through Dagster's `post_processing:`. Of their
cases, these do not fit:

- `key` and `key_prefix`: an asset has the key of its feature, or Dagster, Metaxy and the store would
  call one thing by two names. They are refused.
- `code_version`: it is Metaxy's, made of the code versions of the fields.
- the name of the op: it is made of the feature's key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing.test_cases import TestOpCustomization, TestTranslation
from projects import Project

KEY = dg.AssetKey(["c", "words"])
ASSET = {
    "feature": "c/words",
    "deps": ["c/docs"],
    "id_columns": ["doc"],
    "columns": {"words": "int"},
    "compute": "metaxy_examples.nothing",
}
REFUSED = {"key", "key_prefix", "code_version", "name"}
# Our `deps` are features; others are added by Dagster.
POST_PROCESSED = {"deps"}
OURS = {"tags": "op_tags", "backfill_policy": "backfill_policy"}


def _load(
    project: Project, attributes: Mapping[str, Any], post: Mapping[str, Any]
) -> dg.AssetsDefinition:
    document = {
        "type": "dagster_metaxy.MetaxyAssetComponent",
        "attributes": {**ASSET, **attributes},
    }
    if post:
        document["post_processing"] = {"assets": [{"target": "*", "attributes": dict(post)}]}
    project.write("words/defs.yaml", yaml.safe_dump(document))
    return project.load().resolve_assets_def(KEY)


def _assert_refused(project: Project, attributes: Mapping[str, Any]) -> None:
    (name,) = attributes
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is tested
        _load(project, attributes, {})
    error = caught.value.__cause__ or caught.value.__context__
    assert f"{name}: there is no such attribute" in str(error)
    assert "words/defs.yaml:" in str(error)


class TestAssetAttributes(TestTranslation):
    def test_translation(
        self,
        project: Project,
        attributes: Mapping[str, Any],
        assertion: Callable[[dg.AssetSpec], bool],
    ) -> None:
        if REFUSED & set(attributes):
            _assert_refused(project, attributes)
            return
        post = {name: v for name, v in attributes.items() if name in POST_PROCESSED}
        ours = {name: v for name, v in attributes.items() if name not in POST_PROCESSED}
        assert assertion(_load(project, ours, post).get_asset_spec(KEY))


class TestOp(TestOpCustomization):
    def test_op(
        self,
        project: Project,
        attributes: Mapping[str, Any],
        assertion: Callable[[Any], bool],
    ) -> None:
        """Of the op that is built, not of what was written; partitioned, or nothing is to backfill."""
        if REFUSED & set(attributes):
            _assert_refused(project, attributes)
            return
        ours = {OURS[name]: value for name, value in attributes.items()}
        partitions = {"type": "static", "partition_keys": ["a"]}
        asset = _load(project, {**ours, "partitions_def": partitions}, {})
        assert assertion(SimpleNamespace(tags=asset.op.tags, backfill_policy=asset.backfill_policy))
