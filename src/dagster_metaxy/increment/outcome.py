"""What an update of a feature did."""

from __future__ import annotations

import datetime
import os
import time
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dagster_metaxy.declare.words import counted

if TYPE_CHECKING:
    from dagster_metaxy.increment.plan import Plan

_LONGEST_MESSAGE = 2_000
_NAMED = 3
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
        kinds: The exception's class and those it inherits from, with their modules.
        attempts: How often this version of it has failed.
        since: When it failed last.
    """

    sample: Mapping[str, Any]
    error: str
    message: str
    where: str = ""
    partition: str | None = None
    kinds: Sequence[str] = ()
    attempts: int = 1
    since: datetime.datetime | None = None

    @classmethod
    def of(cls, sample: Mapping[str, Any], error: Exception) -> FailedSample:
        """The failure of a sample by an exception."""
        if isinstance(error, RemoteError):
            return replace(error.failure, sample=sample)
        where = ""
        frames = traceback.extract_tb(error.__traceback__)
        # Errors of this package's own are about the data, and say what is wrong with it.
        if frames and not type(error).__module__.startswith(_PACKAGE):
            last = next((f for f in reversed(frames) if not _is_library(f.filename)), frames[-1])
            where = f"{last.filename}:{last.lineno}"
        kinds = [
            f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
            for kind in type(error).__mro__
            if issubclass(kind, Exception)
        ]
        message = str(error)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]} ..."
        return cls(sample, type(error).__name__, message, where, kinds=kinds)

    def is_one_of(self, names: Collection[str]) -> bool:
        """Whether its class, or one that it inherits from, is among names with or without module."""
        wanted = {name.removeprefix("builtins.") for name in names}
        return any(kind in wanted or kind.rpartition(".")[2] in wanted for kind in self.kinds)

    @property
    def name(self) -> str:
        """The sample's ids, as one writes them."""
        return sample_name(self.sample)

    @property
    def reason(self) -> str:
        """The error, and where it was raised."""
        where = f" ({self.where})" if self.where else ""
        return f"{self.error}: {self.message}{where}"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class RemoteError(Exception):
    """An exception that a compute raised in another process.

    Attributes:
        failure: What is told of it, but for the sample.
    """

    def __init__(self, failure: FailedSample, shown: str) -> None:
        super().__init__(failure, shown)
        self.failure = failure
        # Logs show causes: there, that is the traceback.
        self.__cause__ = _Traceback(shown)

    @classmethod
    def of(cls, error: Exception) -> RemoteError:
        """The same as `error`, as it can be sent."""
        return cls(FailedSample.of({}, error), "".join(traceback.format_exception(error)))

    def __str__(self) -> str:
        return f"{self.failure.error}: {self.failure.message}"


class _Traceback(Exception):
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass
class Counts:
    """Samples by what was found and done, in one partition or in all."""

    new: int = 0
    stale: int = 0
    orphaned: int = 0
    failed: int = 0
    quarantined: int = 0


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

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.bytes_written + other.bytes_written,
        )


@dataclass(frozen=True)
class ArtifactFile:
    """A file that the compute of a sample wrote.

    Attributes:
        name: Its path below the sample's folder.
        content_type: By the ending of its name, such as `image/jpeg`.
        bytes: Its size.
    """

    name: str
    content_type: str
    bytes: int


class Meter:
    """What computing takes, from when it is made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._processor = time.thread_time()

    def cost(self, samples: int = 1, files: Sequence[ArtifactFile] = ()) -> Cost:
        """The cost until now of each of some samples, with their artifacts."""
        return Cost(
            (time.perf_counter() - self._wall) / samples,
            (time.thread_time() - self._processor) / samples,
            sum(file.bytes for file in files),
        )


@dataclass
class Costs:
    """What computing took in all, and which samples took most.

    Attributes:
        samples: How many were computed.
        total: The sum.
        costliest: The ten samples that took longest, the longest first.
    """

    samples: int = 0
    total: Cost = field(default_factory=Cost)
    costliest: list[tuple[str, Cost]] = field(default_factory=list)

    def add(self, name: str, cost: Cost) -> None:
        """Add what a sample took."""
        self.samples += 1
        self.total += cost
        if len(self.costliest) < 10 or cost.seconds > self.costliest[-1][1].seconds:
            self.costliest.append((name, cost))
            self.costliest.sort(key=lambda item: -item[1].seconds)
            del self.costliest[10:]


@dataclass
class Outcome:
    """What an update of a feature did.

    Samples are those of the upstream: where one video gives many frames, a stale video counts
    as one.

    Attributes:
        total: Counts over all samples.
        partitions: Counts by partition key, for the partitions in which anything was to do.
        failed: The samples that failed, with their errors.
        quarantined: The samples that failed before and were not tried again, with their errors.
        up_to_date: Partition keys in which no sample is left to do, and none failed.
        blocked: Whether an upstream has no rows yet, so that nothing could be done.
        written: Rows written.
        kept: Samples that were computed and are in the store.
        seconds: Wall time of the whole update.
        notes: Sentences that the reader of the result should see.
        warnings: Those of the notes that tell of something to be mended.
        plan: What was to be done, and why; None where nothing can be said.
        remaining: What is left to do; None where it has to be looked up.
        costs: What computing took.
        artifacts: Number and bytes of the files that were written, by content type.
    """

    total: Counts = field(default_factory=Counts)
    partitions: dict[str, Counts] = field(default_factory=dict)
    failed: list[FailedSample] = field(default_factory=list)
    quarantined: list[FailedSample] = field(default_factory=list)
    up_to_date: set[str] = field(default_factory=set)
    blocked: bool = False
    written: int = 0
    kept: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    warnings: set[str] = field(default_factory=set)
    plan: Plan | None = None
    remaining: Plan | None = None
    costs: Costs = field(default_factory=Costs)
    artifacts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set, repr=False)

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

    def touch(self, keys: Iterable[str | None]) -> None:
        """Take note of partitions that got or lost samples without anything being computed."""
        for key in keys:
            if key is not None:
                self.partitions.setdefault(key, Counts())

    def settle(self, keys: Collection[str | None]) -> None:
        """Of the partitions that were brought up to date, remember those in which none failed."""
        done = {key for key in keys if key is not None}
        for key in done:
            counts = self.partitions.get(key, Counts())
            if not (counts.failed or counts.quarantined):
                self.up_to_date.add(key)

    def warn(self, note: str) -> None:
        """Add a note that tells of something to be mended."""
        self.notes.append(note)
        self.warnings.add(note)

    def fail(self, failure: FailedSample, partition: str | None) -> None:
        """Remember a failed sample."""
        self.failed.append(replace(failure, partition=partition))
        self.count("failed", partition)

    def hold(self, failure: FailedSample, partition: str | None) -> None:
        """Remember a quarantined sample."""
        self.quarantined.append(replace(failure, partition=partition))
        self.count("quarantined", partition)

    def tell_quarantined(self) -> None:
        """Warn that samples are held back, and say what to do, if there are any."""
        if not (count := len(self.quarantined)):
            return
        named = "; ".join(str(failure) for failure in self.quarantined[:_NAMED])
        named += "; ..." if count > _NAMED else ""
        held = counted(
            count,
            f"sample is quarantined ({named}): it",
            f"samples are quarantined ({named}): they",
        )
        self.warn(
            f"{held} failed before with the same input and code version; another input or code"
            " version, or a run with `retry_quarantined: true` in the config of this op, tries again"
        )

    def wrote(self, files: Sequence[ArtifactFile]) -> None:
        """Take note of the artifacts of a sample."""
        for file in files:
            number, size = self.artifacts.get(file.content_type, (0, 0))
            self.artifacts[file.content_type] = (number + 1, size + file.bytes)

    def is_first(self, failure: FailedSample) -> bool:
        """Whether nothing failed yet with this error at this place."""
        seen = (failure.error, failure.where) in self._seen
        self._seen.add((failure.error, failure.where))
        return bool(failure.where) and not seen

    @property
    def summary(self) -> str:
        """One line for logs."""
        t = self.total
        held = f", {t.quarantined} quarantined" if t.quarantined else ""
        return (
            f"{t.new} new, {t.stale} stale, {t.orphaned} orphaned, {t.failed} failed{held};"
            f" {counted(self.written, 'row', 'rows')} written in {self.seconds:.1f} s"
        )
