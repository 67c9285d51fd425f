# SPDX-License-Identifier: Apache-2.0
"""Turns of a loop shared among connections: a bound for all together, and fairness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from waggle.infra.ssh.bounds import TURN, Turns, turns_of


class Loop:
    """A clock that only work moves, and the calls for the next turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> float:
        """Run one turn and return its duration."""
        began, calls, self.soon = self.now, self.soon, []
        for call in calls:
            call()
        return self.now - began


class Busy:
    """A connection with `packets` left, a millisecond per packet."""

    def __init__(self, name: str, packets: int, loop: Loop, done: list[str]) -> None:
        self._name, self._left, self._loop, self._done = name, packets, loop, done

    def work(self, deadline: float) -> bool:
        while self._left and self._loop.now < deadline:
            self._left -= 1
            self._loop.now += 0.001
            self._done.append(self._name)
        return self._left > 0


def test_all_connections_together_take_the_time_of_one_turn() -> None:
    loop, done = Loop(), list[str]()
    turns = Turns(loop.call_soon, lambda: loop.now)
    for name in "abcdefgh":
        turns.want(Busy(name, 1000, loop, done))
    for _ in range(20):
        assert loop.turn() <= TURN + 0.001


def test_a_connection_with_little_work_waits_for_one_round_of_the_others() -> None:
    loop, done = Loop(), list[str]()
    turns = Turns(loop.call_soon, lambda: loop.now)
    for name in "abc":
        turns.want(Busy(name, 1000, loop, done))
    turns.want(Busy("z", 1, loop, done))
    while "z" not in done:
        loop.turn()
    assert len(done) <= 4 * (TURN / 0.001 + 1)


def test_work_that_fits_is_done_at_once_without_a_turn() -> None:
    loop, done = Loop(), list[str]()
    turns = Turns(loop.call_soon, lambda: loop.now)
    for _ in range(3):
        turns.want(Busy("a", 1, loop, done))
    assert done == ["a", "a", "a"]
    assert loop.soon == []


def test_a_connection_that_asks_twice_works_once_a_turn() -> None:
    loop, done = Loop(), list[str]()
    turns = Turns(loop.call_soon, lambda: loop.now)
    turns.want(Busy("long", 4, loop, done))
    once = Busy("once", 1, loop, done)
    turns.want(once)
    turns.want(once)
    while loop.soon:
        loop.turn()
    assert done.count("once") == 1


def test_a_failing_connection_does_not_end_the_turns_of_the_others() -> None:
    class Broken:
        def work(self, deadline: float) -> bool:
            raise ValueError

    loop, done = Loop(), list[str]()
    turns = Turns(loop.call_soon, lambda: loop.now)
    turns.want(Busy("a", 10, loop, done))
    turns.want(Broken())
    for _ in range(2):
        with contextlib.suppress(ValueError):
            loop.turn()
    turns.want(Busy("b", 1, loop, done))
    while loop.soon:
        loop.turn()
    assert done.count("a") == 10
    assert done.count("b") == 1


@pytest.mark.anyio
async def test_a_loop_has_one_set_of_turns() -> None:
    loop = asyncio.get_running_loop()
    assert turns_of(loop) is turns_of(loop)
