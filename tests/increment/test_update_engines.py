"""Updates whose computes hang, die and take long, on a real store."""

from __future__ import annotations

import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from worlds import RUNTIME, World
from worlds import update as updating

from dagster_metaxy.increment import progress
from dagster_metaxy.increment.compute import ComputeContext, Runtime
from dagster_metaxy.increment.outcome import Counts, Outcome, UpdateError
from dagster_metaxy.increment.selection import Scope
from dagster_metaxy.increment.update import ComputeError, Update

Sample = Mapping[str, Any]
ENGINES = pytest.mark.parametrize("engine", ["threads", "processes"])


def run(world: World, update: Update, runtime: Runtime = RUNTIME) -> Outcome:
    return update.run(world.store, Scope(), runtime)


def put(world: World, *docs: str) -> None:
    world.put(**dict.fromkeys(docs, ("1", "1", 1)))


def faulty(sample: Sample) -> dict[str, int]:
    doc = sample["doc"]
    if doc == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if doc == "exits":
        os._exit(3)
    if doc == "hangs":
        threading.Event().wait()
    if doc == "raises":
        raise LookupError("no such doc")
    return {"words": len(doc)}


def failures(outcome: Outcome) -> dict[str, str]:
    return {failed.sample["doc"]: f"{failed.error}: {failed.message}" for failed in outcome.failed}


FAILED = {
    "dies": "WorkerDied: the process that computed it died by signal 11 (SIGSEGV)",
    "exits": "WorkerDied: the process that computed it ended with exit code 3",
    "hangs": "TimeLimitExceeded: took longer than 2 s",
    "raises": "LookupError: no such doc",
}


def test_hangs_and_crashes_fail_their_samples_alone(world: World) -> None:
    put(world, *FAILED, *"abcdef")
    update = updating(world, world.words(), faulty, engine="processes", workers=2, time_limit=2)
    outcome = run(world, update)
    assert failures(outcome) == FAILED
    assert outcome.total == Counts(new=10, failed=4)
    assert {row["doc"] for row in world.rows("t/words")} == set("abcdef")
    where = {failed.sample["doc"]: failed.where for failed in outcome.failed}
    assert where["raises"].startswith(f"{__file__}:")
    assert {where[doc] for doc in ("dies", "exits", "hangs")} == {""}


def faulty_batch(samples: pl.DataFrame) -> pl.DataFrame:
    for sample in samples.iter_rows(named=True):
        faulty(sample)
    return samples.select("doc", words=pl.col("doc").str.len_chars())


def test_of_a_batch_that_hangs_or_dies_the_others_are_computed(world: World) -> None:
    put(world, *FAILED, *"abcdef")
    update = updating(
        world, world.words(), faulty_batch, engine="processes", batch_size=4, time_limit=2
    )
    assert failures(run(world, update)) == FAILED
    assert {row["doc"] for row in world.rows("t/words")} == set("abcdef")


def leaving_files(sample: Sample, context: ComputeContext) -> Iterator[dict[str, Any]]:
    file = context.artifacts / "page.txt"
    file.write_text("x")
    faulty(sample)
    yield {"page": 1, "file": file}


def test_what_an_ended_process_leaves_is_removed(world: World) -> None:
    put(world, "a", "hangs", "dies")
    update = updating(
        world, world.pages(artifact=True), leaving_files, engine="processes", time_limit=2
    )
    assert run(world, update).total == Counts(new=3, failed=2)
    (row,) = world.rows("t/pages")
    assert Path(str(row["file"])).read_text() == "x"
    files = [p for p in (world.root / "artifacts").rglob("*") if p.is_file()]
    assert files == [Path(str(row["file"]))]
    assert row["doc"] == "a"


class Model:
    """Tells how many there are in its process."""

    made = 0

    def __init__(self) -> None:
        Model.made += 1

    def __call__(self, sample: Sample, factor: int, unit: Any) -> dict[str, int]:
        return {"words": 1000 * Model.made + factor * unit["value"]}


def test_a_class_constants_and_resources(world: World) -> None:
    put(world, *"abcdef")
    update = updating(world, world.words(), Model, engine="processes")
    update = replace(update, compute=replace(update.compute, params={"factor": 2}))
    run(world, update, replace(RUNTIME, resources={"unit": {"value": 21}}))
    assert {row["words"] for row in world.rows("t/words")} == {1042}
    assert Model.made == 0


def saying(sample: Sample, context: ComputeContext) -> dict[str, int]:
    context.log.warning("100%% of %s in run %s", sample["doc"], context.run_id)
    if sample["doc"] == "raises":
        context.log.info("now")
        faulty(sample)
    return {"words": 1}


@ENGINES
def test_what_computes_log(world: World, engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    put(world, "a", "raises")
    caplog.set_level(logging.INFO)
    update = updating(world, world.words(), saying, engine=engine)
    run(world, update, replace(RUNTIME, run_id="7"))
    said = [r.getMessage() for r in caplog.records if "100%" in r.getMessage()]
    assert said == ["100% of a in run 7", "100% of raises in run 7"]
    assert "now" in caplog.messages
    # The traceback, with the line that raised it.
    assert 'raise LookupError("no such doc")' in caplog.text


def of_main(sample: Sample) -> dict[str, int]:
    raise AssertionError


def test_what_cannot_be_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, "a")
    words = world.words()
    with pytest.raises(UpdateError, match=r"<lambda> cannot be sent to a process \(.*top level"):
        run(world, updating(world, words, lambda sample: {"words": 1}, engine="processes"))
    locked = replace(RUNTIME, resources={"unit": threading.Lock(), "factor": 1})
    with pytest.raises(UpdateError, match=r"t/words: the resource 'unit' cannot be sent .*`__init"):
        run(world, updating(world, words, Model, engine="processes"), locked)
    monkeypatch.setattr(of_main, "__module__", "__main__")
    with pytest.raises(UpdateError, match="of_main is defined in the script that runs"):
        run(world, updating(world, words, of_main, engine="processes"))


class Broken:
    def __init__(self) -> None:
        os._exit(9)

    def __call__(self, sample: Sample) -> dict[str, int]:
        raise AssertionError


class NoWeights(Broken):
    def __init__(self) -> None:
        raise OSError("no weights")


def test_a_class_that_cannot_be_made(world: World) -> None:
    put(world, "a", "b")
    with pytest.raises(ComputeError, match="died while loading: the last ended with exit code 9"):
        run(world, updating(world, world.words(), Broken, engine="processes"))
    with pytest.raises(UpdateError, match="NoWeights cannot be made: OSError: no weights"):
        run(world, updating(world, world.words(), NoWeights, engine="processes"))


class Waiting:
    """Holds the second sample until a file is there."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, sample: Sample) -> dict[str, int]:
        while sample["doc"] == "b" and not self.flag.exists():
            time.sleep(0.01)
        return {"words": 1}


@ENGINES
def test_a_sample_is_durable_while_another_takes_long(
    world: World, tmp_path: Path, engine: Any
) -> None:
    put(world, "a", "b")
    flag = tmp_path / "flag"
    seen: list[str] = []

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not seen and time.monotonic() < deadline:
            with world.store.open("r") as store:
                if store.has_feature("t/words"):
                    seen.extend(store.read("t/words").collect().to_native()["doc"])
        flag.touch()

    feature = world.words()
    watcher = threading.Thread(target=contextvars.copy_context().run, args=(watch,))
    with ExitStack() as stack:
        stack.callback(watcher.join)
        stack.callback(flag.touch)
        watcher.start()
        run(world, updating(world, feature, Waiting(flag), engine=engine, chunk_seconds=0.1))
    assert seen == ["a"]
    assert {row["doc"] for row in world.rows("t/words")} == {"a", "b"}


def test_a_chunk_of_samples(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, *(f"d{n:02}" for n in range(25)))
    written: list[int] = []
    write = Update._write

    def counting(self: Update, store: Any, ledger: Any, chunk: Any, *more: Any) -> None:
        written.append(len(chunk.entries))
        write(self, store, ledger, chunk, *more)

    monkeypatch.setattr(Update, "_write", counting)
    run(world, updating(world, world.words(), faulty, chunk_samples=10, chunk_seconds=1e9))
    assert written == [10, 10, 5]


@ENGINES
def test_progress_is_told_while_one_sample_takes_long(
    world: World,
    engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_SECONDS", 0.01)
    put(world, "a", "b")
    flag = tmp_path / "flag"
    told: list[Mapping[str, Any]] = []

    def tell(counts: Mapping[str, Any]) -> None:
        told.append(counts)
        if len(told) > 2:
            flag.touch()

    update = updating(world, world.words(), Waiting(flag), engine=engine)
    run(world, update, replace(RUNTIME, tell=tell))
    assert len(told) > 2  # or `b` would wait for ever
    assert all(counts["total"] == 2 for counts in told)
    assert {counts["done"] for counts in told} >= {1}
    assert "t/words: 1 of 2 samples done" in caplog.text


def test_interrupted_what_was_computed_is_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, "a", "b")
    waiting = Waiting(tmp_path / "never")
    update = updating(world, world.words(), waiting, engine="processes", chunk_seconds=1e9)

    def interrupt(counts: Mapping[str, Any]) -> None:
        if counts["done"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt):
        run(world, update, replace(RUNTIME, tell=interrupt))
    assert [row["doc"] for row in world.rows("t/words")] == ["a"]
