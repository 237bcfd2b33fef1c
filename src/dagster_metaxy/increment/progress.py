"""How far an update is, told now and then."""

from __future__ import annotations

import time

from dagster_metaxy.increment.compute import Runtime

_SECONDS = 10.0


class Progress:
    """Counts what is done of an update, and tells it every ten seconds.

    Args:
        key: The feature key.
        total: How many samples there are.
        runtime: Whom to tell.
    """

    def __init__(self, key: str, total: int, runtime: Runtime) -> None:
        self._key = key
        self._total = total
        self._runtime = runtime
        self._done = 0
        self._failed = 0
        self._began = self._told = time.monotonic()

    def count(self, *, failed: bool = False) -> None:
        """Count a sample that is done, or failed."""
        self._done += 1
        self._failed += failed

    def tell(self) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        if now - self._told < _SECONDS:
            return
        self._told = now
        rate = self._done / (now - self._began)
        left = (self._total - self._done) / rate if rate else None
        failed = f", {self._failed} failed" if self._failed else ""
        fast = f", {rate:.3g} a second" if rate else ""
        then = f", about {duration(left)} left" if left else ""
        self._runtime.log.info(
            f"{self._key}: {self._done} of {self._total} samples done{failed}{fast}{then}"
        )
        self._runtime.tell(
            {
                "done": self._done,
                "total": self._total,
                "failed": self._failed,
                "samples_per_second": rate,
                **({} if left is None else {"seconds_left": left}),
            }
        )


def duration(seconds: float) -> str:
    """Some seconds, as one says them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
