"""What is computed for another feature, and taken by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dagster_metaxy.increment.joint import Handover
from dagster_metaxy.increment.outcome import Cost
from dagster_metaxy.increment.plan import FORCED, Task

TASK = Task(samples=[{}], ids=("a/b", 3), partition=None, provenance="v1")
COST = Cost(1.5, 0.5)


@pytest.fixture
def handover(tmp_path: Path) -> Handover:
    return Handover(tmp_path / "handed")


def test_what_is_given_is_taken_once(handover: Handover) -> None:
    files = handover.new_folder()
    (files / "deep").mkdir()
    (files / "deep/a.jpg").write_bytes(b"picture")
    rows = [
        {"n": 1, "time": 0.1 + 0.2, "path": files / "deep/a.jpg", "missing": None},
        {"n": 2, "texts": ["é", "{}"], "path": files / "b.jpg", "flag": True},
    ]
    handover.give(TASK.ids, "v1", iter(rows), files, "run", COST)
    assert handover.has(TASK.ids, "v1")
    assert not handover.has(TASK.ids, "v2")
    assert not handover.has(("a", "b/3"), "v1")
    taken = handover.take(TASK, "another run")
    assert taken == (rows, files, COST)
    assert (files / "deep/a.jpg").read_bytes() == b"picture"
    assert handover.take(TASK, "another run") is None


def test_a_row_is_no_list_of_rows(handover: Handover) -> None:
    handover.give(TASK.ids, "v1", {"n": 1}, None, "run", COST)
    assert handover.take(TASK, "run") == ({"n": 1}, None, COST)


def test_a_forced_sample_takes_nothing_of_another_run(handover: Handover) -> None:
    handover.give(TASK.ids, "v1", {"n": 1}, None, "run", COST)
    forced = replace(TASK, why=FORCED)
    assert handover.take(forced, "another run") is None
    assert handover.take(forced, "run") is not None


def test_what_is_broken_is_not_there(handover: Handover) -> None:
    files = handover.new_folder()
    handover.give(TASK.ids, "v1", {"n": 1}, files, "run", COST)
    files.rmdir()
    assert handover.take(TASK, "run") is None
    handover.give(TASK.ids, "v1", {"n": 1}, None, "run", COST)
    (note,) = handover.folder.glob("*.json")
    note.write_text(note.read_text()[:20])
    assert handover.take(TASK, "run") is None


def test_what_cannot_be_written_down_is_not_given(handover: Handover) -> None:
    with pytest.raises(TypeError, match="object cannot be handed over"):
        handover.give(TASK.ids, "v1", {"n": object()}, None, "run", COST)
    assert not handover.has(TASK.ids, "v1")
