"""The same project in each kind of store: metaxy.toml changes, and nothing else."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from projects import Project
from stores import STORES, store_config

from dagster_metaxy.declare.project import load_project
from dagster_metaxy.increment import store as stores

KEYS = ("clips/videos", "clips/frames", "clips/audio", "clips/sizes", "books", "shelves")
# What each run has of its own.
OWN = ("metaxy_created_at", "metaxy_updated_at", "metaxy_materialization_id", "path", "file_mtime")


def _books(project: Project, **etags: str) -> None:
    """The root feature lists these."""
    rows = [{"book": name, "etag": etag, "shelf": name[0]} for name, etag in etags.items()]
    project.write("books/compute.py", f"def books(): return {rows}\n")


def _write(project: Project) -> None:
    project.add_clips(names=("bikes", "portrait"))
    project.write(
        "clips/defs.yaml",
        """
        type: dagster_metaxy.PartitionedVideoComponent
        attributes:
          source: videos
          feature_prefix: clips
          partitions: dynamic
          steps: [{type: frames, every_seconds: 2, max_size: 64}, audio]
        """,
    )
    project.write(
        "sizes/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: clips/sizes
          deps: [{feature: clips/frames, lineage: {type: aggregation, on: [video_id]}}]
          id_columns: [video_id]
          columns: {order: int, group: "list[str]", at: datetime}
          orphans: hard
          compute: .compute.sizes
        """,
    )
    project.write("jobs/defs.yaml", "type: dagster_metaxy.MetaxyJobsComponent\n")
    project.write("books/shelves.py", "def shelves(book): return {'row': book['shelf']}\n")
    project.write(
        "sizes/compute.py",
        """
        import datetime

        def sizes(frames):
            day = datetime.datetime(2026, 1, len(frames), tzinfo=datetime.timezone.utc)
            return {"order": len(frames), "group": ["a", "b"], "at": day}
        """,
    )
    project.write(
        "books/defs.yaml",
        """
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: books
          id_columns: [book]
          columns: {shelf: str}
          version_columns: etag
          compute: .compute.books
        ---
        type: dagster_metaxy.MetaxyAssetComponent
        attributes:
          feature: shelves
          deps: [books]
          id_columns: [book]
          columns: {row: {type: str, nullable: true}}
          compute: .shelves.shelves
        """,
    )


def _run(project: Project) -> dict[str, Any]:
    """Bring everything up to date; the counts of each feature, and its rows."""
    assert project.run_job("metaxy_update").success
    found: dict[str, Any] = {}
    with load_project(project.root, "sandbox").store().open("r") as store:
        for key in KEYS:
            rows = stores.read(store, key)
            assert rows is not None
            kept = rows.select(sorted(c for c in rows.columns if c not in OWN))
            text = [
                re.sub("-[0-9a-f]{8}/", "/", json.dumps(row, sort_keys=True, default=str))
                for row in kept.to_dicts()
            ]
            found[key] = (project.counts(key), sorted(text))
    return found


@cache
def _story(kind: str) -> list[dict[str, Any]]:
    """What is found after each of some changes."""
    with create_defs_folder_sandbox() as sandbox, dg.DagsterInstance.ephemeral() as instance:
        project = Project(sandbox, instance)
        (project.root / "data").mkdir()
        config = store_config(kind, str(project.root / "data"))
        # The one algorithm that every store has without a network, so that versions can be compared.
        config = config.replace(STORES[kind][3], "md5")
        (project.root / "metaxy.toml").write_text(config)
        _write(project)
        found = []
        _books(project, a1="1", b1="1", c1="1")
        found.append(_run(project))
        found.append(_run(project))
        _books(project, a1="2", b1="1", d1="1")
        (project.root / "videos/portrait.mp4").unlink()
        found.append(_run(project))
        compute = project.sandbox.defs_folder_path / "sizes/defs.yaml"
        compute.write_text(compute.read_text() + "  fields: [{key: default, code_version: 2}]\n")
        found.append(_run(project))
        project.close()
        return [
            {
                key: (counts, [row.replace(str(project.root), "") for row in rows])
                for key, (counts, rows) in run.items()
            }
            for run in found
        ]


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")
@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "delta"])
def test_it_computes_the_same(kind: str) -> None:
    expected = _story("delta")
    counts = [{key: found[0] for key, found in run.items()} for run in expected]
    assert counts[0] == {
        "clips/videos": (2, 0, 0, 0),
        "clips/frames": (2, 0, 0, 0),
        "clips/audio": (1, 0, 0, 0),
        "clips/sizes": (2, 0, 0, 0),
        "books": (3, 0, 0, 0),
        "shelves": (3, 0, 0, 0),
    }
    assert set(counts[1].values()) == {(0, 0, 0, 0)}
    assert counts[2]["clips/sizes"] == (0, 0, 1, 0)
    assert counts[2]["shelves"] == (1, 1, 1, 0)
    assert counts[3]["clips/sizes"] == (0, 1, 0, 0)
    assert _story(kind) == expected
