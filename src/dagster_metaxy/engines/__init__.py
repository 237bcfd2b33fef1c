"""Where computes run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Literal, TypeVar

from dagster_metaxy.engines import local, processes

Task = TypeVar("Task")
Result = TypeVar("Result")

Engine = Literal["threads", "processes"]


def run(
    engine: Engine,
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    *,
    workers: int = 1,
    time_limit: Callable[[Task], float] | None = None,
) -> Generator[tuple[Task, Result | Exception] | None, None, None]:
    """Do `work` on every task in threads of this process, or in processes.

    See `local.run` and `processes.run`.

    Raises:
        ValueError: A time limit in threads.
    """
    if engine == "processes":
        return processes.run(tasks, work, workers=workers, time_limit=time_limit)
    if time_limit is not None:
        raise ValueError("a time limit needs processes, since a thread cannot be ended")
    return local.run(tasks, work, workers=workers)
