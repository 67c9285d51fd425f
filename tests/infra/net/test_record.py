# SPDX-License-Identifier: Apache-2.0
"""The record of a proxy: grouped, bounded, with times, and cheap under a flood."""

from __future__ import annotations

import time

from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.network.decisions import ALLOWED, Decision, Ended
from waggle.domain.network.use import MOST_REMEMBERED, NetworkUse
from waggle.infra.net.record import Heard, Record

FLOOD = 100_000


class World:
    """A record with its clock, and what it passed on."""

    def __init__(self) -> None:
        self.now = 100.0
        self.decisions: list[Decision] = []
        self.ends: list[Ended] = []
        self.record = Record(Heard(self.decisions.append, self.ends.append), lambda: self.now)

    def use(self) -> NetworkUse:
        return self.record.use(PUBLIC_NETWORK, sent=7, received=9)


def denied(host: str) -> Decision:
    return Decision(host, 443, "no-rule", "no rule allows it")


def allowed(host: str, address: str = "8.8.8.8") -> Decision:
    return Decision(host, 443, ALLOWED, "", "*.test", address)


def test_equal_decisions_are_one_group_with_a_count_and_the_time_of_the_last() -> None:
    world = World()
    for host in ("a.test", "b.test", "a.test"):
        world.record.decided(denied(host))
        world.now += 10
    use = world.use()
    assert [(one.decision.host, one.count, one.ago) for one in use.denied] == [
        ("b.test", 1, 20.0),
        ("a.test", 2, 10.0),
    ]
    assert [one.host for one in use.denied_within(15)] == ["a.test"]
    assert use.denied_within(5) == ()
    assert (use.refused, use.connections, use.sent, use.received) == (3, 0, 7, 9)
    assert len(world.decisions) == 3


def test_connections_to_one_name_are_one_group_whatever_its_address() -> None:
    world = World()
    for address in ("8.8.8.8", "8.8.4.4"):
        world.record.decided(allowed("a.test", address))
        world.record.ended(Ended(allowed("a.test", address), 1.5, 100, 2_000))
    (one,) = world.use().allowed
    assert world.use().reached_within(5) == ("a.test",)
    assert (one.decision.address, one.count, one.sent, one.received) == ("8.8.4.4", 2, 200, 4_000)
    assert len(world.ends) == 2


def test_a_flood_is_counted_and_does_not_drive_out_the_other_kind() -> None:
    world = World()
    world.record.decided(allowed("a.test"))
    began = time.process_time()
    for number in range(FLOOD):
        world.record.decided(denied(f"{number}.test"))
    assert time.process_time() - began < FLOOD * 50e-6
    use = world.use()
    assert (len(use.denied), use.refused) == (MOST_REMEMBERED, FLOOD)
    assert use.denied[-1].decision.host == f"{FLOOD - 1}.test"
    assert [one.decision.host for one in use.allowed] == ["a.test"]


def test_the_end_of_a_connection_that_is_forgotten_is_passed_on() -> None:
    world = World()
    world.record.ended(Ended(allowed("a.test"), 1.0, 1, 1))
    assert (world.use().allowed, len(world.ends)) == ((), 1)
    assert world.use().is_empty


def test_another_record_goes_on_where_one_ended() -> None:
    """As when the machine of an environment is restarted: another proxy, and another clock."""
    before, after = World(), World()
    for host in ("a.test", "b.test", "a.test"):
        before.record.decided(denied(host))
        before.now += 10
    before.record.decided(allowed("c.test"))
    before.record.ended(Ended(allowed("c.test"), 1.5, 100, 2_000))
    after.now = 5_000.0
    after.record.remember(before.use())
    assert after.use() == before.use()
    after.record.decided(denied("b.test"))
    after.record.decided(allowed("c.test"))
    use = after.use()
    assert [(one.decision.host, one.count, one.ago) for one in use.denied] == [
        ("a.test", 2, 10.0),
        ("b.test", 2, 0.0),
    ]
    assert [(one.count, one.sent, one.received) for one in use.allowed] == [(2, 100, 2_000)]
    assert (use.refused, use.connections) == (4, 2)
    assert [one.host for one in after.decisions] == ["b.test", "c.test"]  # nothing is logged again


def test_a_record_that_goes_on_is_bounded() -> None:
    before, after = World(), World()
    for number in range(MOST_REMEMBERED):
        before.record.decided(denied(f"{number}.test"))
    after.record.remember(before.use())
    for number in range(MOST_REMEMBERED):
        after.record.decided(denied(f"new-{number}.test"))
    assert len(after.use().denied) == MOST_REMEMBERED
    assert after.use().denied[0].decision.host == "new-0.test"
    assert after.use().refused == 2 * MOST_REMEMBERED
