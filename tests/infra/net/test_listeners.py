# SPDX-License-Identifier: Apache-2.0
"""Listeners for exposed ports: what they relay, whom they refuse, and that they end whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from tests.infra.net.behind import GUEST_PORT, Guest, echo_at_the_end, guest
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.domain.exposure import ByteStream
from waggle.infra.net import Stream
from waggle.infra.net.listeners import ListenerLimits, LoopbackListeners

pytestmark = pytest.mark.anyio
LIMITS = ListenerLimits(idle=30.0, flush=5.0, linger=1.0)
BODY = b"0123456789abcdef" * (1 << 16)


@contextlib.asynccontextmanager
async def listening(
    guest: Guest, limits: ListenerLimits = LIMITS
) -> AsyncGenerator[tuple[LoopbackListeners, int]]:
    """Yield listeners and the local port of one; nothing of them is left afterwards."""

    @contextlib.asynccontextmanager
    async def visit(port: int) -> AsyncGenerator[ByteStream]:
        try:
            stream = Stream(*await guest.connect(port))
        except OSError as error:
            raise GuestLost("Nothing listens there.") from error
        try:
            yield stream
        finally:
            stream.abort()

    made = LoopbackListeners(visit, limits)
    try:
        yield made, await made.listen(GUEST_PORT)
    finally:
        await made.aclose()
        assert made.connections == 0


async def to(local_port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", local_port)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_bytes_flow_both_ways_and_the_directions_end_separately() -> None:
    async with guest(echo_at_the_end) as peer, listening(peer) as (_, local):
        reader, writer = await to(local)
        writer.write(BODY)
        writer.write_eof()
        assert await reader.read(-1) == BODY
        await end(writer)
        assert peer.ports == [GUEST_PORT]


async def test_it_leads_to_its_port_whatever_is_sent() -> None:
    async with guest(echo_at_the_end) as peer, listening(peer) as (made, local):
        assert await made.listen(9000) != local
        reader, writer = await to(local)
        writer.write(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n")
        writer.write_eof()
        assert await reader.read(-1) == b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n"
        await end(writer)
        assert peer.ports == [GUEST_PORT]


async def test_it_listens_on_loopback_only() -> None:
    async with guest(echo_at_the_end) as peer, listening(peer) as (_, local):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", local)


async def test_a_refused_visit_closes_the_connection() -> None:
    async with listening(Guest(refuses=True)) as (_, local):
        reader, writer = await to(local)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)


async def test_a_flood_without_a_reader_stops() -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(BODY[: 1 << 16])
            await writer.drain()
            sent += 1 << 16

    async with guest(flood) as peer, listening(peer) as (made, local):
        _, writer = await to(local)  # its reader takes a little and then stops
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)  # until the kernel's buffers are full; no event marks that
        assert sent < 32 << 20
        assert made.connections == 1
        await made.close(GUEST_PORT)
        assert made.connections == 0
        await end(writer)


async def test_connections_are_counted_over_all_ports() -> None:
    limits = replace(LIMITS, connections=6)
    async with guest(echo_at_the_end) as peer, listening(peer, limits) as (made, local):
        other = await made.listen(9000)
        held = [await to(local if n % 2 else other) for n in range(6)]
        await until(lambda: made.connections == 6)
        reader, writer = await to(local)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        held[0][1].write_eof()
        assert await held[0][0].read(-1) == b""
        for _, writer in held:
            await end(writer)
        await until(lambda: made.connections == 0)


async def test_closing_during_a_connection_leaves_nothing() -> None:
    leaks = Leaks()
    async with guest(echo_at_the_end) as peer, listening(peer) as (made, local):
        reader, writer = await to(local)
        writer.write(b"begun")
        await until(lambda: made.connections == 1)
        await made.aclose()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        with pytest.raises(ConnectionRefusedError):
            await to(local)
    await leaks.settle()


async def test_it_listens_on_the_same_local_port_again_if_it_is_free() -> None:
    async with guest(echo_at_the_end) as peer, listening(peer) as (made, local):
        await made.aclose()
        assert await made.listen(GUEST_PORT, local) == local
        assert await made.listen(GUEST_PORT, 1) == local
        assert await made.listen(9000, local) != local
