"""SIGKILL at any moment: the next run finishes the work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pipeline import CHUNK, COMPUTED, ENVIRONMENT, docs_at, pipeline

KILLING = Path(__file__).parent / "killing.py"


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")
# Of Delta, 50 in all: in two halves, which run beside each other.
@pytest.mark.parametrize(
    ("kind", "kills", "seed"),
    [
        ("delta", 25, 1),
        ("delta", 25, 2),
        ("lancedb", 6, 3),
        ("duckdb", 4, 4),
        ("postgresql", 4, 5),
    ],
)
def test_killed_at_random_moments(tmp_path: Path, kind: str, kills: int, seed: int) -> None:
    command = [sys.executable, str(KILLING), str(tmp_path), kind, str(kills), str(seed)]
    ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert sum(told["landed"].values()) == kills
    docs = docs_at(told["step"])

    with pipeline(tmp_path / "whole", kind) as whole:
        whole.put(docs)
        whole.run()
        expected = {key: whole.rows(key) for key in whole.features}
        assert [len(expected[key]) for key in ("t/docs", "t/covers")] == [len(docs)] * 2
        assert len(expected["t/pages"]) == sum(count for _, count in docs.values())
        needed = whole.calls()

    with pipeline(tmp_path / "killed", kind) as killed:
        killed.check_equals(expected)
        killed.check_files()
        for key in COMPUTED:
            # In the history, too: what was written was not written again.
            history = killed.rows(key, with_sample_history=True, include_soft_deleted=True)
            written = Counter(
                (*(row[c] for c in killed.features[key].id_columns), row["metaxy_provenance"])
                for row in history
                if row["metaxy_deleted_at"] is None
            )
            assert set(written.values()) <= {1}, key
        calls = killed.calls()
        assert set(needed) <= set(calls)
        assert calls.total() - len(calls) <= kills * CHUNK
        before = calls.total()
        outcomes = killed.run()
        assert killed.calls().total() == before
        assert not any(o.written or o.total.orphaned for o in outcomes.values())
