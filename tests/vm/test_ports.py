# SPDX-License-Identifier: Apache-2.0
"""Exposed ports of real guests: bytes in both directions, bad guests, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator

import pytest
from tests.support.leaks import Leaks
from tests.support.vm import Lab, root, sh

from waggle.domain.errors import GuestLost
from waggle.domain.machine import ExposedPort
from waggle.service.local.guest import LocalGuest

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.usefixtures("leaks")]

BUSYBOX = "/.waggle/bin/busybox"
SIZE = 3_000_000
PATIENCE = 60.0


@contextlib.asynccontextmanager
async def serving(guest: LocalGuest, script: str) -> AsyncGenerator[None]:
    """Run a script in the guest for the duration of a block."""
    task = asyncio.create_task(guest.run(sh(script, timeout=300.0)))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ask(exposed: ExposedPort, path: str) -> bytes:
    """Return the body of an HTTP server's answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", exposed.local_port)
    writer.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body


async def test_a_web_server_of_the_guest_answers(guest: LocalGuest) -> None:
    await root(guest, "mkdir -p /tmp/www && echo hello > /tmp/www/index.html")
    script = f"{BUSYBOX} httpd -f -p 127.0.0.1:8000 -h /tmp/www"
    async with asyncio.timeout(PATIENCE), serving(guest, script):
        exposed = await guest.expose(8000)
        assert await guest.answers(8000, 30)
        assert await ask(exposed, "index.html") == b"hello\n"
        assert (guest.exposed, await guest.expose(8000)) == ((exposed,), exposed)
    assert await guest.unexpose(8000)
    assert not await guest.unexpose(8000)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", exposed.local_port)


async def test_large_bodies_pass_both_ways_and_each_direction_ends_separately(
    guest: LocalGuest,
) -> None:
    """The guest echoes its input until the client ends, and then ends too."""
    script = f"{BUSYBOX} nc -ll -p 8001 -e {BUSYBOX} cat"
    async with asyncio.timeout(2 * PATIENCE), serving(guest, script):
        exposed = await guest.expose(8001)
        assert await guest.answers(8001, 30)
        reader, writer = await asyncio.open_connection("127.0.0.1", exposed.local_port)
        body = bytes(range(256)) * (SIZE // 256)

        async def send() -> None:
            writer.write(body)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.read(-1) == body
        await sending
        writer.close()
        await writer.wait_closed()
    await guest.unexpose(8001)


async def test_an_exposed_port_without_a_listener_hangs_up(guest: LocalGuest) -> None:
    exposed = await guest.expose(8002)
    assert not await guest.answers(8002, 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", exposed.local_port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(-1), PATIENCE) == b""
    writer.close()
    await guest.unexpose(8002)


async def test_closing_a_port_ends_a_connection_held_open_by_the_guest(guest: LocalGuest) -> None:
    script = f"{BUSYBOX} nc -ll -p 8003 -e {BUSYBOX} sleep 300"
    async with asyncio.timeout(2 * PATIENCE), serving(guest, script):
        exposed = await guest.expose(8003)
        assert await guest.answers(8003, 30)
        reader, writer = await asyncio.open_connection("127.0.0.1", exposed.local_port)
        writer.write(b"nobody reads this")
        await writer.drain()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.5)
        await guest.unexpose(8003)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        writer.close()


FLOOD = f"{BUSYBOX} nc -ll -p 8004 -e {BUSYBOX} yes"


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect_to_the_flood(guest: LocalGuest) -> Connection:
    exposed = await guest.expose(8004)
    assert await guest.answers(8004, 30)
    reader, writer = await asyncio.open_connection("127.0.0.1", exposed.local_port)
    assert await reader.readexactly(4) == b"y\ny\n"
    return reader, writer  # nobody reads on, so its buffer fills up, and then all others


async def drained(connection: Connection) -> None:
    """Read to the end, which may be a broken connection, and close."""
    reader, writer = connection
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(1 << 16):
            pass
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def test_destroying_ends_open_connections_and_leaves_nothing(lab: Lab) -> None:
    watch = Leaks()
    guest = await lab.guest()
    flooding = asyncio.create_task(guest.run(sh(FLOOD, timeout=300.0)))
    connection = await connect_to_the_flood(guest)
    assert len(guest.exposed) == 1
    async with asyncio.timeout(PATIENCE):
        await guest.destroy()
        await drained(connection)
    assert (guest.exposed, await guest.answers(8004, 0)) == ((), False)
    with pytest.raises(GuestLost):
        await guest.expose(8004)
    with pytest.raises(GuestLost):
        await flooding
    await watch.settle()


async def test_a_killed_machine_ends_its_connections(lab: Lab) -> None:
    watch = Leaks()
    guest = await lab.guest()
    flooding = asyncio.create_task(guest.run(sh(FLOOD, timeout=300.0)))
    connection = await connect_to_the_flood(guest)
    used = await guest.resource_use()
    assert used is not None
    assert used.cpu_seconds > 0
    assert used.memory_bytes > 16 << 20
    assert 0 < used.disk_bytes < 128 << 20
    os.kill(guest.machine.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await drained(connection)
        await guest.wait_dead()
    assert await guest.resource_use() is None
    assert not await guest.answers(8004, 0)
    with pytest.raises(GuestLost):
        await flooding
    await guest.destroy()
    await watch.settle()
