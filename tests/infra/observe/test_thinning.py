# SPDX-License-Identifier: Apache-2.0
"""Thinning: one line a second of every kind, with the number of omitted ones."""

from __future__ import annotations

from tests.infra.observe.parts import Seconds

from waggle.infra.observe.audit import Thinning


def thinned() -> tuple[Thinning[str], list[tuple[str, int]], Seconds]:
    said: list[tuple[str, int]] = []
    seconds = Seconds()
    return Thinning(lambda item, more: said.append((item, more)), seconds), said, seconds


def test_the_first_is_reported_at_once_and_the_rest_as_a_count() -> None:
    tell, said, seconds = thinned()
    for number in range(265):
        tell("a", f"item {number}")
    assert said == [("item 0", 0)]
    seconds.pass_one()
    assert said == [("item 0", 0), ("item 264", 263)]
    tell("a", "next")
    assert len(said) == 2, "that was this second's line"
    seconds.pass_one()
    assert said[2:] == [("next", 0)]


def test_265_events_a_second_are_one_line_a_second() -> None:
    """265 lines a second were 6.5 GiB a day."""
    tell, said, seconds = thinned()
    for _ in range(100):
        for _ in range(265):
            tell("a", "x")
        seconds.pass_one()
    assert len(said) == 101
    assert sum(more + 1 for _, more in said) == 100 * 265


def test_kinds_are_thinned_separately_and_forgotten_when_quiet() -> None:
    tell, said, seconds = thinned()
    for kind in ("a", "b"):
        tell(kind, kind)
        tell(kind, kind)
    assert said == [("a", 0), ("b", 0)]
    for _ in range(3):
        seconds.pass_one()
    assert said[2:] == [("a", 0), ("b", 0)]
    assert not seconds.due, "no timer runs for those who are quiet"
    tell("a", "again")
    assert said[-1] == ("again", 0)


def test_flush_reports_what_was_only_counted() -> None:
    tell, said, seconds = thinned()
    for item in "xyz":
        tell("a", item)
    tell.flush()
    tell.flush()
    assert said == [("x", 0), ("z", 1)]
    seconds.pass_one()
    assert len(said) == 2
