"""Metaxy's documented examples, declared in YAML and run by Dagster, store what a plain Metaxy loop
over Python features stores: the same versions, the same provenance, as many computed samples."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import dagster as dg
import metaxy as mx
import metaxy_examples
import narwhals as nw
import polars as pl
import pytest
import yaml
from metaxy_examples import EXAMPLES, Example, Rows
from projects import Project
from stores import store_config

# When a row was written, by which run, and as part of which project.
NOT_COMPARED = (
    "metaxy_created_at",
    "metaxy_updated_at",
    "metaxy_materialization_id",
    "metaxy_project_version",
)
PROVENANCE = ["metaxy_provenance", "metaxy_provenance_by_field"]


def _computed(example: Example, version: str) -> dict[str, dict[str, Any]]:
    """The attributes of each component, upstream first."""
    documents = yaml.safe_load_all(textwrap.dedent(example.yaml).replace("VERSION", version))
    return {d["attributes"]["feature"]: d["attributes"] for d in documents}


def _put(store: mx.MetadataStore, samples: dict[str, Rows]) -> None:
    with store.open("w"):
        for key, rows in samples.items():
            store.write(key, pl.DataFrame(rows))


def _by_hand(store: mx.MetadataStore, key: str, compute: Any) -> None:
    """Bring a feature up to date as Metaxy's examples do."""
    spec = mx.get_feature_by_key(key).spec
    relationships = [dep.lineage.relationship.model_dump() for dep in spec.deps]
    lineages = {r["type"].value: r.get("on") for r in relationships}
    aggregates, expands = "N:1" in lineages, "1:N" in lineages
    parent: Any = lineages["1:N"] if expands else spec.id_columns
    with store.open("w"):
        increment = store.resolve_update(key).to_polars()
        todo = pl.concat([increment.new, increment.stale], how="diagonal")
        rows = []
        for group in todo.partition_by(parent):
            samples = group.to_dicts()
            try:
                result = compute(samples if aggregates else samples[0])
            except ValueError:
                continue
            for row in result if expands else [result]:
                rows.append({c: samples[0][c] for c in (*parent, *PROVENANCE)} | row)
        if rows:
            store.write(key, pl.DataFrame(rows))


def _stored(store: mx.MetadataStore, keys: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """All rows ever written, in an order of their own."""
    with store.open("r"):
        for key in keys:
            rows = store.read(key, with_sample_history=True, with_feature_history=True)
            frame = rows.collect().to_polars()
            dropped = frame.drop(NOT_COMPARED, strict=False)
            rows = dropped.select(sorted(dropped.columns)).to_dicts()
            yield key, sorted(rows, key=repr)


def _versions(keys: list[str]) -> dict[str, Any]:
    graph = mx.current_graph()
    return {
        key: (graph.get_feature_version(key), graph.get_feature_version_by_field(key))
        for key in keys
    }


# In SQL and in Lance, those in which rows are joined, grouped or multiplied.
_SHAPES = ("overview", "aggregation", "expansion", "optional dependencies")


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")
@pytest.mark.parametrize(
    ("name", "kind"),
    # Of other stores, test_one_project_in_every_store.py tells.
    [
        (name, kind)
        for kind in ("delta", "lancedb")
        for name in EXAMPLES
        if kind == "delta" or name in _SHAPES
    ],
)
def test_chain(project: Project, name: str, kind: str) -> None:
    example = EXAMPLES[name]
    (project.root / "metaxy.toml").write_text(store_config(kind, str(project.root / "data")))
    for folder in ("data", "hand"):  # DuckDB makes none
        (project.root / folder).mkdir()
    (project.root / "by_hand.toml").write_text(store_config(kind, str(project.root / "hand")))
    by_hand = mx.MetaxyConfig.load(project.root / "by_hand.toml").get_store()
    keys = [*example.samples, *_computed(example, "1")]

    before = None
    for samples, version in (
        (example.samples, "1"),
        (example.changed, "1"),
        # Where it is a root's, Metaxy wants all its rows written anew.
        (_merged(example), "2"),
    ):
        with mx.FeatureGraph().use():
            example.declare(version)
            python = _versions(keys)
            _put(by_hand, samples)
            for key, attributes in _computed(example, version).items():
                compute = attributes["compute"].rpartition(".")[2]
                _by_hand(by_hand, key, getattr(metaxy_examples, compute))
            expected = dict(_stored(by_hand, keys))

        with mx.FeatureGraph().use() as graph:
            example.declare(version)
            for key in reversed(_computed(example, version)):
                graph.remove_feature(key)
            declared = _materialize(project, example, version, samples)
            assert _versions(keys) == declared == python
            got = dict(_stored(mx.MetaxyConfig.get().get_store(), keys))
        assert got == expected
        assert all(len(got[key]) for key in keys)
        # Each stage computes something, or it would compare nothing.
        assert before is None or any(len(got[k]) > before[k] for k in _computed(example, version))
        before = {key: len(rows) for key, rows in got.items()}


def _merged(example: Example) -> dict[str, Rows]:
    """The samples as they are after the change."""
    merged = {}
    for key, rows in example.samples.items():
        ids = next(column for column in rows[0] if column.endswith(("id", "uid")))
        by_id = {row[ids]: row for row in (*rows, *example.changed[key])}
        merged[key] = list(by_id.values())
    return merged


def _materialize(
    project: Project, example: Example, version: str, samples: dict[str, Rows]
) -> dict[str, Any]:
    """Load the YAML, write the roots, materialize all assets, and give the versions."""
    project.write("features/defs.yaml", example.yaml.replace("VERSION", f"'{version}'"))
    project.close()
    with project.sandbox.build_all_defs() as defs:
        _put(mx.MetaxyConfig.get().get_store(), samples)
        keys = [dg.AssetKey(key.split("/")) for key in _computed(example, version)]
        job = defs.get_repository_def().get_implicit_job_def_for_assets(keys)
        assert job is not None
        assert job.execute_in_process(instance=project.instance, asset_selection=keys).success
        return _versions([*example.samples, *_computed(example, version)])


def test_children_named_by_themselves_go_with_their_parent(project: Project) -> None:
    example = EXAMPLES["expansion"]
    tiles = """
    ---
    type: dagster_metaxy.MetaxyAssetComponent
    attributes:
      feature: video/tile
      deps: [{feature: video/chunk, lineage: {type: expansion, on: [video_chunk_id]}}]
      id_columns: [tile]
      columns: {tile: str}
      compute: metaxy_examples.tiles
    """
    example = Example(example.declare, example.yaml + tiles, example.samples, {})
    for gone in (False, True):
        with mx.FeatureGraph().use() as graph:
            example.declare("1")
            for key in ("video/faces", "video/chunk"):
                graph.remove_feature(key)
            _materialize(project, example, "1", {} if gone else example.samples)
            store = mx.MetaxyConfig.get().get_store()
            with store.open("w"):
                rows = store.read("video/tile").collect().to_polars()
                if not gone:
                    store.delete("video/raw", nw.col("video_id") == "1")
        chunks = {f"{video}_{n}" for video in ("2", "3", *([] if gone else "1")) for n in range(3)}
        assert set(rows["video_chunk_id"]) == chunks
        assert set(rows["tile"]) == {f"{chunk}/{n}" for chunk in chunks for n in range(2)}
