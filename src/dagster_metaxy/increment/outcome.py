"""What an update of a feature did."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster_metaxy.increment.plan import Plan

_PACKAGE = __name__.partition(".")[0]


def _is_library(filename: str) -> bool:
    return "site-packages" in filename or f"{os.sep}{_PACKAGE}{os.sep}" in filename


class UpdateError(Exception):
    """An update that cannot go on; what it wrote until then is in the store."""


def sample_name(ids: Mapping[str, Any]) -> str:
    """The ids of a sample, as one writes them: `a=1, b=2`."""
    return ", ".join(f"{column}={value}" for column, value in ids.items())


@dataclass(frozen=True)
class FailedSample:
    """A sample whose compute failed.

    Attributes:
        sample: Its id columns, by name.
        error: Name of the exception's class.
        message: The exception's message.
        where: File and line of a compute that raised it; empty where the message says it all.
        partition: The key of the partition that it belongs to, if any.
    """

    sample: Mapping[str, Any]
    error: str
    message: str
    where: str = ""
    partition: str | None = None

    @classmethod
    def of(cls, sample: Mapping[str, Any], error: Exception) -> FailedSample:
        """The failure of a sample by an exception."""
        where = ""
        frames = traceback.extract_tb(error.__traceback__)
        # Errors of this package's own are about the data, and say what is wrong with it.
        if frames and not type(error).__module__.startswith(_PACKAGE):
            last = next((f for f in reversed(frames) if not _is_library(f.filename)), frames[-1])
            where = f"{last.filename}:{last.lineno}"
        return cls(sample, type(error).__name__, str(error), where)

    @property
    def name(self) -> str:
        """The sample's ids, as one writes them."""
        return sample_name(self.sample)

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.error}: {self.message}{where}"


@dataclass
class Counts:
    """Samples by what was found and done, in one partition or in all."""

    new: int = 0
    stale: int = 0
    orphaned: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Cost:
    """What computing a sample took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Processor time of the thread.
        bytes_written: Size of the artifacts.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_written: int = 0


@dataclass
class Costs:
    """What computing took in all, and which samples took most.

    Attributes:
        total: The sum.
        dearest: The ten samples that took longest, the longest first.
    """

    total: Cost = field(default_factory=Cost)
    dearest: list[tuple[str, Cost]] = field(default_factory=list)

    def add(self, name: str, cost: Cost) -> None:
        """Add what a sample took."""
        self.total = Cost(
            self.total.seconds + cost.seconds,
            self.total.cpu_seconds + cost.cpu_seconds,
            self.total.bytes_written + cost.bytes_written,
        )
        if len(self.dearest) < 10 or cost.seconds > self.dearest[-1][1].seconds:
            self.dearest.append((name, cost))
            self.dearest.sort(key=lambda item: -item[1].seconds)
            del self.dearest[10:]


@dataclass
class Outcome:
    """What an update of a feature did.

    Samples are those of the upstream: where one video gives many frames, a stale video counts
    as one.

    Attributes:
        total: Counts over all samples.
        partitions: Counts by partition key, for the partitions in which anything was to do.
        failed: The samples that failed, with their errors.
        up_to_date: Partition keys in which no sample is left to do, and none failed.
        blocked: Whether an upstream has no rows yet, so that nothing could be done.
        written: Rows written.
        kept: Samples that were computed and are in the store.
        seconds: Wall time of the whole update.
        notes: Sentences that the reader of the result should see.
        plan: What was to be done, and why; None where nothing can be said.
        costs: What computing took.
    """

    total: Counts = field(default_factory=Counts)
    partitions: dict[str, Counts] = field(default_factory=dict)
    failed: list[FailedSample] = field(default_factory=list)
    up_to_date: set[str] = field(default_factory=set)
    blocked: bool = False
    written: int = 0
    kept: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    plan: Plan | None = None
    costs: Costs = field(default_factory=Costs)

    def cost(self, name: Mapping[str, Any], cost: Cost) -> None:
        """Take note of what a sample took."""
        self.costs.add(sample_name(name), cost)

    def count(self, what: str, partition: str | None) -> None:
        """Count one sample as `what`, a name of `Counts`, in all and in its partition."""
        counts = [self.total]
        if partition is not None:
            counts.append(self.partitions.setdefault(partition, Counts()))
        for c in counts:
            setattr(c, what, getattr(c, what) + 1)

    def settle(self, keys: Collection[str | None]) -> None:
        """Of the partitions that were brought up to date, remember those in which none failed."""
        done = {key for key in keys if key is not None}
        self.up_to_date |= {key for key in done if not self.partitions.get(key, Counts()).failed}

    def fail(self, failure: FailedSample, partition: str | None) -> None:
        """Remember a failed sample."""
        self.failed.append(replace(failure, partition=partition))
        self.count("failed", partition)

    def is_first(self, failure: FailedSample) -> bool:
        """Whether nothing failed yet with this error at this place."""
        return bool(failure.where) and not any(
            (f.error, f.where) == (failure.error, failure.where) for f in self.failed
        )

    @property
    def summary(self) -> str:
        """One line for logs."""
        t = self.total
        return (
            f"{t.new} new, {t.stale} stale, {t.orphaned} orphaned, {t.failed} failed;"
            f" {self.written} rows written in {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Pending:
    """What is left to do for a feature; nothing of it is done.

    Samples are those of the upstream, by their ids, as in `Outcome`.

    Attributes:
        new: Samples that are not there yet.
        stale: Samples whose input or code has changed since they were computed.
        orphaned: Samples whose upstream, or source, is gone.
        unknown: Samples whose upstream has not run since its code version changed.
        notes: Sentences on what could not be told, and why.
    """

    new: Sequence[Mapping[str, Any]] = ()
    stale: Sequence[Mapping[str, Any]] = ()
    orphaned: Sequence[Mapping[str, Any]] = ()
    unknown: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
