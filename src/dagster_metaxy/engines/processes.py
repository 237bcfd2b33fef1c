"""Computes in processes: one that hangs is ended, and one that dies takes no other with it.

Every worker has a pipe of its own. Pools in which workers share one (that of the standard library,
or of pebble) break when a worker is killed while it holds the pipe, as it is when memory runs out.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Task = TypeVar("Task")
Result = TypeVar("Result")

_STARTS = 3
_LOADED = [
    "dagster_metaxy.steps",
    "dagster_metaxy.discovery.reading",
    "dagster_metaxy.increment.remote",
    "dagster_metaxy.media.identify",
    "dagster_metaxy.media.frames",
    "PIL.JpegImagePlugin",
]
"""What most workers need; any other is loaded where it is used."""


class WorkerError(Exception):
    """Workers cannot be started, or cannot load the work: no task can be done."""


class TaskError(Exception):
    """The worker of a task was ended, or died.

    Attributes:
        seconds: How long the task had been under way.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class TimeLimitExceeded(TaskError):
    """A task took longer than it may."""


class WorkerDied(TaskError):
    """The process that did a task died."""


def run(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    *,
    workers: int = 1,
    tick: float = 1.0,
    time_limit: Callable[[Task], float] | None = None,
) -> Generator[tuple[Task, Result | Exception] | None, None, None]:
    """Do `work` on every task, yielding each with its result, or with what went wrong.

    Results come in the order in which they are ready, and None whenever there was none for a while.
    Each worker has one task at a time, and none is taken before a worker is free. Workers, and the
    processes that they start, end when the iteration does, and when this process is killed.

    Args:
        tasks: Taken one by one, as workers come free.
        work: Called once per task, in workers, to which it is sent. If it has a method `prepare`,
            that is called first, once per worker, and not counted against the limit.
        workers: Number of processes.
        tick: Seconds after which None tells that nothing was ready.
        time_limit: The seconds that a task may take; no limit if left out.

    Raises:
        WorkerError: Workers cannot load `work`, or die before they begin.
    """
    remaining = iter(tasks)
    sent = pickle.dumps(work)
    busy: list[_Worker[Task]] = []
    free: list[_Worker[Task]] = []
    try:
        for task in remaining:
            busy.append(_Worker(task, sent))
            if len(busy) == workers:
                break
        while busy:
            now = time.monotonic()
            due = [max(0.0, worker.deadline - now) for worker in busy]
            ready = wait([worker.pipe for worker in busy], min(tick, *due))
            if not ready:
                yield None
            for worker in list(busy):
                answer: Any
                try:
                    # A process that it forked may keep the pipe of a dead worker open.
                    if worker.pipe.poll() or worker.process.exitcode is not None:
                        answer = _received(worker.pipe)
                    elif time.monotonic() >= worker.deadline:
                        limit = worker.deadline - worker.since
                        worker.kill()
                        answer = TimeLimitExceeded(f"took longer than {limit:g} s", limit)
                    else:
                        continue
                except (EOFError, OSError):
                    died = worker.died()
                    if not worker.is_ready:
                        busy[busy.index(worker)] = worker.again(died)
                        continue
                    seconds = time.monotonic() - worker.since
                    answer = WorkerDied(f"the process that computed it {died}", seconds)
                if not worker.is_ready:
                    if isinstance(answer, Exception):
                        raise WorkerError(
                            f"the work cannot be loaded in a process: {type(answer).__name__}: {answer}"
                        ) from answer
                    worker.begin(worker.task, time_limit)
                    continue
                task = worker.task
                # Before its result is looked at, which takes the caller a while.
                for following in remaining:
                    if worker.process.exitcode is not None:
                        worker.kill()  # what it started, too
                        busy[busy.index(worker)] = _Worker(following, sent)
                    else:
                        worker.begin(following, time_limit)
                    break
                else:
                    busy.remove(worker)
                    free.append(worker)
                    worker.pipe.close()
                yield task, answer
        for worker in free:
            worker.process.join(1)  # so that what it does at its end is done
    finally:
        for worker in (*busy, *free):
            worker.kill()


class _Worker(Generic[Task]):
    """A process, and the task that it does."""

    def __init__(self, task: Task, work: bytes, starts: int = 1) -> None:
        self.task = task
        self.is_ready = False
        self.since = 0.0
        self.deadline = float("inf")
        self._work = work
        self._starts = starts
        context = _context()
        self.pipe, other = context.Pipe()
        # No daemon, since those may not start processes.
        self.process = context.Process(target=_serve, args=(other,), name="compute", daemon=False)
        self.process.start()
        other.close()
        self._send(pickle.dumps(dict(os.environ)))
        self._send(work)

    def begin(self, task: Task, time_limit: Callable[[Task], float] | None) -> None:
        """Have it do a task."""
        self.is_ready = True
        self.task = task
        self._send(pickle.dumps(task))
        self.since = time.monotonic()
        if time_limit is not None:
            self.deadline = self.since + time_limit(task)

    def again(self, died: str) -> _Worker[Task]:
        """Another worker for the task of one that died before it could begin.

        Raises:
            WorkerError: That was not the first one.
        """
        if self._starts == _STARTS:
            raise WorkerError(f"{_STARTS} processes in a row died while loading: the last {died}")
        return _Worker(self.task, self._work, self._starts + 1)

    def died(self) -> str:
        """How it died, once its pipe is closed; the processes that it started are ended."""
        self.process.join(5)
        code = self.process.exitcode
        self.kill()
        return _how(self.process.exitcode if code is None else code)

    def kill(self) -> None:
        """End it, and the processes that it started."""
        assert self.process.pid is not None
        if hasattr(os, "killpg"):  # not on Windows
            with suppress(OSError):  # it has not come to making a group
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _send(self, message: bytes) -> None:
        # Where it is dead, reading from it tells.
        with suppress(OSError):
            self.pipe.send_bytes(message)


@cache
def _context() -> ForkServerContext | SpawnContext:
    """How workers are started.

    Not by forking this process, whose locks, threads and signal handlers, of Dagster and of others,
    are no matter of a worker. A server that has loaded what all need is forked in milliseconds, where
    there is one (not on Windows); to load it takes half a second.
    """
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    return context


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    why = ", as when memory runs out" if -code == signal.SIGKILL else ""
    return f"died by signal {-code}{name}{why}"


def _received(pipe: Connection) -> Any:
    """What a worker answers; an exception if it raised one, or if the answer cannot be read.

    Raises:
        EOFError: It is dead.
    """
    if not pipe.poll():
        raise EOFError
    message = pipe.recv_bytes()
    try:
        return pickle.loads(message)
    except Exception as error:
        return error


def _serve(pipe: Connection) -> None:
    """What a worker does: load the work, then task after task."""
    if hasattr(os, "setpgrp"):  # a group of its own, to be ended with all that it starts
        os.setpgrp()
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        environment = pickle.loads(pipe.recv_bytes())
        if environment != dict(os.environ):  # the server that it was forked from is of another time
            os.environ.clear()
            os.environ.update(environment)
        work = pickle.loads(pipe.recv_bytes())
        if hasattr(work, "prepare"):
            work.prepare()
        pipe.send_bytes(pickle.dumps(None))
    except Exception as error:
        pipe.send_bytes(_dumped(error))
        return
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        try:
            answer = work(pickle.loads(message))
        except Exception as error:
            answer = error
        pipe.send_bytes(_dumped(answer))


def _dumped(answer: Any) -> bytes:
    """An answer as bytes that can be read."""
    try:
        dumped = pickle.dumps(answer)
        if isinstance(answer, Exception):  # some can be written, and not read
            pickle.loads(dumped)
        return dumped
    except Exception as error:
        shown = answer if isinstance(answer, Exception) else error
        return pickle.dumps(RuntimeError(f"{type(shown).__name__}: {shown}"))


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
