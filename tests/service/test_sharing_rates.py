# SPDX-License-Identifier: Apache-2.0
"""The limit of calls per owner and minute, against a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import RateLimited
from waggle.service.sharing import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def passes(rates: RateLimiter, owner: str = "ann") -> bool:
    try:
        rates.take(owner)
    except RateLimited:
        return False
    return True


def test_a_burst_passes_and_then_calls_pass_at_the_rate() -> None:
    clock = Clock()
    rates = RateLimiter(6, clock)
    assert [passes(rates) for _ in range(8)] == [True] * 6 + [False] * 2
    assert passes(rates, "bob")  # each owner has a separate bucket
    with pytest.raises(RateLimited) as caught:
        rates.take("ann")
    assert caught.value.retry_after == 10
    assert caught.value.retryable
    assert "10 s" in caught.value.hint
    clock.seconds += 9.5
    assert not passes(rates)
    clock.seconds += 0.5
    assert [passes(rates), passes(rates)] == [True, False]
    clock.seconds += 3600
    assert [passes(rates) for _ in range(7)] == [True] * 6 + [False]


def test_zero_means_no_limit() -> None:
    rates = RateLimiter(0, Clock())
    assert all(passes(rates) for _ in range(1000))


def test_idle_owners_are_forgotten() -> None:
    clock = Clock()
    rates = RateLimiter(60, clock)
    for number in range(20_000):
        clock.seconds += 0.5
        rates.take(f"owner {number}")
    assert len(rates._full_at) <= 4096


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=60))
def test_at_most_twice_the_limit_passes_in_a_minute_and_the_wait_is_right(
    per_minute: int, pauses: list[float]
) -> None:
    clock = Clock()
    rates = RateLimiter(per_minute, clock)
    passed: list[float] = []
    for pause in pauses:
        clock.seconds += pause
        try:
            rates.take("ann")
        except RateLimited as refusal:
            clock.seconds += refusal.retry_after or 0
            rates.take("ann")
        passed.append(clock.seconds)
    for start in passed:
        assert sum(start <= at < start + 60 for at in passed) <= 2 * per_minute
