"""Calling a compute in another process: what is sent there, and what comes back."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from dagster_metaxy.declare.columns import RowShapeError
from dagster_metaxy.increment.compute import SignatureError, tell_nobody
from dagster_metaxy.increment.outcome import RemoteError, UpdateError
from dagster_metaxy.increment.store import StoreError, is_full_disk

if TYPE_CHECKING:
    from dagster_metaxy.increment.caller import Caller, Result
    from dagster_metaxy.increment.plan import Task

Record = tuple[int, str]
"""Level and message of a log line."""


class Remote:
    """A caller as it is sent to worker processes.

    Args:
        caller: What is called there.

    Raises:
        UpdateError: The compute, a constant or a resource of it cannot be sent.
    """

    def __init__(self, caller: Caller) -> None:
        compute, runtime = caller.compute, caller.runtime
        key = caller.feature.key
        try:
            compute.check_sendable()
        except SignatureError as error:
            raise UpdateError(f"{key}: {error}") from None
        for what, values in (("resource", runtime.resources), ("constant", compute.params)):
            for name, value in values.items():
                try:
                    pickle.dumps(value)
                except Exception as error:
                    raise UpdateError(
                        f"{key}: the {what} {name!r} cannot be sent to a process ({error}): make it"
                        " where it is used, such as in the `__init__` of a class that is the compute,"
                        " or use `engine: threads`"
                    ) from error
        self._caller = replace(
            caller,
            runtime=replace(runtime, log=None, tell=tell_nobody, companions=()),
            # Of polars, which takes a third of a second to import.
            schema=caller.schema if compute.is_batch else {},
        )

    def prepare(self) -> None:
        """Make the instance of a class, once per worker."""
        with suppress(Exception):  # it is raised again by every sample, and told there
            self._caller.compute.prepare()

    def __call__(self, tasks: Sequence[Task]) -> tuple[list[Result], list[Record]]:
        """What the caller gives, and what was logged meanwhile."""
        kept = _Kept()
        log = logging.Logger("compute", logging.DEBUG)
        log.addHandler(kept)
        caller = replace(self._caller, runtime=replace(self._caller.runtime, log=log))
        return [_sendable(result) for result in caller(tasks)], kept.records


class _Kept(logging.Handler):
    """Keeps log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.levelno, self.format(record)))


def _sendable(result: Result) -> Result:
    """The same result: an exception of a compute cannot be sent, its traceback even less."""
    error = result.error
    if error is None or isinstance(error, RowShapeError | SignatureError | UpdateError):
        return result
    if is_full_disk(error):
        return replace(result, error=StoreError(str(error)))
    return replace(result, error=RemoteError.of(error))
