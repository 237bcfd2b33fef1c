"""Does one thing to the pipeline in a folder, at the same moment as other processes.

    python racing.py FOLDER STORE WHAT [ARGUMENT]

Prints `ready`, waits for a line, does it, and prints `done` or the error.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import polars as pl
from pipeline import COMPUTED, Pipeline, docs_at, pipeline

from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.deletion import delete, plan_deletion
from dagster_metaxy.increment.ledger import Entry, Ledger
from dagster_metaxy.increment.outcome import UpdateError


def write_first(made: Pipeline, name: str) -> None:
    """Write to tables that are not there yet, and delete softly from one."""
    features = made.new_features()
    slot = time.time() // 1 + 2
    with stores.opened(made.store, "w") as store:
        for feature in features:
            row = {"doc": name, stores.PROVENANCE_BY_FIELD: {"default": "1"}}
            time.sleep(max(0.0, slot - time.time()))
            # All processes at once: the time in which they may collide is short.
            slot += 0.25
            stores.append(store, feature.key, pl.DataFrame([row]))
        for ledger in [Ledger(store, made.features[key]) for key in COMPUTED]:
            time.sleep(max(0.0, slot - time.time()))
            slot += 0.25
            ledger.write([Entry((name,), "1", 1)])
        for n in range(3):
            row = {"doc": f"{name}-{n}", "text": "", "count": 1}
            row[stores.PROVENANCE_BY_FIELD] = {"text": "1"}
            stores.append(store, "t/docs", pl.DataFrame([row]))
            if n == 1:
                stores.delete(store, "t/docs", ["doc"], [(row["doc"],)])


def delete_docs(made: Pipeline, condition: str) -> None:
    """Do what the delete job does."""
    with stores.opened(made.store, "w") as store:
        folders: dict[str, Path] = dict.fromkeys(COMPUTED, made.root / "artifacts")
        delete(lambda _: store, plan_deletion(lambda _: store, "t/docs", condition, folders))


def put(made: Pipeline, docs: str) -> None:
    """Change the documents."""
    made.put({doc: (text, count) for doc, (text, count) in json.loads(docs).items()})


DEEDS: dict[str, Callable[[Pipeline, str], object]] = {
    "write": write_first,
    "run": lambda made, _: made.run(),
    "delete": delete_docs,
    "put": put,
}


def main(folder: str, kind: str, what: str, argument: str = "", delay: str = "0") -> None:
    """Do it when told to."""
    warnings.simplefilter("ignore")
    if what == "write":  # what takes long the first time, and differs from process to process
        with tempfile.TemporaryDirectory() as other, pipeline(Path(other), kind) as warm:
            warm.put(docs_at(0))
    with pipeline(Path(folder), kind) as made:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        time.sleep(float(delay))
        try:
            DEEDS[what](made, argument)
        except UpdateError as error:
            sys.stdout.write(f"{type(error).__name__}: {error}\n")
        else:
            sys.stdout.write("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
