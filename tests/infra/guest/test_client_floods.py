# SPDX-License-Identifier: Apache-2.0
"""The agent's client against a guest that floods it or never reads: bounded time and memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator, Generator

import pytest
from tests.support.agent_peer import good, line, paired

from waggle.domain.errors import GuestLost, InvalidArgument
from waggle.infra.guest.channel import over
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.paced_lines import BURST, FLOOD_BYTES_PER_SECOND, Lines, Pace
from waggle.infra.guest.protocol import MAX_ANSWER, MAX_REQUEST

pytestmark = pytest.mark.anyio
GIB = 1 << 30


@contextlib.asynccontextmanager
async def bare() -> AsyncGenerator[tuple[AgentClient, socket.socket]]:
    """A client, and the bare other end of its channel."""
    ours, theirs = socket.socketpair()
    streams = await asyncio.open_connection(sock=ours)
    client = AgentClient(over(*streams))
    try:
        yield client, theirs
    finally:
        await client.close()
        theirs.close()
        streams[1].transport.abort()
        with contextlib.suppress(OSError):
            await streams[1].wait_closed()


async def test_a_guest_that_never_reads_holds_nobody() -> None:
    """The buffer does not grow, and all that the guest gets at last are whole lines."""
    async with bare() as (client, theirs):
        await client.connect()
        channel = client._channel
        data = base64.b64encode(b"x" * 150_000).decode()
        params = json.dumps({"path": "/a", "data": data, "offset": 0})
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await channel.ask("file_write", params)
        wire = channel._wire
        assert wire is not None
        assert wire._writer.transport.get_write_buffer_size() < MAX_REQUEST
        theirs.setblocking(False)
        loop, got = asyncio.get_running_loop(), bytearray()
        ping = asyncio.create_task(client.ping())
        while b'"method":"ping"' not in got:
            got += await loop.sock_recv(theirs, 1 << 20)
        *lines, rest = bytes(got).split(b"\n")
        assert (lines[0], rest) == (b"", b"")
        requests = [json.loads(one) for one in lines[1:]]
        assert [one["method"] for one in requests[:-1]] == ["file_write"] * (len(requests) - 1)
        assert 1 <= len(requests) - 1 < 5
        await loop.sock_sendall(theirs, good(requests[-1]))
        await ping


async def test_small_requests_that_nobody_reads_do_not_gather() -> None:
    async with bare() as (client, _):
        await client.connect()
        for _ in range(600):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await client._channel.ask("x", json.dumps("y" * 1_000))
        wire = client._channel._wire
        assert wire is not None
        assert 0 < wire._writer.transport.get_write_buffer_size() < 1_100


FLOODS = {
    "no newline": b"x" * 65_536,
    "newlines": b"\n" * 65_536,
    "letters": b"x\n" * 32_768,
    "braces": b"{\n" * 32_768,
    "short objects": b"{}\n" * 20_000,
    "brackets": b"{" + b"[" * 65_000 + b"\n",
    "long lists": b'{"a":[' + b"0," * 19_000 + b"0]}\n",
    "answers": line({"jsonrpc": "2.0", "id": 1, "result": {}}) * 1_000,
    "notes": line({"jsonrpc": "2.0", "method": "audit", "params": {"method": "x"}}) * 1_000,
}


@contextlib.contextmanager
def flooding(wire: socket.socket, data: bytes) -> Generator[list[int]]:
    """Write endlessly from a thread, as another machine would; yield how much was written."""
    count = [0]

    def write() -> None:
        wire.setblocking(True)
        with contextlib.suppress(OSError):
            while True:
                count[0] += wire.send(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield count
    finally:
        wire.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_costs_a_bounded_share_and_bounded_memory(kind: str) -> None:
    async with bare() as (client, theirs):
        with flooding(theirs, FLOODS[kind]) as count:
            with contextlib.suppress(GuestLost):
                await client.ping(0.2)  # the burst
            tracemalloc.start()
            began, spent, before = time.monotonic(), time.thread_time(), count[0]
            with pytest.raises(GuestLost, match="no answer"):
                await client.ping(0.6)
            passed, spent = time.monotonic() - began, time.thread_time() - spent
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert spent < 0.3 * passed
            assert count[0] - before < 4 * FLOOD_BYTES_PER_SECOND * passed
            assert peak < 8 << 20


async def test_an_answer_within_a_flood_is_found() -> None:
    junk = b"x" * 300 + b"\n"
    async with paired(lambda r: junk * 500 + good(r) + junk * 500) as (client, _):
        for _ in range(3):
            await client.ping()


def test_a_gibibyte_without_a_newline_is_dropped() -> None:
    lines, piece = Lines(MAX_ANSWER), b"x" * (64 * 1024)
    tracemalloc.start()
    try:
        for _ in range(GIB // len(piece)):
            assert list(lines.feed(piece)) == []
            assert lines.held < MAX_ANSWER
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_ANSWER
    assert lines.dropped() == GIB
    assert list(lines.feed(b"end\n{}\n")) == [b"{}"]


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100])
def test_lines_are_the_same_wherever_they_are_cut(cut: int) -> None:
    data = b"\n\na\nbb\n\n" + b"c" * 9 + b"\n" + b"d" * 10 + b"\n" + b"e" * 30 + b"\nf\n\ng"
    lines, found = Lines(10), list[bytes]()
    for start in range(0, len(data), cut):
        found += lines.feed(data[start : start + cut])
    assert found == [b"a", b"bb", b"c" * 9, b"f"]
    assert lines.held == 1
    assert lines.dropped() >= 40


def test_a_pace_allows_a_burst_and_then_so_much_a_second() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.charge(BURST - 1_000)
    assert pace.delay() == 0
    pace.charge(FLOOD_BYTES_PER_SECOND)
    assert 0.9 < pace.delay() < 1.1
    now[0] += 0.5
    pace.charge(0)
    assert 0.4 < pace.delay() < 0.6
    now[0] += 1_000
    pace.charge(BURST // 2)
    assert pace.delay() == 0
    pace.charge(BURST)
    assert pace.delay() > 1


async def test_bad_arguments_leave_the_channel_alone() -> None:
    async with bare() as (client, _):
        with pytest.raises(InvalidArgument):
            await client.set_time(-1)
        with pytest.raises(InvalidArgument):
            await client.read_part("/\ud800", 0)
        assert client._channel._wire is None
