# SPDX-License-Identifier: Apache-2.0
"""Limits of environments and owners: connections, bytes, bandwidth."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net import CHUNK, allowance
from waggle.infra.net.allowance import (
    DAY,
    MIB,
    SMALLEST_PIECE,
    Allowance,
    AllowanceLimits,
    Allowances,
    Spent,
)
from waggle.infra.net.guest_request import EgressLimits

if TYPE_CHECKING:
    from tests.infra.net.lab import OpenLab

pytestmark = pytest.mark.anyio
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + bytes(MIB)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def drained(reader: asyncio.StreamReader) -> int:
    """Return how many bytes come until the connection ends, in whatever way."""
    size = 0
    try:
        while data := await reader.read(65_536):
            size += len(data)
    except ConnectionError:
        pass
    return size


async def test_a_used_up_environment_is_refused_and_its_connections_end(open_lab: OpenLab) -> None:
    limits = AllowanceLimits(environment_bytes=MIB)
    async with open_lab(EgressLimits(), allowance=Allowance(limits)) as lab:
        idle, site = await lab.site(echo), await lab.site(flood)
        reader, writer = await lab.tunnel("open.test", idle.port)
        flooded, _ = await lab.tunnel("open.test", site.port)
        assert await drained(flooded) < MIB + 65_536
        assert [decision.code for decision in lab.decisions[2:]] == ["bytes-used-up"]
        writer.write(b"one more byte")
        assert await drained(reader) == 0
        for ask in (
            b"CONNECT open.test:9 HTTP/1.0\r\n\r\n",
            b"GET http://open.test/ HTTP/1.0\r\n\r\n",
        ):
            answer = await lab.ask(ask)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"X-Waggle-Denied: bytes-used-up\r\n" in answer
            assert b"used up the 1 MiB" in answer
            assert b"WAGGLE_EGRESS_MAX_MB" in answer
        assert lab.decisions[-1].code == "bytes-used-up"
        assert MIB <= lab.proxy.traffic.bytes < MIB + 65_536


async def test_a_download_over_the_limit_is_cut_and_does_not_look_complete(
    open_lab: OpenLab,
) -> None:
    limits = AllowanceLimits(environment_bytes=MIB // 2)
    async with open_lab(allowance=Allowance(limits)) as lab:
        site = await lab.web(BIG)
        ask = f"GET http://open.test:{site.port}/ HTTP/1.0\r\n\r\n"
        with pytest.raises(ConnectionError):
            raise ConnectionError if len(await lab.ask(ask.encode())) < MIB else AssertionError


async def test_an_upload_counts_too(open_lab: OpenLab) -> None:
    async with open_lab(allowance=Allowance(AllowanceLimits(environment_bytes=MIB))) as lab:
        site = await lab.site(echo)
        reader, writer = await lab.tunnel("open.test", site.port)
        writer.write(bytes(MIB))
        assert await drained(reader) < MIB
        assert lab.proxy.traffic.to_internet > MIB // 4


async def test_an_upload_over_the_limit_is_answered_with_the_reason(open_lab: OpenLab) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    async with open_lab(allowance=Allowance(AllowanceLimits(environment_bytes=MIB))) as lab:
        site = await lab.site(swallow)
        head = f"PUT http://open.test:{site.port}/ HTTP/1.0\r\nContent-Length: {4 * MIB}\r\n\r\n"
        reader, writer = await lab.connect()
        writer.write(head.encode() + bytes(4 * MIB))
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 429 "), answer
        assert lab.decisions[-1].code == "bytes-used-up"


async def test_connections_of_all_environments_of_an_owner_are_bounded(open_lab: OpenLab) -> None:
    allowances = Allowances(AllowanceLimits(owner_connections=3))
    async with (
        open_lab(allowance=allowances.of("a", "ann")) as first,
        open_lab(allowance=allowances.of("b", "ann")) as second,
        open_lab(allowance=allowances.of("c", "bob")) as other,
    ):
        site = await first.site(echo)
        held = [await lab.tunnel("open.test", site.port) for lab in (first, first, second)]
        for lab in (first, second):
            answer = await lab.ask(b"CONNECT open.test:9 HTTP/1.0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 too-many-connections\r\n")
            assert b"WAGGLE_EGRESS_OWNER_CONNECTIONS" in answer
        held.append(await other.tunnel("open.test", site.port))
        assert allowances.traffic.open == 4
        held[0][1].close()
        await first.served.acquire()
        await first.served.acquire()  # the refused one, and the one that ended
        held.append(await second.tunnel("open.test", site.port))
        for _, writer in held:
            writer.close()
        for lab in (first, second, second, second, other):
            await lab.served.acquire()
        assert allowances.traffic.open == 0


async def test_an_owner_has_its_bytes_again_after_a_day() -> None:
    now = [0.0]
    allowances = Allowances(AllowanceLimits(owner_bytes=100 * MIB), now=lambda: now[0])
    first, second = allowances.of("a", "ann"), allowances.of("b", "ann")
    await first.received(60 * MIB)
    await second.sent(40 * MIB)
    for spent in (first.spent(), second.spent()):
        assert spent is not None
        assert spent.code == "owner-bytes-used-up"
        assert "try again in 15 min" in spent.text
    with pytest.raises(Spent):
        await second.received(1)
    assert allowances.of("c", "bob").spent() is None
    now[0] += DAY / 2
    assert first.spent() is None
    await first.received(50 * MIB)
    assert second.spent() is not None
    now[0] += DAY
    await first.received(100 * MIB)
    assert (first.owner_traffic.to_guest, first.owner_traffic.to_internet) == (210 * MIB, 40 * MIB)
    assert (allowances.traffic.bytes, second.traffic.bytes) == (250 * MIB, 40 * MIB)


async def test_a_paused_environment_finds_its_use_and_a_new_one_begins_anew() -> None:
    allowances = Allowances(AllowanceLimits(environment_bytes=MIB))
    await allowances.of("a", "ann").received(MIB)
    assert allowances.of("a", "ann").spent() is not None
    assert allowances.of("fork-of-a", "ann").spent() is None


def test_what_is_remembered_is_bounded_and_the_idle_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allowance, "REMEMBERED", 10)
    allowances = Allowances(AllowanceLimits())
    busy = allowances.of("busy", "busy")
    with busy.connected():
        for number in range(100):
            allowances.of(f"{number}", f"{number}")
        assert len(allowances._environments) == len(allowances._owners) == 10
        assert allowances.of("busy", "busy") is busy
        last = allowances.of("99", "99")
    assert allowances.of("99", "99") is last


def test_pieces_are_small_under_a_small_rate() -> None:
    assert Allowance(AllowanceLimits()).piece == CHUNK
    assert Allowance(AllowanceLimits(rate=MIB // 2)).piece == CHUNK // 2
    assert Allowance(AllowanceLimits(rate=1 << 30, total_rate=MIB // 2)).piece == CHUNK // 2
    assert Allowance(AllowanceLimits(rate=1)).piece == SMALLEST_PIECE


@pytest.mark.parametrize("tunnels", [1, 8])
async def test_a_rate_holds_in_both_directions_together(open_lab: OpenLab, tunnels: int) -> None:
    rate = 2 * MIB
    async with open_lab(allowance=Allowance(AllowanceLimits(rate=rate))) as lab:
        site = await lab.site(echo)
        pairs = [await lab.tunnel("open.test", site.port) for _ in range(tunnels)]
        loop = asyncio.get_running_loop()
        began, size = loop.time(), MIB // tunnels
        for _, writer in pairs:
            writer.write(bytes(size))
            writer.write_eof()
        assert await asyncio.gather(*(drained(reader) for reader, _ in pairs)) == [size] * tunnels
        assert 0.7 < loop.time() - began < 10.0  # 2 MiB at 2 MiB/s, of which a quarter is a burst


async def shares(loads: list[tuple[OpenLab, Allowance, int]], seconds: float) -> list[int]:
    """Return the bytes a second that environments get with so many connections each."""
    counts = [0] * len(loads)
    loop = asyncio.get_running_loop()

    async def read(number: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            counts[number] += len(data)

    async with asyncio.TaskGroup() as group:
        readers: list[asyncio.Task[None]] = []
        async with contextlib.AsyncExitStack() as stack:
            for number, (open_lab, own, connections) in enumerate(loads):
                lab = await stack.enter_async_context(open_lab(allowance=own))
                site = await lab.site(flood)
                tunnels = [lab.tunnel("open.test", site.port) for _ in range(connections)]
                for reader, _ in await asyncio.gather(*tunnels):
                    readers.append(group.create_task(read(number, reader)))
            counts[:], began = [0] * len(loads), loop.time()
            await asyncio.sleep(seconds)
            result = [round(count / (loop.time() - began)) for count in counts]
            for task in readers:
                task.cancel()
    return result


async def test_one_connection_gets_as_much_as_anothers_sixty_four(open_lab: OpenLab) -> None:
    """The attack: 64 connections at full speed left another environment 1.6 % of the loop."""
    allowances = Allowances(AllowanceLimits())
    hog, other = await shares(
        [(open_lab, allowances.of("a", "ann"), 64), (open_lab, allowances.of("b", "bob"), 1)], 1.0
    )
    assert other / (hog + other) > 0.3


async def test_environments_share_the_total_rate_evenly(open_lab: OpenLab) -> None:
    allowances = Allowances(AllowanceLimits(total_rate=8 * MIB))
    hog, other = await shares(
        [(open_lab, allowances.of("a", "ann"), 32), (open_lab, allowances.of("b", "bob"), 1)], 1.0
    )
    assert hog + other < 12 * MIB
    assert other / (hog + other) > 0.3
