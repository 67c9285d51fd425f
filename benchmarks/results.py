# SPDX-License-Identifier: Apache-2.0
"""Conversion of comparisons to lines of the table. Pure."""

from __future__ import annotations

from benchmarks.figures import Comparison, seconds
from benchmarks.table import Result


def ratio(key: str, comparison: Comparison) -> Result:
    """Return the result of a row that is a ratio."""
    return Result(
        key,
        comparison.ratio,
        ours=seconds(comparison.ours),
        theirs=seconds(comparison.theirs),
        how=f"{comparison.rounds} rounds, half within {comparison.low:.2f} to "
        f"{comparison.high:.2f}",
    )
