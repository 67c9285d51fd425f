# SPDX-License-Identifier: Apache-2.0
"""Limits of connections: which idle connection is closed, and which requests are refused."""

from __future__ import annotations

from waggle.web.connections import YOUNG_SECONDS, ConnectionLimits, Connections

HERE, THERE = "192.0.2.1", "198.51.100.7"


class Lines:
    """Connections by number, and a clock."""

    def __init__(self, connections: int = 10, unknown: int = 10, owner: int = 10) -> None:
        self.now = 0.0
        limits = ConnectionLimits(connections, unknown, owner)
        self.all = Connections[int](limits, lambda: self.now)
        self.count = 0

    def open(self, number: int, address: str = HERE) -> list[int]:
        return self.all.opened(number, address)

    def served(self, number: int, owner: str) -> None:
        """Answer a request on a connection."""
        assert self.all.begins(number)
        assert self.all.let_in(number, owner)
        self.all.ends(number)


def test_the_owner_with_the_most_idle_connections_loses_the_oldest() -> None:
    lines = Lines(connections=4)
    for number in (1, 2, 3, 4):
        assert lines.open(number) == []
    for number, owner in ((1, "b"), (2, "a"), (3, "a"), (4, "a")):
        lines.served(number, owner)
    assert lines.open(5) == [2]
    assert lines.open(6) == [3]
    assert len(lines.all) == 4
    lines.all.closed(2)  # as its protocol reports afterwards
    assert len(lines.all) == 4


def test_unowned_connections_are_limited_and_shared_by_address() -> None:
    lines = Lines(unknown=3)
    for number, address in ((1, THERE), (2, HERE), (3, HERE)):
        assert lines.open(number, address) == []
    assert lines.open(4) == []  # all are young
    lines.now = YOUNG_SECONDS
    assert lines.open(5) == [2]
    lines.served(3, "a")
    assert lines.open(6, THERE) == [4]


def test_ipv6_addresses_count_by_their_first_64_bits() -> None:
    lines = Lines(connections=3)
    for number, address in ((1, "2001:db8::1"), (2, "2001:db8::2"), (3, "2001:db8:1::1")):
        assert lines.open(number, address) == []
    assert lines.open(4, "2001:db8::3") == [1]


def test_a_connection_with_a_request_is_not_closed() -> None:
    lines = Lines(connections=2)
    for number in (1, 2):
        lines.open(number)
        assert lines.all.begins(number)
    assert lines.open(3) == []  # no connection is idle
    lines.all.ends(1)
    assert lines.open(4) == [3]
    assert lines.open(5) == [1]


def test_requests_over_the_limit_are_refused_and_recorded() -> None:
    lines = Lines(connections=2)
    for number in (1, 2):
        lines.open(number)
        assert lines.all.begins(number)
        assert lines.all.begins(number)  # a second request sent at once waits for the first
    assert not lines.all.full
    lines.open(3)
    assert not lines.all.begins(3)
    assert lines.all.full
    lines.now = 60
    assert not lines.all.full


def test_an_owner_has_a_limit_of_concurrent_requests() -> None:
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


def test_nothing_is_kept_of_closed_connections() -> None:
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
