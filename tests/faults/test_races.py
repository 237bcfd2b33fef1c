"""Several processes at once in one store: nothing is lost, and nothing is there twice.

There is no lock on a feature, which could not be had in every store. Writes are idempotent instead:
of a sample that two runs compute, readers see the newest row; its children and its files are
replaced whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline import COMPUTED, ENVIRONMENT, Docs, docs_at, pipeline

from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.ledger import Ledger

RACING = Path(__file__).parent / "racing.py"


class Racers:
    """Processes that start at the same moment.

    Args:
        root: The folder of the pipeline.
        kind: The kind of store.
        *deeds: What each does, its argument, and the seconds that it waits first.
    """

    def __init__(self, root: Path, kind: str, *deeds: tuple[str, ...]) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(RACING), str(root), kind, *deed],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for deed in deeds
        ]  # fmt: skip
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]

    def go(self) -> list[str]:
        """Let them do it, and give what each says in the end."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = []
        for process in self.processes:
            out, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
            said.append(out.strip())
        return said


def _expected(root: Path, docs: Docs, kind: str = "delta") -> dict[str, list[dict[str, object]]]:
    """The rows after one run from nothing."""
    with pipeline(root, kind) as made:
        made.put(docs)
        made.run()
        return {key: made.rows(key) for key in made.features}


@pytest.mark.parametrize("kind", ["delta", "lancedb", "postgresql"])
def test_the_first_write_of_a_table_by_several_processes(tmp_path: Path, kind: str) -> None:
    names = [f"w{n}" for n in range(3)]
    said = Racers(tmp_path, kind, *(("write", name) for name in names)).go()
    assert said == ["done"] * len(names)
    with pipeline(tmp_path, kind) as made:
        for feature in made.new_features():
            assert [row["doc"] for row in made.rows(feature.key)] == names
        assert {r["doc"] for r in made.rows("t/docs")} == {
            f"{w}-{n}" for w in names for n in (0, 2)
        }
        everyone = {(name,) for name in names}
        with stores.opened(made.store, "r") as store:
            for key in COMPUTED:
                assert set(Ledger(store, made.features[key]).read(everyone)) == everyone


@pytest.mark.parametrize(("kind", "steps"), [("delta", (0, 4)), ("lancedb", (0,))])
def test_several_runs_at_once(tmp_path: Path, kind: str, steps: tuple[int, ...]) -> None:
    root = tmp_path / "raced"
    for step in steps:  # all new; then stale, orphaned, with children that are gone
        with pipeline(root, kind) as made:
            made.put(docs_at(step))
        racers = Racers(root, kind, ("run",), ("run",), ("run",))
        assert racers.go() == ["done"] * 3
        expected = _expected(tmp_path / f"whole{step}", docs_at(step), kind)
        with pipeline(root, kind) as made:
            made.check_done(expected)


@pytest.mark.parametrize("delay", ["0", "0.5"])
def test_a_run_beside_a_deletion(tmp_path: Path, delay: str) -> None:
    root, docs = tmp_path / "raced", docs_at(1)
    gone = sorted(docs)[:4]
    left = {doc: value for doc, value in docs.items() if doc not in gone}
    expected = _expected(tmp_path / "left", left)
    with pipeline(root) as made:
        made.put(docs_at(0))
        made.run()
        made.put(docs)
    racers = Racers(root, "delta", ("run",), ("delete", f"doc <= '{gone[-1]}'", delay))
    assert racers.go() == ["done"] * 2
    with pipeline(root) as made:
        made.run()
        made.check_equals(expected)
        made.check_files()
        # What comes back is computed again, files and all.
        made.put(docs)
        made.run()
        assert {row["doc"] for row in made.rows("t/covers")} == set(docs)
        made.check_files()


def test_a_run_beside_changes_of_its_upstream(tmp_path: Path) -> None:
    root = tmp_path / "raced"
    expected = _expected(tmp_path / "whole", docs_at(2))
    with pipeline(root) as made:
        made.put(docs_at(0))
    puts = [("put", json.dumps(docs_at(n)), str(0.4 * n)) for n in (1, 2)]
    assert Racers(root, "delta", ("run",), *puts, ("run",)).go() == ["done"] * 4
    with pipeline(root) as made:
        made.run()
        made.put(docs_at(2))  # where the first change came last
        made.run()
        made.check_equals(expected)
        made.check_files()


@pytest.mark.filterwarnings("ignore:AUTO_CREATE_TABLES", "ignore:fetch_arrow_table")
class TestDuckDB:
    """Which one process at a time may have open."""

    @pytest.fixture
    def held(self, tmp_path: Path) -> Iterator[Racers]:
        with pipeline(tmp_path, "duckdb") as made:
            made.put(docs_at(0))
        racers = Racers(tmp_path, "duckdb", ("run",))
        with pipeline(tmp_path, "duckdb") as made, made.store.open("w"):
            yield racers

    def test_a_second_run_says_what_to_do(self, held: Racers) -> None:
        (said,) = held.go()
        assert said.startswith("StoreError: the store dev is open in another process")
        assert "pool" in said
        assert "Delta" in said

    def test_runs_that_are_short_wait_for_each_other(self, tmp_path: Path) -> None:
        with pipeline(tmp_path, "duckdb") as made:
            made.put(docs_at(0))
        racers = Racers(tmp_path, "duckdb", ("run",), ("run",))
        said = racers.go()
        # On a machine that is slow enough, the wait comes to its end.
        assert "done" in said
        assert all(s == "done" or s.startswith("StoreError: the store dev") for s in said)
        with pipeline(tmp_path, "duckdb") as made:
            made.run()
            made.check_files()
            assert len(made.rows("t/covers")) == len(docs_at(0))
