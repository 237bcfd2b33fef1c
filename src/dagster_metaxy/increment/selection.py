"""Which samples a run is about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_metaxy.declare.keys import PartitionError

Ids = tuple[Any, ...]
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Scope:
    """Which samples an update is about, and how they are counted.

    Attributes:
        key_of: The partition key of a sample; None where the feature is not partitioned.
        keys: Only samples of these partitions; None for all.
        follows_path: Whether the key is found in a path that ids were made from.
        columns: The columns of a sample that the key is found by.
    """

    key_of: Callable[[Sample], str] | None = None
    keys: Collection[str] | None = None
    follows_path: bool = False
    columns: Sequence[str] = ()

    def key(self, sample: Sample) -> str | None:
        """The partition key of a sample; none where it belongs to no partition."""
        try:
            return self.key_of(sample) if self.key_of else None
        except PartitionError:
            return None

    def covers(self, key: str | None) -> bool:
        """Whether samples with this partition key are to be brought up to date."""
        return self.keys is None or key in self.keys


@dataclass(frozen=True)
class Selection:
    """What a run was asked to do beside, or less than, what is new or stale.

    Attributes:
        force: Whether all samples are computed, or those that meet a condition, as SQL writes it.
        only: Names of samples (`video_id=bikes`, or the id alone where there is one): no other is
            computed, and none deleted.
        limit: At most so many samples are computed.
        subsample: This share of the samples, always the same ones.
        retry_quarantined: Whether quarantined samples are computed again.
    """

    force: bool | str = False
    only: Collection[str] = ()
    limit: int | None = None
    subsample: float | None = None
    retry_quarantined: bool = False

    def names(self, ids: Ids, name: str) -> bool:
        """Whether `only` names a sample."""
        return name in self.only or (len(ids) == 1 and str(ids[0]) in self.only)

    def named(self, samples: Iterable[tuple[Ids, str]]) -> set[str]:
        """The names of `only` that are those of some samples."""
        known = {
            known for ids, name in samples for known in (name, *map(str, ids[: len(ids) == 1]))
        }
        return known & {*self.only}

    def retries(self, ids: Ids, name: str) -> bool:
        """Whether a sample is asked for although it is quarantined: all are, or it is named."""
        return self.retry_quarantined or self.names(ids, name)

    def takes(self, ids: Ids, name: str) -> bool:
        """Whether a sample is among those that were asked for."""
        if self.only and not self.names(ids, name):
            return False
        if self.subsample is None:
            return True
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.subsample * 2**64
