"""Reading a file, in whatever process: without Dagster, which takes a second to import."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dagster_metaxy import locations
from dagster_metaxy.increment.outcome import Cost, Meter, RemoteError
from dagster_metaxy.increment.plan import Task

if TYPE_CHECKING:
    from dagster_metaxy.media.identify import Identity


def read(
    work: tuple[str, locations.Cache | None, Task],
) -> tuple[Identity, locations.Status, Cost]:
    """What a file's streams hold, which file that was, and what reading them took.

    Raises:
        RemoteError: It cannot be read: an OSError where it is out of reach, and not broken. As such,
            since not all errors of media libraries can be sent to another process.
    """
    from dagster_metaxy.media.identify import identify

    meter = Meter()
    location, cache, _ = work
    try:
        identity, status = locations.read(location, identify, cache)
        return identity, status, meter.cost()
    except Exception as error:
        cause = error.__cause__
        error = cause if isinstance(cause, OSError) else error
        found = RemoteError.of(error)
        if isinstance(error, OSError) and error.strerror:  # without its number
            told = f"{location}: {error.strerror}"
            found = RemoteError(replace(found.failure, message=told), *found.args[1:])
        raise found from None
