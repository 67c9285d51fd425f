# SPDX-License-Identifier: Apache-2.0
"""Thinning: one line a second of every kind, with the number of omitted ones."""

from __future__ import annotations

from tests.infra.observe.parts import Seconds

from waggle.infra.observe.audit import Thinning


def thinned() -> tuple[Thinning[str], list[tuple[str, int]], Seconds]:
    passed_on: list[tuple[str, int]] = []
    seconds = Seconds()
    return Thinning(lambda item, more: passed_on.append((item, more)), seconds), passed_on, seconds


def test_the_first_is_reported_at_once_and_the_rest_as_a_count() -> None:
    thinning, passed_on, seconds = thinned()
    for number in range(265):
        thinning("a", f"item {number}")
    assert passed_on == [("item 0", 0)]
    seconds.pass_one()
    assert passed_on == [("item 0", 0), ("item 264", 263)]
    thinning("a", "next")
    assert len(passed_on) == 2, "that was this second's line"
    seconds.pass_one()
    assert passed_on[2:] == [("next", 0)]


def test_265_events_a_second_are_one_line_a_second() -> None:
    """265 lines a second were 6.5 GiB a day."""
    thinning, passed_on, seconds = thinned()
    for _ in range(100):
        for _ in range(265):
            thinning("a", "x")
        seconds.pass_one()
    assert len(passed_on) == 101
    assert sum(more + 1 for _, more in passed_on) == 100 * 265


def test_kinds_are_thinned_separately_and_forgotten_when_quiet() -> None:
    thinning, passed_on, seconds = thinned()
    for kind in ("a", "b"):
        thinning(kind, kind)
        thinning(kind, kind)
    assert passed_on == [("a", 0), ("b", 0)]
    for _ in range(3):
        seconds.pass_one()
    assert passed_on[2:] == [("a", 0), ("b", 0)]
    assert not seconds.due, "no timer runs for quiet kinds"
    thinning("a", "again")
    assert passed_on[-1] == ("again", 0)


def test_flush_reports_what_was_only_counted() -> None:
    thinning, passed_on, seconds = thinned()
    for item in "xyz":
        thinning("a", item)
    thinning.flush()
    thinning.flush()
    assert passed_on == [("x", 0), ("z", 1)]
    seconds.pass_one()
    assert len(passed_on) == 2
