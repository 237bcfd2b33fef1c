"""Runs of many small chunks: tables are compacted while they grow, beside other writers, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import lancedb
import pytest
from pipeline import RUNTIME, Pipeline, docs_at, pipeline
from test_races import Racers

from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.selection import Scope
from dagster_metaxy.increment.update import Update

DOCS = docs_at(0, 50)


def _delta(root: Path) -> list[int]:
    tables = [*root.glob("data/delta/t/covers.delta"), *root.glob("data/delta/t/covers/*.delta")]
    return [len(deltalake.DeltaTable(str(table)).file_uris()) for table in tables]


def _lance(root: Path) -> list[int]:
    db = lancedb.connect(str(root / "data/lance"))
    tables = [t.stem for t in root.glob("data/lance/t__covers*.lance")]
    stats: list[Any] = [db.open_table(name).stats() for name in tables]
    return [s["fragment_stats"]["num_fragments"] for s in stats]


@pytest.mark.parametrize(("kind", "files"), [("delta", _delta), ("lancedb", _lance)])
def test_files_do_not_add_up_in_a_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    files: Callable[[Path], list[int]],
) -> None:
    monkeypatch.setattr(stores, "SMALL_FILES", 10)
    seen: list[int] = []
    with pipeline(tmp_path, kind) as made:
        made.put(DOCS)

        def compute(sample: Any) -> Any:
            seen.append(max(files(tmp_path), default=0))
            return {"cover": "", "size": sample["count"]}

        update = Update(
            made.features["t/covers"], Compute(compute), tmp_path / "artifacts", chunk_rows=1
        )
        update.run(made.store, Scope(), RUNTIME)
        # Each is written in a chunk, and the ledger with it.
        assert 10 < max(seen) <= 20
        assert len(files(tmp_path)) == 2
        assert max(files(tmp_path)) <= 10
        assert [(r["doc"], r["size"]) for r in made.rows("t/covers")] == [
            (doc, count) for doc, (_, count) in sorted(DOCS.items())
        ]


def _compacting(made: Pipeline) -> None:
    for _ in range(30):
        with stores.opened(made.store, "w") as store:
            stores.compact(store, "t/docs")


@pytest.mark.parametrize("kind", ["delta", "lancedb"])
def test_compaction_beside_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(stores, "SMALL_FILES", 2)
    names = [f"w{n}" for n in range(3)]
    racers = Racers(tmp_path, kind, *(("write", name) for name in names))
    with pipeline(tmp_path, kind) as made:
        made.put({"first": ("", 1)})
    for process in racers.processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    with pipeline(tmp_path, kind) as made:
        while any(process.poll() is None for process in racers.processes):
            _compacting(made)
        assert [p.communicate()[0].strip() for p in racers.processes] == ["done"] * 3
        written = {f"{name}-{n}" for name in names for n in (0, 2)}
        assert {row["doc"] for row in made.rows("t/docs")} == {"first", *written}
