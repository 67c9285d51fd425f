# SPDX-License-Identifier: Apache-2.0
"""Hostile clients of a terminal: broken frames, floods, and readers that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from tests.support.fakes import FakeHost
from tests.support.server import Rig, Setup, raw, serving
from tests.support.terminal import FakeShell, attached, environment
from tests.support.waiting import until
from websockets.asyncio.client import connect

from waggle.web.protocol import EARLY_BYTES
from waggle.web.terminal import TerminalLimits
from waggle.web.websocket import SEND_AHEAD, SocketLimits

pytestmark = pytest.mark.anyio

TEXT, BINARY, CLOSE, PING, CONTINUATION = 1, 2, 8, 9, 0
FIN = 0x80
MASKED = 0x80


def with_shell(**limits: float) -> Setup:
    setup = Setup(host=FakeHost(prepare=FakeShell().prepare))
    setup.terminals = TerminalLimits(socket=SocketLimits(**{"close_seconds": 0.2, **limits}))  # pyright: ignore[reportArgumentType]
    return setup


def frame(opcode: int, data: bytes = b"", *, first: int = FIN) -> bytes:
    """Return a frame with the mask that clients must use: zeros."""
    size = len(data)
    if size < 126:
        length = bytes([MASKED | size])
    elif size < 1 << 16:
        length = bytes([MASKED | 126]) + struct.pack(">H", size)
    else:
        length = bytes([MASKED | 127]) + struct.pack(">Q", size)
    return bytes([first | opcode]) + length + bytes(4) + data


@dataclass(slots=True)
class Raw:
    """A connection on which the test writes every byte itself."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close_code(self) -> int | None:
        """Read to the end; return the code of the server's close frame, None without one."""
        received = b""
        with anyio.fail_after(20), contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(1 << 16):
                received = (received + piece)[-(1 << 20) :]
        for size in range(2, 126):  # it is the last frame; pings hold random bytes
            if received[-size - 2 : -size] == bytes([FIN | CLOSE, size]):
                return int.from_bytes(received[-size:][:2], "big")
        return None


@asynccontextmanager
async def opened(rig: Rig, made: str, after: bytes = b"") -> AsyncGenerator[Raw]:
    """Open a terminal on a plain connection; `after` is sent with the request."""
    port = int(rig.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    head = (
        f"GET /environments/{made}/terminal HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    writer.write(head.encode() + after)
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "data, code",
    [
        (b"\x82\x01x", 1002),  # not masked
        (frame(3, b"x"), 1002),  # no such opcode
        (frame(BINARY, b"x", first=0xC0), 1002),  # a reserved bit: no extension was agreed on
        (frame(CONTINUATION, b"x"), 1002),  # of nothing
        (frame(PING, b"x" * 126), 1002),  # too long for a control frame
        (frame(PING, b"x", first=0), 1002),  # in fragments
        (frame(CLOSE, b"x"), 1002),  # half a code
        (frame(CLOSE, struct.pack(">H", 1005)), 1002),  # a code nobody sends
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"hello"), 1008),
        (frame(TEXT, b'{"resize": [24, 80], "x": 1}'), 1008),
        (frame(TEXT, b'{"signal": "SEGV"}'), 1008),
        (frame(BINARY, b"x" * (65 << 10)), 1009),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1009),  # a length of 2**64 - 1
        (b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4), 1009),
        (frame(BINARY, first=0) + frame(CONTINUATION, first=0) * 100, 1008),
        (frame(BINARY, b"x" * 60_000, first=0) + frame(CONTINUATION, b"x" * 60_000), 1009),
        (frame(TEXT, b"{}") * 500, 1008),
    ],
)
async def test_broken_frames_end_the_connection_and_nothing_else(data: bytes, code: int) -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as hostile:
            await hostile.send(data)
            assert await hostile.close_code() == code
        async with attached(rig, made, job=1, offset=0) as screen:
            await screen.type("still here\r")
            await screen.shows("still here")
        await until(lambda: rig.server.connections == 0)


async def test_frames_that_come_with_the_request_are_not_lost_and_not_http() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made, frame(BINARY, b"exit 5\r")) as early:
            await early.close_code()
        assert rig.services.jobs.newest(made, 1, owner="local")[0].view().exit_code == 5


async def test_what_follows_a_refused_offer_is_not_taken_for_a_request() -> None:
    async with serving(with_shell()) as rig:
        port = int(rig.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        host = f"Host: 127.0.0.1:{port}\r\n"
        writer.write(
            f"GET /environments/nowhere/terminal HTTP/1.1\r\n{host}Connection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            f"GET /healthz HTTP/1.1\r\n{host}\r\n".encode()
        )
        with anyio.fail_after(5):
            answer = await reader.read()
        writer.transport.abort()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_flood_before_the_answer_is_bounded() -> None:
    setup = with_shell()
    setup.host.hold = anyio.Event()
    async with serving(setup) as rig:
        setup.host.hold.set()
        made = await environment(rig)
        await rig.services.environments.pause(made, owner="local", to_disk=True)
        setup.host.hold, setup.host.creating = anyio.Event(), anyio.Event()
        port = int(rig.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /environments/{made}/terminal HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await setup.host.creating.wait()
        for _ in range(1_000):
            writer.write(frame(BINARY, b"x" * 60_000))
            with anyio.move_on_after(0.5) as stuck:
                await writer.drain()
            if stuck.cancelled_caught:
                break
        else:
            raise AssertionError("the server reads all of it")
        (line,) = rig.server._connections._group
        assert len(line._early or b"") <= EARLY_BYTES + (256 << 10)
        setup.host.hold.set()
        writer.transport.abort()
        await until(lambda: rig.server.connections == 0)


@pytest.mark.parametrize("piece", [frame(PING), frame(PING, b"x" * 125), frame(BINARY, b"x")])
async def test_a_flood_of_tiny_frames_leaves_the_server_to_others(piece: bytes) -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as hostile, raw(rig) as http:

            async def flood() -> None:
                with contextlib.suppress(ConnectionError):
                    for _ in range(40):
                        await hostile.send(piece * 2_000)

            async with anyio.create_task_group() as group:
                group.start_soon(flood)
                for _ in range(20):
                    with anyio.fail_after(2):
                        assert (await http.get("/healthz")).status_code == 200
                group.cancel_scope.cancel()


async def test_pings_of_a_client_that_reads_nothing_are_not_answered_without_bound() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as hostile:
            hostile.reader._transport.pause_reading()  # pyright: ignore
            for _ in range(200):
                await hostile.send(frame(PING, b"x" * 125) * 500)
            (transport,) = _transports(rig)
            assert transport.get_write_buffer_size() <= 2 * SEND_AHEAD


def _transports(rig: Rig) -> list[asyncio.Transport]:
    lines = rig.server._connections._group
    return [line.transport for line in lines]


async def test_a_slow_reader_skips_what_is_not_kept_and_costs_no_memory() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as slow, attached(rig, made, job=1) as other:
            slow.reader._transport.pause_reading()  # pyright: ignore
            await other.shows("$ ")
            for _ in range(30):
                await slow.send(frame(BINARY, b"flood 1000000\r"))
            size = 30 * 1_000_000
            (job,) = rig.services.jobs.newest(made, 1, owner="local")
            await until(lambda: job.streams[next(iter(job.streams))].total > size)
            assert all(one.get_write_buffer_size() <= 2 * SEND_AHEAD for one in _transports(rig))
            slow.reader._transport.resume_reading()  # pyright: ignore
            received = bytearray()
            with anyio.fail_after(20):
                while b'{"skipped": ' not in received:
                    received += await slow.reader.read(1 << 16)
            assert len(received) < size


async def test_a_client_that_gives_no_sign_of_life_is_disconnected() -> None:
    async with serving(with_shell(ping_seconds=0.05)) as rig:
        made = await environment(rig)
        async with opened(rig, made) as silent:
            assert await silent.close_code() is None
        await until(lambda: rig.server.connections == 0)
        async with attached(rig, made, job=1, offset=0) as alive:  # it answers pings
            with anyio.move_on_after(0.5):
                await alive.until(lambda: False)
            await alive.type("x")
            await alive.shows("x")


async def test_a_client_that_does_not_answer_a_close_is_left() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as silent:
            await silent.send(frame(BINARY, b"exit 0\r"))
            assert await silent.close_code() == 1000


async def test_random_bytes_end_a_connection_and_not_the_server() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with opened(rig, made) as first:
            await first.send(os.urandom(10_000))
        for _ in range(50):
            port = int(rig.url.rpartition(":")[2])
            async with connect(
                f"ws://127.0.0.1:{port}/environments/{made}/terminal?job=1", proxy=None
            ) as socket:
                socket.transport.write(os.urandom(200) + bytes(300))
                socket.transport.abort()
        async with attached(rig, made, job=1, offset=0) as screen:
            await screen.shows("$ ")
        await until(lambda: rig.server.connections == 0)
