"""Computes in threads of this process."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    tasks: Iterable[Task], work: Callable[[Task], Result], *, workers: int = 1, tick: float = 1.0
) -> Generator[tuple[Task, Result | Exception] | None, None, None]:
    """Do `work` on every task, yielding each with its result, or with the exception it raised.

    Results come in the order in which they are ready, and None whenever there was none for a while.
    At most a few tasks per worker are under way or waiting to be taken, so memory does not grow
    with the number of tasks.

    Closing it waits for the tasks that have begun. An interrupt (KeyboardInterrupt, or what Dagster
    raises instead) does not: nobody wants to wait for them, and they end with this process.

    Args:
        tasks: Taken one by one, as workers come free.
        work: Called once per task.
        workers: Number of threads.
        tick: Seconds after which None tells that nothing was ready.
    """
    remaining = iter(tasks)
    todo: SimpleQueue[tuple[Task] | None] = SimpleQueue()
    done: SimpleQueue[tuple[Task, Result | BaseException]] = SimpleQueue()

    def serve() -> None:
        while (taken := todo.get()) is not None:
            (task,) = taken
            try:
                done.put((task, work(task)))
            except BaseException as error:
                done.put((task, error))

    threads: list[Thread] = []
    try:
        pending = 0
        for task in islice(remaining, 2 * workers):
            todo.put((task,))
            pending += 1
            if len(threads) < workers:
                # Threads do not inherit context variables, in which Metaxy keeps its active graph.
                context = contextvars.copy_context()
                # A daemon, since others hold up the end of an interrupted process.
                thread = Thread(target=context.run, args=(serve,), name="compute", daemon=True)
                thread.start()
                threads.append(thread)
        while pending:
            try:
                task, result = done.get(timeout=tick)
            except Empty:
                yield None
                continue
            pending -= 1
            for following in islice(remaining, 1):
                todo.put((following,))
                pending += 1
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            yield task, result
    except GeneratorExit:
        _end(todo, threads)
        for thread in threads:
            thread.join()
        raise
    finally:
        _end(todo, threads)


def _end(todo: SimpleQueue, threads: list[Thread]) -> None:
    """Have threads end after what they do now; what nobody has taken is not begun."""
    while not todo.empty():
        try:
            todo.get_nowait()
        except Empty:
            break
    for _ in threads:
        todo.put(None)
