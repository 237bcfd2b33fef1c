"""Which samples that failed are tried again by themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dagster_metaxy.increment.outcome import FailedSample


@dataclass(frozen=True)
class Quarantine:
    """Holds back samples whose input and code are those that failed.

    Attributes:
        transient: Names of error classes, with or without their modules, that may pass: of the
            network, of a server that is away. Classes that inherit from them count.
        max_attempts: How often, in all, a sample with such an error is tried.
    """

    transient: Collection[str] = ()
    max_attempts: int = 3

    def holds(self, failure: FailedSample) -> bool:
        """Whether a sample that failed like this is held back."""
        may_pass = failure.is_one_of(self.transient)
        return not (may_pass and failure.attempts < self.max_attempts)
