# SPDX-License-Identifier: Apache-2.0
"""Which connection goes when there are too many, and whose requests are refused."""

from __future__ import annotations

from waggle.web.connections import YOUNG_SECONDS, ConnectionLimits, Connections

HERE, THERE = "192.0.2.1", "198.51.100.7"


class Lines:
    """Connections by number, and the clock."""

    def __init__(self, connections: int = 10, unknown: int = 10, owner: int = 10) -> None:
        self.now = 0.0
        limits = ConnectionLimits(connections, unknown, owner)
        self.all = Connections[int](limits, lambda: self.now)
        self.count = 0

    def open(self, number: int, address: str = HERE) -> list[int]:
        return self.all.opened(number, address)

    def served(self, number: int, owner: str) -> None:
        """A request on it is answered."""
        assert self.all.begins(number)
        assert self.all.let_in(number, owner)
        self.all.ends(number)


def test_whoever_has_the_most_idle_ones_loses_the_oldest() -> None:
    lines = Lines(connections=4)
    for number in (1, 2, 3, 4):
        assert lines.open(number) == []
    for number, owner in ((1, "b"), (2, "a"), (3, "a"), (4, "a")):
        lines.served(number, owner)
    assert lines.open(5) == [2]
    assert lines.open(6) == [3]
    assert len(lines.all) == 4
    lines.all.closed(2)  # as its protocol says afterwards
    assert len(lines.all) == 4


def test_nobodys_are_fewer_and_of_each_address_alike() -> None:
    lines = Lines(unknown=3)
    for number, address in ((1, THERE), (2, HERE), (3, HERE)):
        assert lines.open(number, address) == []
    assert lines.open(4) == []  # all are young
    lines.now = YOUNG_SECONDS
    assert lines.open(5) == [2]
    lines.served(3, "a")
    assert lines.open(6, THERE) == [4]


def test_an_address_of_ipv6_is_one_of_64_bits() -> None:
    lines = Lines(connections=3)
    for number, address in ((1, "2001:db8::1"), (2, "2001:db8::2"), (3, "2001:db8:1::1")):
        assert lines.open(number, address) == []
    assert lines.open(4, "2001:db8::3") == [1]


def test_what_is_served_stays() -> None:
    lines = Lines(connections=2)
    for number in (1, 2):
        lines.open(number)
        assert lines.all.begins(number)
    assert lines.open(3) == []  # there is none that is idle
    lines.all.ends(1)
    assert lines.open(4) == [3]
    assert lines.open(5) == [1]


def test_requests_over_the_limit_are_refused_and_it_is_remembered() -> None:
    lines = Lines(connections=2)
    for number in (1, 2):
        lines.open(number)
        assert lines.all.begins(number)
        assert lines.all.begins(number)  # a second one sent at once waits for the first
    assert not lines.all.full
    lines.open(3)
    assert not lines.all.begins(3)
    assert lines.all.full
    lines.now = 60
    assert not lines.all.full


def test_an_owner_has_so_many_at_once() -> None:
    lines = Lines(owner=1)
    for number in (1, 2):
        lines.open(number)
        assert lines.all.begins(number)
    assert lines.all.let_in(1, "a")
    assert not lines.all.let_in(2, "a")
    lines.all.closed(1)
    assert lines.all.let_in(2, "a")
    assert lines.all.let_in(2, "b")
    assert lines.all.let_in(9, "a")  # it has closed meanwhile


def test_nothing_is_left_of_those_that_are_closed() -> None:
    lines = Lines(connections=1_000, unknown=1_000)
    for number in range(100):
        lines.open(number, f"192.0.2.{number}")
        if number % 3:
            assert lines.all.begins(number)
        if number % 6 == 1:
            lines.all.let_in(number, f"owner {number}")
    for number in range(100):
        lines.all.closed(number)
    assert len(lines.all) == 0
    assert not lines.all._idle
    assert not lines.all._busy
    assert lines.all._unknown == 0
