# SPDX-License-Identifier: Apache-2.0
"""One figure from many times: load on both sides, or on one round, does not show."""

from __future__ import annotations

import random

import pytest
from benchmarks.figures import compare, is_surely_at_most, seconds
from hypothesis import given
from hypothesis import strategies as st

times = st.floats(0.001, 1000)


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    found = compare([1.0, 2.0, 30.0], [1.0, 1.0, 10.0])
    assert (found.ours, found.theirs) == (2.0, 1.0)
    assert found.ratio == 2.0
    assert (found.low, found.high) == (1.5, 2.5)
    assert found.rounds == 3


@given(st.lists(times, min_size=1, max_size=20), st.floats(0.1, 10), st.data())
def test_a_machine_that_slows_both_sides_changes_no_ratio(
    theirs: list[float], factor: float, data: st.DataObject
) -> None:
    load = data.draw(st.lists(st.floats(1, 50), min_size=len(theirs), max_size=len(theirs)))
    slow = [time * each for time, each in zip(theirs, load, strict=True)]
    found = compare([time * factor for time in slow], slow)
    assert found.ratio == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


@given(st.lists(times, min_size=3, max_size=3), st.integers(0, 2), times)
def test_one_disturbed_round_of_three_changes_nothing(
    theirs: list[float], disturbed: int, took: float
) -> None:
    ours = list(theirs)
    ours[disturbed] = took
    assert compare(ours, theirs).ratio == pytest.approx(1)


@pytest.mark.parametrize("true, is_sure", [(0.9, True), (0.98, True), (1.02, False), (1.1, False)])
def test_enough_rounds_tell_which_side_is_faster_on_a_busy_machine(
    true: float, is_sure: bool
) -> None:
    """Both sides now and then take many times as long, and no two rounds are the same."""
    chance, ours, theirs = random.Random(7), list[float](), list[float]()
    for _ in range(3_000):
        load = chance.choice([1, 1, 1, 2, 30])
        ours.append(true * load * chance.lognormvariate(0, 0.15))
        theirs.append(load * chance.lognormvariate(0, 0.15))
    assert is_surely_at_most(1.0, ours, theirs) is is_sure


def test_few_rounds_tell_nothing() -> None:
    assert not is_surely_at_most(1.0, [], [])
    assert not is_surely_at_most(1.0, [0.5] * 8, [1.0] * 8)
    assert is_surely_at_most(1.0, [0.5] * 9, [1.0] * 9)
    assert not is_surely_at_most(1.0, [0.5, 1.5] * 500, [1.0, 1.0] * 500), "half of them"


@pytest.mark.parametrize("ours, theirs", [([], []), ([1.0], [1.0, 2.0])])
def test_sides_without_common_rounds_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        compare(ours, theirs)


@pytest.mark.parametrize(
    "value, shown",
    [
        (123.4, "123 s"),
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.9994, "999 ms"),
        (0.0123, "12.3 ms"),
        (0.00042, "420 µs"),
        (0.0, "0.00 µs"),
    ],
)
def test_times_are_formatted_with_units(value: float, shown: str) -> None:
    assert seconds(value) == shown
