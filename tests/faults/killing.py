"""Runs the pipeline again and again in processes that are killed at random moments.

    python killing.py FOLDER STORE KILLS SEED

This process imports what runs need and forks a child for each, so that a run begins at once; it
computes nothing itself, since a process with threads cannot be forked. The documents change
whenever a run has come to its end. Prints, as JSON, the number of changes, and of kills by the
feature that the run was at.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline import COMPUTED, Pipeline, docs_at, pipeline

# What a run in a store would import.
IMPORTS = {
    "delta": ("deltalake", "polars_hash"),
    "lancedb": ("lancedb", "pandas", "polars_hash"),
    "duckdb": ("ibis.backends.duckdb", "pandas", "polars_hash"),
    "postgresql": ("ibis.backends.postgres", "pandas", "polars_hash", "psycopg"),
}


def forked(work: Callable[[], object]) -> int:
    """Start a child that does some work, and give its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int, *, may_be_killed: bool = False) -> bool:
    """Wait for a child, and say whether it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and may_be_killed:
        return True
    if status:
        sys.exit(f"a run that was not killed failed: {status}")
    return False


def run(made: Pipeline) -> None:
    """Bring all features up to date, and say which one it is at."""
    for key in COMPUTED:
        (made.root / "at").write_text(key)
        made.run(key)


def change(made: Pipeline, step: int) -> None:
    """Change the documents."""
    ended(forked(lambda: made.put(docs_at(step))))


def main(root: Path, kind: str, kills: int, seed: int) -> None:
    """Kill runs until there were enough, then let one end."""
    warnings.simplefilter("ignore")  # of lancedb on forks, of Metaxy on tables that it makes
    for name in IMPORTS[kind]:
        importlib.import_module(name)
    moments = random.Random(seed)
    landed: Counter[str] = Counter()
    with pipeline(root / "first", kind) as made:
        began = time.monotonic()
        ended(forked(lambda: (made.put(docs_at(0)), made.run())))
        whole = time.monotonic() - began
    with pipeline(root / "killed", kind) as made:
        step = 0
        change(made, step)
        while landed.total() < kills:
            child = forked(lambda: run(made))
            time.sleep(moments.uniform(0, whole))
            os.kill(child, signal.SIGKILL)
            if ended(child, may_be_killed=True):
                at = made.root / "at"
                landed[at.read_text() if at.exists() else ""] += 1
            else:
                step += 1
                change(made, step)
        ended(forked(lambda: run(made)))
    json.dump({"step": step, "landed": landed}, sys.stdout)


if __name__ == "__main__":
    folder, store, count, first = sys.argv[1:]
    main(Path(folder), store, int(count), int(first))
