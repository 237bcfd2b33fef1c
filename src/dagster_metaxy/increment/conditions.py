"""Conditions on samples, as SQL writes them."""

from __future__ import annotations

import re
from typing import Any

from dagster_metaxy.increment.outcome import UpdateError


class ConditionError(UpdateError):
    """A condition that cannot be read, or not be applied."""


def parsed(condition: str) -> Any:
    """The narwhals expression of a condition.

    Args:
        condition: As Metaxy reads it: `video_id = 'bikes' AND duration > 3`.

    Raises:
        ConditionError: It is none.
    """
    # Metaxy calls it public, and keeps it below its models.
    from metaxy.models.filter_expression import parse_filter_string

    try:
        return parse_filter_string(condition)
    except ValueError as error:
        # Of pydantic and sqlglot: what was wrong is in one line of several, and underlined.
        lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
        reason = next((line for line in lines if "Value error, " in line), lines[0]).strip()
        reason = reason.removeprefix("Value error, ").partition(" [type=")[0].rstrip(".")
        raise ConditionError(
            f"the filter {condition!r} is no condition that Metaxy reads ({reason}); write it like"
            " \"video_id = 'bikes' AND duration > 3\""
        ) from None
