"""Work in processes: real signals, real hangs, real leftovers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagster_metaxy import engines
from dagster_metaxy.engines.processes import TimeLimitExceeded, WorkerDied, WorkerError, run


def double(task: int) -> int:
    return 2 * task


def pid(task: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def outcomes(results: Iterator[Any]) -> dict[Any, Any]:
    return dict(pair for pair in results if pair is not None)


def test_results_of_many_tasks() -> None:
    found = outcomes(run(range(200), double, workers=2))
    assert found == {n: 2 * n for n in range(200)}
    assert list(run([], double)) == []


def test_tasks_are_done_elsewhere_by_as_many_as_were_asked_for() -> None:
    pids = set(outcomes(run(range(40), pid, workers=2)).values())
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not any(alive(p) for p in pids)


def test_tasks_are_taken_as_workers_come_free() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield number

    done = 0
    for result in run(tasks(), double, workers=2):
        if result is not None:
            done += 1
            assert taken <= done + 2


def faulty(task: str) -> str:
    if task == "raise":
        raise LookupError("no such thing")
    if task == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "null":
        ctypes.string_at(0)
    if task == "exit":
        os._exit(3)
    if task == "sys.exit":
        sys.exit(4)
    if task == "hang":
        threading.Event().wait()
    if task == "hang with the lock":
        ctypes.PyDLL(None).usleep(ctypes.c_uint(2**31))
    if task == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    return task


def test_each_fault_is_that_of_one_task() -> None:
    faults = ["segfault", "null", "exit", "sys.exit", "hang", "hang with the lock", "deaf", "raise"]
    tasks = [name for n, fault in enumerate(faults) for name in (fault, f"good{n}")]
    found = outcomes(run(tasks, faulty, workers=2, time_limit=lambda _: 1.5))
    assert {name for name, result in found.items() if result == name} == {
        f"good{n}" for n in range(len(faults))
    }
    for name in ("hang", "hang with the lock", "deaf"):
        assert isinstance(found[name], TimeLimitExceeded)
        assert str(found[name]) == "took longer than 1.5 s"
    told = {name: str(found[name]) for name in ("segfault", "null", "exit", "sys.exit")}
    assert told == {
        "segfault": "the process that computed it died by signal 11 (SIGSEGV)",
        "null": "the process that computed it died by signal 11 (SIGSEGV)",
        "exit": "the process that computed it ended with exit code 3",
        "sys.exit": "the process that computed it ended with exit code 4",
    }
    assert all(isinstance(found[name], WorkerDied) for name in told)
    assert isinstance(found["raise"], LookupError)


def killed_while_it_answers(task: int) -> bytes:
    if task % 3 == 0:
        # More than a pipe holds, so that the answer is on its way when the signal comes.
        threading.Timer(0.02 * (task % 5), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return b"x" * 300_000_000
    time.sleep(0.01)
    return b"x" * 100_000


def test_killed_in_the_middle_of_an_answer() -> None:
    """As when memory runs out; pools that share a pipe stop for ever."""
    found = outcomes(run(range(18), killed_while_it_answers, workers=2))
    assert set(found) == set(range(18))
    for task, result in found.items():
        if task % 3:
            assert result == b"x" * 100_000
        elif isinstance(result, bytes):
            assert len(result) == 300_000_000
        else:
            assert "signal 9 (SIGKILL), as when memory runs out" in str(result)


class NeedsTwo(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def unreadable(task: str) -> Any:
    if task == "error":
        raise NeedsTwo(1, 2)
    return (lambda: 1) if task == "result" else task


def test_what_cannot_be_sent_back_fails_its_task() -> None:
    found = outcomes(run(["error", "result", "good"], unreadable))
    assert str(found["error"]) == "NeedsTwo: 1 and 2"
    assert "pickle" in str(found["result"])
    assert found["good"] == "good"


class Model:
    """Work that is prepared, slowly, once per worker."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.ready = 0

    def prepare(self) -> None:
        if self.how == "die":
            os._exit(7)
        if self.how == "raise":
            raise OSError("no weights")
        time.sleep(2)
        self.ready += 1

    def __call__(self, task: int) -> int:
        return self.ready


def test_preparing_is_not_counted_against_the_limit() -> None:
    found = outcomes(run(range(5), Model("slow"), time_limit=lambda _: 1.0))
    assert found == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("die", "3 processes in a row died while loading: the last ended with exit code 7"),
        ("raise", "the work cannot be loaded in a process: OSError: no weights"),
    ],
)
def test_work_that_cannot_be_loaded(how: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        outcomes(run(range(5), Model(how)))


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_ticks_while_nothing_is_ready(engine: Any) -> None:
    results = list(engines.run(engine, [2.5], nap))
    assert results[-1] == (2.5, 2.5)
    assert results[:-1].count(None) == len(results) - 1 >= 2


def test_a_limit_needs_processes() -> None:
    with pytest.raises(ValueError, match="a thread cannot be ended"):
        engines.run("threads", [1], double, time_limit=lambda _: 1.0)


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def spawning(folder: str) -> None:
    """Starts a process that goes on writing, tells both pids, and hangs."""
    log = Path(folder) / "log"
    child = subprocess.Popen(
        [sys.executable, "-c", f"import time\nwhile True: open({str(log)!r}, 'a').write('x'); time.sleep(.01)"]
    )  # fmt: skip
    (Path(folder) / "pids.tmp").write_text(f"{os.getpid()} {child.pid}")
    (Path(folder) / "pids.tmp").rename(Path(folder) / "pids")
    threading.Event().wait()


def pids_in(folder: Path) -> list[int]:
    assert eventually((folder / "pids").exists)
    return [int(p) for p in (folder / "pids").read_text().split()]


def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    found = outcomes(run([str(tmp_path)], spawning, time_limit=lambda _: 2.0))
    assert isinstance(found[str(tmp_path)], TimeLimitExceeded)
    assert eventually(lambda: not any(alive(p) for p in pids_in(tmp_path)))


def test_closing_ends_the_workers(tmp_path: Path) -> None:
    results = run([str(tmp_path)], spawning)
    assert eventually(lambda: next(results) is None and (tmp_path / "pids").exists())
    pids = pids_in(tmp_path)
    results.close()  # type: ignore[attr-defined]
    assert eventually(lambda: not any(alive(p) for p in pids))


PARENT = """
    import sys
    sys.path[:0] = {paths!r}
    from test_processes import spawning
    from dagster_metaxy import engines

    if __name__ == "__main__":
        for _ in engines.run({engine!r}, [{folder!r}], spawning):
            print("tick", flush=True)
    """


def parent(folder: Path, engine: str = "processes") -> subprocess.Popen[bytes]:
    script = folder / "parent.py"
    script.write_text(
        textwrap.dedent(PARENT).format(
            paths=[str(Path(__file__).parent)], folder=str(folder), engine=engine
        )
    )
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen([sys.executable, str(script)], stderr=errors)


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    process = parent(tmp_path)
    pids = pids_in(tmp_path)
    assert all(alive(p) for p in pids)
    process.kill()
    process.wait()
    assert eventually(lambda: not any(alive(p) for p in pids))
    size = (tmp_path / "log").stat().st_size if (tmp_path / "log").exists() else 0
    time.sleep(0.1)
    assert not size or (tmp_path / "log").stat().st_size == size


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_an_interrupt_waits_for_nothing(tmp_path: Path, engine: str) -> None:
    process = parent(tmp_path, engine)
    pids = pids_in(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert "KeyboardInterrupt" in (tmp_path / "errors").read_text()
    if engine == "threads":  # what computes start in threads is theirs to end
        os.kill(pids[1], signal.SIGKILL)
    assert eventually(lambda: not any(alive(p) for p in pids))
