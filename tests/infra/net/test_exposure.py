# SPDX-License-Identifier: Apache-2.0
"""Exposed ports against a guest that serves, refuses, hangs and floods, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import GuestLost, TooManyPorts
from waggle.domain.machine import MAX_EXPOSED_PORTS, ExposedPort
from waggle.infra.net.exposure import MAX_CONNECTIONS, ExposureLimits, Exposures, Streams

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMITS = ExposureLimits(answer=5.0, idle=30.0, flush=5.0, linger=1.0)
GUEST_PORT = 8000
BODY = b"0123456789abcdef" * (1 << 16)


@dataclass
class Guest:
    """A guest to connect to.

    `refuses` and `hangs` set its behaviour; `ports` lists the requested ports.
    """

    port: int = 0
    refuses: bool = False
    hangs: asyncio.Event | None = None
    ports: list[int] = field(default_factory=list[int])

    async def connect(self, port: int) -> Streams:
        self.ports.append(port)
        if self.hangs is not None:
            await self.hangs.wait()
        if self.refuses:
            raise ConnectionRefusedError
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def guest(handler: Handler) -> AsyncGenerator[Guest]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await handler(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Guest(server.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def exposures(
    guest: Guest, limits: ExposureLimits = LIMITS
) -> AsyncGenerator[tuple[Exposures, ExposedPort]]:
    """Yield one exposed port; nothing of it is left afterwards."""
    made = Exposures(guest.connect, limits)
    try:
        yield made, await made.expose(GUEST_PORT)
    finally:
        await made.aclose()
        assert (made.connections, made.ports) == (0, ())


async def to(exposed: ExposedPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", exposed.local_port)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def echo_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer only when the other side has finished: the half-close must arrive."""
    writer.write(await reader.read(-1))
    await writer.drain()


async def test_bytes_flow_both_ways_and_the_directions_end_separately() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, exposed):
        assert made.ports == (exposed,)
        reader, writer = await to(exposed)
        writer.write(BODY)
        writer.write_eof()
        assert await reader.read(-1) == BODY
        await end(writer)
        assert peer.ports == [GUEST_PORT]


async def test_it_leads_to_its_port_whatever_is_sent() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, exposed):
        other = await made.expose(9000)
        assert (other.port, other.local_port != exposed.local_port) == (9000, True)
        reader, writer = await to(exposed)
        writer.write(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n")
        writer.write_eof()
        assert await reader.read(-1) == b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n"
        await end(writer)
        assert peer.ports == [GUEST_PORT]


async def test_it_listens_on_loopback_only() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (_, exposed):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", exposed.local_port)


async def test_a_refusing_guest_closes_the_connection() -> None:
    async with exposures(Guest(refuses=True)) as (made, exposed):
        reader, writer = await to(exposed)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        assert not await made.answers(GUEST_PORT, 0)


async def test_unanswered_connections_are_bounded() -> None:
    peer = Guest(hangs=asyncio.Event())
    limits = ExposureLimits(answer=0.01)
    async with exposures(peer, limits) as (made, exposed):
        for _ in range(MAX_CONNECTIONS):
            assert not await made.answers(GUEST_PORT, 0)
        assert made.connections == MAX_CONNECTIONS
        assert not await made.answers(GUEST_PORT, 0)
        reader, writer = await to(exposed)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        assert len(peer.ports) == MAX_CONNECTIONS


async def test_an_answer_that_comes_too_late_is_closed() -> None:
    closed = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            await reader.read(-1)
        closed.set()

    async with guest(watch) as peer:
        peer.hangs = asyncio.Event()
        async with exposures(peer, ExposureLimits(answer=0.01)) as (made, _):
            assert not await made.answers(GUEST_PORT, 0)
            peer.hangs.set()
            await asyncio.wait_for(closed.wait(), 5)
            await until(lambda: made.connections == 0)


async def test_answers_waits_until_something_listens() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, _):
        peer.refuses = True
        waiting = asyncio.create_task(made.answers(GUEST_PORT, 20))
        await until(lambda: len(peer.ports) > 0)
        peer.refuses = False
        assert await waiting
        assert made.connections == 0


async def test_a_flood_without_a_reader_stops() -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(BODY[: 1 << 16])
            await writer.drain()
            sent += 1 << 16

    async with guest(flood) as peer, exposures(peer) as (made, exposed):
        _, writer = await to(exposed)  # its reader takes a little and then stops
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)  # until the kernel's buffers are full; no event marks that
        assert sent < 32 << 20
        assert made.connections == 1
        await made.unexpose(GUEST_PORT)
        assert made.connections == 0
        await end(writer)


async def test_connections_are_counted_over_all_ports() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, exposed):
        other = await made.expose(9000)
        held = [await to(exposed if n % 2 else other) for n in range(MAX_CONNECTIONS)]
        await until(lambda: made.connections == MAX_CONNECTIONS)
        reader, writer = await to(exposed)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        held[0][1].write_eof()
        assert await held[0][0].read(-1) == b""
        for _, writer in held:
            await end(writer)
        await until(lambda: made.connections == 0)


async def test_the_number_of_ports_is_limited() -> None:
    async with exposures(Guest()) as (made, exposed):
        for port in range(1, MAX_EXPOSED_PORTS):
            await made.expose(port)
        assert await made.expose(GUEST_PORT) == exposed
        with pytest.raises(TooManyPorts):
            await made.expose(9)
        assert await made.unexpose(1)
        assert not await made.unexpose(1)
        await made.expose(9)


async def test_closing_during_a_connection_leaves_nothing() -> None:
    leaks = Leaks()
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, exposed):
        reader, writer = await to(exposed)
        writer.write(b"begun")
        await until(lambda: made.connections == 1)
        await made.aclose()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await end(writer)
        with pytest.raises(GuestLost):
            await made.expose(GUEST_PORT)
        with pytest.raises(ConnectionRefusedError):
            await to(exposed)
    await leaks.settle()


async def test_a_visit_is_reported_from_beginning_to_end() -> None:
    limits = replace(LIMITS, presence=0.01)
    async with guest(echo_at_the_end) as peer, exposures(peer, limits) as (made, exposed):
        visits: list[int] = []
        made.visited = lambda: visits.append(made.connections)
        assert not await made.answers(9999, 0) or visits == []  # the server's own check is no visit
        reader, writer = await to(exposed)
        await until(lambda: len(visits) > 2)
        writer.write_eof()
        assert await reader.read(-1) == b""
        await end(writer)
        await until(lambda: made.connections == 0)
        seen = len(visits)
        await asyncio.sleep(0)
        assert len(visits) == seen


async def test_it_listens_on_the_same_local_port_again_if_it_is_free() -> None:
    async with guest(echo_at_the_end) as peer, exposures(peer) as (made, exposed):
        await made.clear()
        assert await made.expose(GUEST_PORT, exposed.local_port) == exposed
        other = await made.expose(9000, exposed.local_port)
        assert other.local_port != exposed.local_port
