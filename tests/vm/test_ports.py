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
from waggle.domain.exposure import StreamLost
from waggle.domain.programs.guest_job import Detached
from waggle.infra.net import Stream
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
        with contextlib.suppress(asyncio.CancelledError, Detached):
            await task


async def connected(guest: LocalGuest, port: int) -> Stream:
    """Return a connection to a port on which something listens soon."""
    assert await guest.answers(port, 30)
    stream = await guest.connect_to(port)
    assert stream is not None
    return stream


async def rest(stream: Stream) -> bytes:
    """Return all that comes until the end, and close."""
    whole = bytearray()
    while data := await stream.read():
        whole += data
    stream.abort()
    return bytes(whole)


async def ask(guest: LocalGuest, port: int, path: str) -> bytes:
    """Return the body of an HTTP server's answer."""
    stream = await connected(guest, port)
    await stream.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
    answer = await rest(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body


async def test_web_servers_of_the_guest_answer_on_both_loopbacks_and_on_low_ports(
    guest: LocalGuest,
) -> None:
    """As the ordinary user, who may listen on port 80."""
    await root(guest, "mkdir -p /tmp/www && echo hello > /tmp/www/index.html; ip link set lo up")
    places = {8000: "127.0.0.1:8000", 8001: "[::1]:8001", 80: "127.0.0.1:80"}
    for port, place in places.items():
        script = f"{BUSYBOX} httpd -f -p {place} -h /tmp/www"
        async with asyncio.timeout(PATIENCE), serving(guest, script):
            assert await ask(guest, port, "index.html") == b"hello\n"


async def test_large_bodies_pass_both_ways_and_each_direction_ends_separately(
    guest: LocalGuest,
) -> None:
    """The guest echoes its input until the client ends, and then ends too."""
    script = f"{BUSYBOX} nc -ll -p 8001 -e {BUSYBOX} cat"
    async with asyncio.timeout(2 * PATIENCE), serving(guest, script):
        stream = await connected(guest, 8001)
        body = bytes(range(256)) * (SIZE // 256)

        async def send() -> None:
            await stream.write(body)
            stream.write_eof()

        sending = asyncio.create_task(send())
        assert await rest(stream) == body
        await sending


async def test_a_port_without_a_listener_is_refused(guest: LocalGuest) -> None:
    assert not await guest.answers(8002, 0)
    assert await guest.connect_to(8002) is None


async def test_a_pause_ends_connections_held_open_by_the_guest(guest: LocalGuest) -> None:
    script = f"{BUSYBOX} nc -ll -p 8003 -e {BUSYBOX} sleep 300"
    async with asyncio.timeout(2 * PATIENCE), serving(guest, script):
        stream = await connected(guest, 8003)
        await stream.write(b"nobody reads this")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(1), 0.5)
        await guest.pause()
        with contextlib.suppress(StreamLost):
            assert await stream.read() == b""
        stream.abort()
        await guest.unpause()


FLOOD = f"{BUSYBOX} nc -ll -p 8004 -e {BUSYBOX} yes"


async def connect_to_the_flood(guest: LocalGuest) -> Stream:
    stream = await connected(guest, 8004)
    assert await stream.read(4) == b"y\ny\n"
    return stream  # nobody reads on, so its buffer fills up, and then all others


async def drained(stream: Stream) -> None:
    """Read to the end, which may be a broken connection, and close."""
    with contextlib.suppress(StreamLost):
        await rest(stream)
    stream.abort()


async def test_destroying_ends_open_connections_and_leaves_nothing(lab: Lab) -> None:
    watch = Leaks()
    guest = await lab.guest()
    flooding = asyncio.create_task(guest.run(sh(FLOOD, timeout=300.0)))
    connection = await connect_to_the_flood(guest)
    async with asyncio.timeout(PATIENCE):
        await guest.destroy()
        await drained(connection)
    assert not await guest.answers(8004, 0)
    assert await guest.connect_to(8004) is None
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
