"""Disks that are full, tables that cannot be written: the run fails, and says what it has kept."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pipeline import CHUNK, ENVIRONMENT, RUNTIME, Pipeline, docs_at, pipeline

from dagster_metaxy.increment import store as stores
from dagster_metaxy.increment.compute import Compute
from dagster_metaxy.increment.ledger import Ledger
from dagster_metaxy.increment.outcome import Outcome
from dagster_metaxy.increment.selection import Scope
from dagster_metaxy.increment.store import StoreError
from dagster_metaxy.increment.update import ComputeError, Update

DOCS = docs_at(0)
COUNTS = re.compile(r"(\d+) are in the store and (\d+) are not")


def _on_the(call: int, event: Callable[[], object], compute: Callable[..., Any]) -> Any:
    """A compute like `compute`, on whose n-th call something happens."""
    calls = iter(range(1, 1_000))

    def computing(sample: Mapping[str, Any], context: Any) -> Any:
        if next(calls) == call:
            event()
        return compute(sample, context)

    return computing


def _failed(made: Pipeline, compute: Any, **options: Any) -> StoreError:
    """The error of a run, which tells the truth about what is in the store."""
    update = Update(made.features["t/covers"], Compute(compute), made.root / "artifacts",
                    chunk_rows=CHUNK, **options)  # fmt: skip
    with pytest.raises(StoreError) as caught:
        update.run(made.store, Scope(), RUNTIME)
    told = COUNTS.search(str(caught.value))
    assert told, caught.value
    assert int(told[1]) == len(made.rows("t/covers"))
    return caught.value


def _finishes(made: Pipeline) -> None:
    """The next run computes what was not kept, and nothing else."""
    kept = len(made.rows("t/covers"))
    before = made.calls().total()
    outcome: Outcome = made.run("t/covers")["t/covers"]
    assert made.calls().total() - before == outcome.total.new == len(DOCS) - kept
    assert outcome.failed == []
    assert len(made.rows("t/covers")) == len(DOCS)
    made.check_files()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


@pytest.mark.parametrize("kind", ["delta", "lancedb"])
def test_the_disk_of_the_store_is_full(tmp_path: Path, small_disk: Path, kind: str) -> None:
    (tmp_path / "data").symlink_to(small_disk)
    with pipeline(tmp_path, kind) as made:
        made.put(DOCS)
        full = _on_the(CHUNK + 2, lambda: _fill(small_disk), made.cover)
        error = _failed(made, full)
        assert str(error).startswith("t/covers: ")
        assert "o space left" in str(error)
        assert re.search(rf"(0|{CHUNK}) are in the store and {CHUNK} are not", str(error))
        (small_disk / "filler").unlink()
        _finishes(made)


def test_the_disk_of_the_artifacts_is_full(tmp_path: Path, small_disk: Path) -> None:
    """Of which no sample is guilty: none is remembered as failed, and what is done is kept."""
    (tmp_path / "artifacts").symlink_to(small_disk)
    with pipeline(tmp_path) as made:
        made.put(DOCS)
        full = _on_the(CHUNK + 3, lambda: _fill(small_disk), made.cover)
        error = _failed(made, full)
        assert "No space left" in str(error)
        assert f"{CHUNK + 2} are in the store and 0 are not" in str(error)
        with stores.opened(made.store, "r") as store:
            entries = Ledger(store, made.features["t/covers"]).read({(doc,) for doc in DOCS})
        assert len(entries) == CHUNK + 2
        assert not [entry for entry in entries.values() if entry.failure]
        (small_disk / "filler").unlink()
        _finishes(made)


def test_what_went_wrong_first_is_told(tmp_path: Path, small_disk: Path) -> None:
    """Also where keeping the finished work fails, too."""
    (tmp_path / "data").symlink_to(small_disk)
    with pipeline(tmp_path) as made:
        made.put(DOCS)
        made.run("t/covers")
        made.put(docs_at(3))
        calls = iter(range(1_000))

        def compute(sample: Mapping[str, Any]) -> Mapping[str, Any]:
            if next(calls) == 2:
                _fill(small_disk)
                return {"no such column": 1}
            return {"cover": "", "size": 1}

        update = Update(made.features["t/covers"], Compute(compute), tmp_path / "artifacts")
        with pytest.raises(ComputeError, match="no such column"):
            update.run(made.store, Scope(), RUNTIME)


LIMITED = """
    import resource, sys
    from pathlib import Path
    from pipeline import *

    calls = iter(range(1, 1_000))

    def compute(sample):
        if next(calls) == CHUNK + 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
        return {{"cover": "", "size": 1}}

    with pipeline(Path({root!r})) as made:
        update = made.update("t/covers")
        update = type(update)(update.feature, Compute(compute), update.artifacts, chunk_rows=CHUNK)
        try:
            update.run(made.store, Scope(), RUNTIME)
        except Exception as error:
            sys.stdout.write(f"{{type(error).__name__}}: {{error}}")
"""


def test_files_that_must_not_grow(tmp_path: Path) -> None:
    with pipeline(tmp_path) as made:
        made.put(DOCS)
    script = textwrap.dedent(LIMITED).format(root=str(tmp_path))
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(Path(__file__).parent)])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("StoreError: t/covers: "), ran.stdout
    assert "File too large" in ran.stdout
    assert re.search(rf"(0|{CHUNK}) are in the store and {CHUNK} are not", ran.stdout)
    with pipeline(tmp_path) as made:
        kept = re.search(r"(\d+) are in the store", ran.stdout)
        assert kept
        assert len(made.rows("t/covers")) == int(kept[1])


UNPRIVILEGED = 65534


def _forbid(folder: Path) -> None:
    """Let nobody write below a folder: not even root, who becomes another user for it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.seteuid(UNPRIVILEGED)


@pytest.mark.parametrize("where", ["data/delta/t/covers.delta", "artifacts/t__covers"])
def test_folders_that_must_not_be_written(tmp_path: Path, where: str) -> None:
    with pipeline(tmp_path) as made:
        made.put(DOCS)
        first = _on_the(2, lambda: (_ for _ in ()).throw(KeyboardInterrupt), made.cover)
        update = Update(made.features["t/covers"], Compute(first), tmp_path / "artifacts")
        with pytest.raises(KeyboardInterrupt):
            update.run(made.store, Scope(), RUNTIME)
        assert len(made.rows("t/covers")) == 1  # finished before it was interrupted
        for path in (tmp_path, *tmp_path.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        for path in list(tmp_path.parents)[:3]:  # pytest's
            if path.stat().st_uid == os.getuid():
                path.chmod(path.stat().st_mode | 0o011)
        try:
            _forbid(tmp_path / where)
            with pytest.raises(StoreError, match=r"(?i)permission denied"):
                made.run("t/covers")
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        for path in (tmp_path / where, *(tmp_path / where).rglob("*")):
            path.chmod(0o755)
        _finishes(made)
