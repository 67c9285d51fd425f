# SPDX-License-Identifier: Apache-2.0
"""Conversion of a minute's load into rows of the table."""

from __future__ import annotations

import pytest
from benchmarks.load import Load, percentile, results, thirds


@pytest.mark.parametrize(
    "count, share, value", [(100, 0.99, 99), (200, 0.99, 198), (1, 0.99, 1), (10, 0.99, 10)]
)
def test_a_percentile_is_one_of_the_values(count: int, share: float, value: int) -> None:
    assert percentile([*range(count, 0, -1)], share) == value


def test_the_first_third_of_the_memory_does_not_count() -> None:
    assert thirds([900, 900, 900, 10, 20, 30, 40, 50, 60]) == (20, 50)


def test_a_load_becomes_rows() -> None:
    memory = [0] * 10 + [100_000_000] * 10 + [101_000_000] * 10
    load = Load(seconds=[0.1] * 98 + [0.3] * 2, errors=["status lost"], memory=memory)
    errors, p99, grown = results(load)
    assert (errors.value, round(p99.value, 2), grown.value) == (1, 3.0, 1.0)
    assert "the first: status lost" in errors.how
