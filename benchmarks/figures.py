# SPDX-License-Identifier: Apache-2.0
"""Reduction of many times to one figure. Pure.

A ratio is the median of the ratios of all rounds: both sides of a round saw the same machine, so
other load cancels out, and one disturbed round changes nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_SURE = 3.0
"""Standard deviations."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of the same rounds. Seconds are medians; `low` to `high` holds half the rounds."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    rounds: int


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Compare round by round. Raises ValueError unless both have the same rounds, at least one."""
    if not ours or len(ours) != len(theirs):
        raise ValueError("both sides need the same number of rounds, at least one")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, high = _middle_half(ratios)
    return Comparison(
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        rounds=len(ratios),
    )


def is_surely_at_most(limit: float, ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether these rounds leave no doubt that the ratio is at most `limit`.

    A sign test, for which spread and outliers do not count: if the true median were higher, less
    than half the rounds would be expected at most at the limit, and so many not once in 700 times.
    """
    pairs = zip(ours, theirs, strict=True)
    below = sum(a <= b * limit for a, b in pairs)
    rounds = len(ours)
    return rounds > 0 and below >= rounds / 2 + _SURE * math.sqrt(rounds) / 2


def _middle_half(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def seconds(value: float) -> str:
    """Format a time with three digits, in the unit that reads best."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{_three_digits(value * factor)} {unit}"
    raise AssertionError(value)


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"
