# SPDX-License-Identifier: Apache-2.0
"""The host's resolver: its answers as addresses, its cache, and the sharing of lookups."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest
from tests.infra.net.names import Gate

from waggle.infra.net.guest_request import EgressLimits
from waggle.infra.net.lookups import MAX_ADDRESSES, Lookups, Patience, system_lookup
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import Address
from waggle.infra.net.resolver import (
    KEPT_SECONDS,
    MAX_KEPT,
    NAME_WAIT,
    NAMES_AT_ONCE,
    NAMES_PER_SECOND,
    NO_ANSWER_SECONDS,
    NO_NAME_SECONDS,
    Status,
    SystemResolver,
    TooManyNames,
)

if TYPE_CHECKING:
    from tests.infra.net.lab import Advance, OpenLab, Turns

pytestmark = pytest.mark.anyio
ONE = [ip_address("192.0.2.1")]


async def test_localhost_and_odd_spellings_are_found() -> None:
    resolve = SystemResolver(Lookups(system_lookup))
    assert ip_address("127.0.0.1") in await resolve("localhost")
    for spelling in ("127.1", "2130706433", "0x7f.0.0.1", "017700000001"):
        assert await resolve(spelling) == [ip_address("127.0.0.1")]


async def test_a_name_that_cannot_exist_is_an_os_error() -> None:
    resolve = SystemResolver(Lookups(system_lookup))
    for _ in range(2):
        with pytest.raises(OSError, match=r"\[Errno -\d\] .+"):
            await resolve("1.2.3.4.5")


def test_a_zone_is_kept_so_that_the_policy_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> list[object]:
        stream = (socket.AF_INET6, socket.SOCK_STREAM, 6, "")
        return [(*stream, ("fe80::1", 0, 0, 2)), (*stream, ("fe80::2%lo", 0, 0, 1))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    found = system_lookup("zone.test")
    assert found == [IPv6Address("fe80::1%2"), IPv6Address("fe80::2%lo")]


async def test_thousands_of_addresses_per_name_take_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attack: 4,000 addresses fit into an answer over TCP.

    Kept for 256 names they took 245 MB; now it is 0.4 MB.
    """
    rows = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"2001:4860::{n:x}", 0, 0, 0))
        for n in range(4_000)
    ]

    def answer(*_: object, **__: object) -> list[object]:
        return [*rows]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    resolve = SystemResolver(Lookups(system_lookup))
    tracemalloc.start()
    try:
        for number in range(MAX_KEPT):
            assert len(await resolve(f"{number}.test")) == MAX_ADDRESSES
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


async def test_fifty_concurrent_requests_for_a_name_need_one_lookup(turns: Turns) -> None:
    gate, now = Gate(), [0.0]
    resolve = SystemResolver(Lookups(gate, shared=0), now=lambda: now[0])
    calls = [asyncio.ensure_future(resolve("one.test")) for _ in range(50)]
    await turns()
    calls[0].cancel()  # the others still get the answer
    gate.open()
    assert await asyncio.gather(*calls[1:]) == [ONE] * 49
    assert gate.questions == ["one.test"]
    now[0] = KEPT_SECONDS - 0.1
    assert await resolve("one.test") == ONE
    assert gate.questions == ["one.test"]
    now[0] = KEPT_SECONDS
    assert await resolve("one.test") == ONE
    assert gate.questions == ["one.test"] * 2


def slowly(name: str) -> list[Address]:
    """Block for 0.3 to 1.5 s, and return where the lab's servers are."""
    time.sleep(0.3 + 1.2 * (int(name.partition(".")[0]) % 13) / 12)
    return [ip_address("127.0.0.1")]


@pytest.mark.parametrize("names,tunnels", [(1, 50), (50, 50), (200, 200)])
async def test_a_burst_of_tunnels_by_slow_names_is_served(
    open_lab: OpenLab, names: int, tunnels: int
) -> None:
    """The bug: 30 of 50 answered 504, when every request had its own lookup, eight at a time."""

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async with open_lab(EgressLimits(connections=tunnels)) as lab:
        lab.names.instead = SystemResolver(Lookups(slowly))
        site = await lab.site(hello)
        burst = [lab.tunnel(f"{n % names}.test", site.port) for n in range(tunnels)]
        for reader, writer in await asyncio.gather(*burst):
            assert await reader.read() == b"hello"
            writer.close()


async def test_a_deadline_counts_from_the_start_of_the_lookup(
    turns: Turns, advance: Advance
) -> None:
    gate = Gate()
    resolve = SystemResolver(Lookups(gate, shared=0))
    first = asyncio.ensure_future(resolve("first.test"))
    second = asyncio.ensure_future(resolve("second.test"))
    await turns()
    advance(Patience().lookup)
    with pytest.raises(TimeoutError):
        await first
    assert not second.done()
    gate.open()
    assert await second == ONE


async def test_a_name_whose_turn_never_comes_is_given_up(turns: Turns, advance: Advance) -> None:
    gate = Gate()
    resolve = SystemResolver(Lookups(gate, shared=0))
    first = asyncio.ensure_future(resolve("first.test"))
    second = asyncio.ensure_future(resolve("second.test"))
    await turns()
    advance(Patience().turn)
    for lookup in (first, second):
        with pytest.raises(TimeoutError):
            await lookup
    gate.open()
    assert await resolve("first.test") == ONE
    assert gate.questions == ["first.test"]


async def test_new_names_have_a_rate_and_known_ones_are_free() -> None:
    """The attack: names carry a guest's data to a name server, and load the host's."""
    gate, now = Gate(), [0.0]
    gate.open()
    pace = Pace(NAMES_AT_ONCE, NAMES_PER_SECOND, now=lambda: now[0])
    resolve = SystemResolver(Lookups(gate), pace=pace, now=lambda: now[0])
    for number in range(NAMES_AT_ONCE):
        assert await resolve(f"{number}.test") == ONE
    waiting = [asyncio.ensure_future(resolve(f"{number}.late.test")) for number in range(1_000)]
    await asyncio.sleep(0)
    refused = [lookup for lookup in waiting if lookup.done()]
    assert len(refused) == 1_000 - NAMES_PER_SECOND * NAME_WAIT
    assert all(isinstance(lookup.exception(), TooManyNames) for lookup in refused)
    for _ in range(1_000):
        assert await resolve("255.test") == ONE
    for lookup in waiting:
        lookup.cancel()
    now[0] += 1.0 + NAME_WAIT
    assert await resolve("later.test") == ONE
    assert gate.questions == [*(f"{number}.test" for number in range(NAMES_AT_ONCE)), "later.test"]


async def test_a_guest_over_the_rate_is_answered_429(open_lab: OpenLab) -> None:
    gate = Gate("127.0.0.1")
    gate.open()
    async with open_lab() as lab:
        lab.names.instead = SystemResolver(Lookups(gate), pace=Pace(2, 0.1, now=lambda: 0.0))
        answers = [await lab.ask(b"CONNECT %d.test:9 HTTP/1.0\r\n\r\n" % n) for n in range(4)]
    assert [answer.split()[1] for answer in answers] == [b"502", b"502", b"429", b"429"]
    assert b"X-Waggle-Denied: too-many-names\r\n" in answers[-1]
    assert gate.questions == ["0.test", "1.test"]


async def test_whether_a_name_exists_is_known_as_long_as_its_answer() -> None:
    gate, now = Gate(), [0.0]
    gate.open()
    resolve = SystemResolver(Lookups(gate), now=lambda: now[0])
    assert await resolve.exists("a.test") == (Status.FOUND, KEPT_SECONDS)
    now[0] += 4.0
    assert await resolve.exists("a.test") == (Status.FOUND, KEPT_SECONDS - 4)
    for errno, status, seconds in (
        (socket.EAI_NONAME, Status.NO_NAME, NO_NAME_SECONDS),
        (socket.EAI_NODATA, Status.NO_ADDRESS, NO_NAME_SECONDS),
        (socket.EAI_AGAIN, Status.NO_ANSWER, NO_ANSWER_SECONDS),
    ):
        gate.error = OSError(errno, "so it is")
        assert await resolve.exists(f"{status}.test") == (status, seconds)


async def test_a_missing_address_is_remembered_for_a_while() -> None:
    gate, now = Gate(), [0.0]
    gate.open()
    resolve = SystemResolver(Lookups(gate), now=lambda: now[0])
    for errno, seconds in ((socket.EAI_NONAME, NO_NAME_SECONDS), (-3, NO_ANSWER_SECONDS)):
        gate.error, gate.questions[:] = OSError(errno, "so it is"), []
        began, name = now[0], f"{-errno}.test"
        for passed in (0.0, 0.0, seconds - 0.1):
            now[0] = began + passed
            with pytest.raises(OSError, match="so it is") as raised:
                await resolve(name)
            assert raised.value.errno == errno
        assert gate.questions == [name]
        now[0] = began + seconds
        gate.error = None
        assert await resolve(name) == ONE


async def test_the_number_of_kept_answers_is_bounded_and_the_oldest_go_first() -> None:
    gate = Gate()
    gate.open()
    resolve = SystemResolver(Lookups(gate), now=lambda: 0.0)
    for number in range(MAX_KEPT + 1):
        await resolve(f"{number}.test")
    count = len(gate.questions)
    await resolve(f"{MAX_KEPT}.test")
    assert len(gate.questions) == count
    await resolve("0.test")
    assert len(gate.questions) == count + 1


async def test_a_late_answer_without_a_caller_serves_the_next(turns: Turns) -> None:
    gate = Gate()
    resolve = SystemResolver(Lookups(gate))
    first = asyncio.ensure_future(resolve("a.test"))
    await turns()
    first.cancel()
    await turns()
    second = asyncio.ensure_future(resolve("a.test"))
    await turns()
    gate.open()
    assert await second == await resolve("a.test") == ONE
    assert gate.questions == ["a.test"]


async def test_a_caller_that_arrives_as_a_queued_lookup_is_abandoned_is_answered(
    turns: Turns,
) -> None:
    gate = Gate()
    resolve = SystemResolver(Lookups(gate, shared=0))
    other = asyncio.ensure_future(resolve("b.test"))
    await turns()
    first = asyncio.ensure_future(resolve("a.test"))  # waits for the only thread
    await turns()
    first.cancel()
    await asyncio.sleep(0)
    second = asyncio.ensure_future(resolve("a.test"))
    gate.open()
    assert await second == await other == ONE
    assert gate.questions == ["b.test", "a.test"]
