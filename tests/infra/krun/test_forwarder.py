# SPDX-License-Identifier: Apache-2.0
"""The forwarder between real sockets: a client on TCP, and a pretended guest on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import PortTaken
from waggle.infra.krun.forwarder import MAX_CONNECTIONS, Forwarder, claim, peer_pid

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
NAME = "ssh"
BULK = os.urandom(1 << 16) * 160
"""10 MiB, more than all buffers between both ends."""


class Guest:
    """Listens where libkrun would; `accept` gives the next connection, nonblocking."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(directory / NAME))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._open: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        connection, _ = await self._loop.sock_accept(self._listener)
        self._open.append(connection)
        return connection

    def is_called(self) -> bool:
        try:
            self._open.append(self._listener.accept()[0])
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        for each in (self._listener, *self._open):
            each.close()


class Rig:
    """A forwarder that was not started yet, and clients that call it."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.listener = claim(0)
        self.port = int(self.listener.getsockname()[1])
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.forwarder = Forwarder(self.listener, self._directory, NAME, pid)
        self._clients: list[socket.socket] = []

    async def call(self) -> socket.socket:
        client = socket.socket()
        self._clients.append(client)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return client

    async def close(self) -> None:
        await self.forwarder.close()
        for each in (*self._clients, self.listener):
            each.close()
        os.close(self._directory)


@pytest.fixture
async def nothing_left() -> AsyncGenerator[None]:
    watch = Leaks()
    yield
    await watch.settle()


@pytest.fixture
async def guest(nothing_left: None, tmp_path: Path) -> AsyncGenerator[Guest]:
    with contextlib.closing(Guest(tmp_path)) as made:
        yield made


@pytest.fixture
async def rig(nothing_left: None, tmp_path: Path) -> AsyncGenerator[Rig]:
    """Its guest is this process."""
    made = Rig(tmp_path, os.getpid())
    yield made
    await made.close()


async def pair(rig: Rig, guest: Guest) -> tuple[socket.socket, socket.socket]:
    """Both ends of one forwarded connection."""
    rig.forwarder.start()
    client = await rig.call()
    return client, await guest.accept()


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, size: int = 1 << 16) -> bytes:
    return await asyncio.get_running_loop().sock_recv(end, size)


async def receive_all(end: socket.socket) -> bytes:
    """Everything until the other side ends its half."""
    data = bytearray()
    while piece := await receive(end):
        data += piece
    return bytes(data)


async def is_dropped(end: socket.socket) -> bool:
    """Whether the connection ends, one way or the other, without a byte."""
    async with asyncio.timeout(10):
        try:
            return await receive(end) == b""
        except ConnectionError:
            return True


async def test_bulk_goes_both_ways_at_once(rig: Rig, guest: Guest) -> None:
    client, inside = await pair(rig, guest)

    async def pour(end: socket.socket, data: bytes) -> None:
        await send(end, data)
        end.shutdown(socket.SHUT_WR)

    _, _, up, down = await asyncio.gather(
        pour(client, BULK), pour(inside, BULK[::-1]), receive_all(inside), receive_all(client)
    )
    assert up == BULK
    assert down == BULK[::-1]


@pytest.mark.parametrize("who", ["client", "guest"])
async def test_a_slow_reader_holds_the_sender_up_in_bounded_memory(
    rig: Rig, guest: Guest, who: str
) -> None:
    client, inside = await pair(rig, guest)
    reader, writer = (client, inside) if who == "client" else (inside, client)
    tracemalloc.start()
    try:
        sending = asyncio.create_task(send(writer, BULK + BULK))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        assert not done, "20 MiB went nowhere"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # `BULK + BULK` itself is 20 MiB; of what is under way the forwarder holds a chunk.
    assert peak < len(BULK) * 2 + (1 << 20)
    received = 0
    while received < 2 * len(BULK):
        received += len(await receive(reader))
    await sending


async def test_a_client_that_ends_its_half_still_gets_its_answer(rig: Rig, guest: Guest) -> None:
    client, inside = await pair(rig, guest)
    await send(client, b"question")
    client.shutdown(socket.SHUT_WR)
    assert await receive_all(inside) == b"question"
    await send(inside, b"answer")
    inside.close()
    assert await receive_all(client) == b"answer"


async def test_a_guest_that_ends_its_half_still_hears_the_client(rig: Rig, guest: Guest) -> None:
    client, inside = await pair(rig, guest)
    await send(inside, b"banner")
    inside.shutdown(socket.SHUT_WR)
    assert await receive_all(client) == b"banner"
    await send(client, b"more")
    client.close()
    assert await receive_all(inside) == b"more"


async def test_a_client_that_breaks_ends_the_guests_side(rig: Rig, guest: Guest) -> None:
    client, inside = await pair(rig, guest)
    reset = struct.pack("ii", 1, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    client.close()
    assert await is_dropped(inside)
    await until(lambda: not rig.forwarder._connections)


async def test_a_guest_that_is_gone_ends_the_clients_side(rig: Rig, guest: Guest) -> None:
    client, inside = await pair(rig, guest)
    inside.close()
    assert await receive_all(client) == b""
    with contextlib.suppress(ConnectionError):
        await send(client, b"x" * 100)
    await until(lambda: not rig.forwarder._connections)


async def test_a_guest_that_breaks_while_a_client_sends_ends_the_client(
    rig: Rig, guest: Guest
) -> None:
    client, inside = await pair(rig, guest)
    sending = asyncio.create_task(send(client, BULK))
    await receive(inside)
    inside.close()
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await sending
    await until(lambda: not rig.forwarder._connections)


async def test_connections_do_not_mix(rig: Rig, guest: Guest) -> None:
    rig.forwarder.start()
    clients = [await rig.call() for _ in range(5)]
    for number, client in enumerate(clients):
        await send(client, b"%d" % number)
    for _ in clients:
        inside = await guest.accept()
        await send(inside, b"re: " + await receive(inside))
    answers = [await receive(client) for client in clients]
    assert answers == [b"re: %d" % number for number in range(5)]


async def test_who_calls_before_the_start_waits_and_is_served(rig: Rig, guest: Guest) -> None:
    client = await rig.call()
    await send(client, b"early")
    await asyncio.sleep(0)
    assert not guest.is_called()
    rig.forwarder.start()
    assert await receive(await guest.accept()) == b"early"


async def test_more_than_the_guest_serves_are_closed_at_once(rig: Rig, guest: Guest) -> None:
    rig.forwarder.start()
    served: list[tuple[socket.socket, socket.socket]] = []
    for _ in range(MAX_CONNECTIONS):
        client = await rig.call()
        served.append((client, await guest.accept()))
    for _ in range(3):
        assert await is_dropped(await rig.call())
    assert not guest.is_called()
    for client, inside in served:
        await send(client, b"still")
        assert await receive(inside) == b"still"
    served[0][0].close()
    served[0][1].close()
    await until(lambda: len(rig.forwarder._connections) < MAX_CONNECTIONS)
    again = await rig.call()
    await send(again, b"room")
    assert await receive(await guest.accept()) == b"room"


async def test_no_socket_drops_the_caller_and_the_next_may_succeed(
    rig: Rig, tmp_path: Path
) -> None:
    rig.forwarder.start()
    assert await is_dropped(await rig.call())
    with contextlib.closing(Guest(tmp_path)) as guest:
        client = await rig.call()
        await send(client, b"now")
        assert await receive(await guest.accept()) == b"now"


@pytest.mark.parametrize("kind", ["file", "fifo", "directory", "loop"])
async def test_something_else_in_the_sockets_place_drops_the_caller(
    rig: Rig, tmp_path: Path, kind: str
) -> None:
    """The runner's user may put there what it likes."""
    place = tmp_path / NAME
    match kind:
        case "file":
            place.touch()
        case "fifo":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
        case _:
            place.symlink_to(place)
    rig.forwarder.start()
    assert await is_dropped(await rig.call())


LISTEN = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
print(connection.recv(100), flush=True)
"""


async def test_another_process_behind_the_socket_gets_no_byte(rig: Rig, tmp_path: Path) -> None:
    """Such as one to which a hostile runner made its socket's name a link."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / NAME).symlink_to(elsewhere)
    stranger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LISTEN, str(elsewhere)), stdout=subprocess.PIPE
    )
    assert stranger.stdout is not None
    assert await stranger.stdout.readline() == b"listening\n"
    client = await rig.call()
    await send(client, b"secret")
    rig.forwarder.start()
    assert await is_dropped(client)
    assert await stranger.stdout.readline() == b"b''\n"
    assert await stranger.wait() == 0


async def test_the_very_process_is_served(tmp_path: Path, nothing_left: None) -> None:
    stranger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LISTEN, str(tmp_path / NAME)), stdout=subprocess.PIPE
    )
    assert stranger.stdout is not None
    assert await stranger.stdout.readline() == b"listening\n"
    rig = Rig(tmp_path, stranger.pid)
    rig.forwarder.start()
    await send(await rig.call(), b"hello")
    assert await stranger.stdout.readline() == b"b'hello'\n"
    assert await stranger.wait() == 0
    await rig.close()


async def test_the_kernel_says_who_listens(guest: Guest, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / NAME))
        assert peer_pid(connection) == os.getpid()


async def test_close_drops_every_connection_and_may_be_repeated(rig: Rig, guest: Guest) -> None:
    rig.forwarder.start()
    ends: list[socket.socket] = []
    for _ in range(3):
        ends.append(await rig.call())
        ends.append(await guest.accept())
    stuck = asyncio.create_task(send(ends[0], BULK))
    await receive(ends[1], 1)
    await rig.forwarder.close()
    await asyncio.gather(stuck, return_exceptions=True)
    for end in ends[2:]:
        assert await is_dropped(end)
    await rig.forwarder.close()
    assert not rig.forwarder._connections


async def test_close_before_start_is_nothing(rig: Rig) -> None:
    await rig.forwarder.close()


@pytest.mark.parametrize("steps", range(12))
async def test_close_while_somebody_calls_loses_nobody(rig: Rig, guest: Guest, steps: int) -> None:
    """No socket is left to the garbage collector, and no callback breaks."""
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    rig.forwarder.start()
    calling = asyncio.create_task(rig.call())
    for _ in range(steps):
        await asyncio.sleep(0)
    await rig.forwarder.close()
    await calling
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert not broken


async def test_without_descriptors_callers_wait(rig: Rig, guest: Guest) -> None:
    """Accepting fails again and again, and goes on once there is room."""
    client = await rig.call()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    rig.forwarder.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.25)
        assert not rig.forwarder._connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await send(client, b"late")
    assert await receive(await guest.accept()) == b"late"


@pytest.mark.parametrize("steps", range(8))
async def test_close_at_any_step_of_a_call_leaves_nothing(
    rig: Rig, guest: Guest, steps: int
) -> None:
    rig.forwarder.start()
    client = await rig.call()
    for _ in range(steps):
        await asyncio.sleep(0)
    await rig.forwarder.close()
    rig.listener.close()  # what was not accepted yet
    assert await is_dropped(client)


async def test_a_port_that_is_taken_is_told_apart(nothing_left: None) -> None:
    with claim(0) as listener, pytest.raises(PortTaken):
        claim(listener.getsockname()[1])


async def test_only_this_machine_can_call(nothing_left: None) -> None:
    with claim(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
