"""Computes in threads of this process."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    tasks: Iterable[Task], work: Callable[[Task], Result], *, workers: int = 1
) -> Iterator[tuple[Task, Result | Exception]]:
    """Do `work` on every task, yielding each with its result, or with the exception it raised.

    Results come in the order in which they are ready. At most a few tasks per worker are under
    way or waiting to be taken, so memory does not grow with the number of tasks. With one worker
    all is done in the calling thread.

    Args:
        tasks: Taken one by one, as workers come free.
        work: Called once per task.
        workers: Number of threads.
    """
    if workers <= 1:
        for task in tasks:
            try:
                yield task, work(task)
            except Exception as error:
                yield task, error
        return

    remaining = iter(tasks)
    pending: dict[Future[Result], Task] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="compute")

    def submit(count: int) -> None:
        for task in islice(remaining, count):
            # Threads do not inherit context variables, in which Metaxy keeps its active graph.
            pending[pool.submit(contextvars.copy_context().run, work, task)] = task

    try:
        submit(2 * workers)
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                task = pending.pop(future)
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield task, error if error is not None else future.result()
            submit(len(done))
    finally:
        # An interrupted run does not wait for what has not begun.
        pool.shutdown(wait=True, cancel_futures=True)
