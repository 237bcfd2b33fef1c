"""Dagster's beta API, as far as this package has chosen to use it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def chosen_beta() -> Iterator[None]:
    """Without warnings that are no matter of who uses this package: Dagster would say at every load,
    and in front of every plan, that something is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
