# SPDX-License-Identifier: Apache-2.0
"""The forwarder between real sockets: which callers it serves or drops, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.infra.guest.forwarding import BULK, NAME, Guest, Rig, is_dropped, receive, send
from tests.support.waiting import until

from waggle.domain.errors import PortTaken
from waggle.infra.guest.door import peer_pid
from waggle.infra.guest.forwarder import MAX_CONNECTIONS, claim

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def test_a_caller_before_the_start_waits_and_is_served(rig: Rig, guest: Guest) -> None:
    client = await rig.call()
    await send(client, b"early")
    await asyncio.sleep(0)
    assert not guest.is_called()
    rig.forwarder.start()
    assert await receive(await guest.accept()) == b"early"


async def test_callers_beyond_the_limit_are_closed_at_once(rig: Rig, guest: Guest) -> None:
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


async def test_a_missing_socket_drops_the_caller_and_the_next_may_succeed(
    rig: Rig, tmp_path: Path
) -> None:
    rig.forwarder.start()
    assert await is_dropped(await rig.call())
    with contextlib.closing(Guest(tmp_path)) as guest:
        client = await rig.call()
        await send(client, b"now")
        assert await receive(await guest.accept()) == b"now"


@pytest.mark.parametrize("kind", ["file", "fifo", "directory", "loop"])
async def test_another_kind_of_file_in_the_sockets_place_drops_the_caller(
    rig: Rig, tmp_path: Path, kind: str
) -> None:
    """The runner's user may put anything there."""
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


async def test_another_process_behind_the_socket_receives_no_byte(rig: Rig, tmp_path: Path) -> None:
    stranger = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LISTEN, str(tmp_path / NAME)), stdout=subprocess.PIPE
    )
    assert stranger.stdout is not None
    assert await stranger.stdout.readline() == b"listening\n"
    client = await rig.call()
    await send(client, b"secret")
    rig.forwarder.start()
    assert await is_dropped(client)
    assert await stranger.stdout.readline() == b"b''\n"
    assert await stranger.wait() == 0


async def test_the_expected_process_is_served(tmp_path: Path, nothing_left: None) -> None:
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


async def test_the_kernel_reports_the_listening_process(guest: Guest, tmp_path: Path) -> None:
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


async def test_close_before_start_does_nothing(rig: Rig) -> None:
    await rig.forwarder.close()


@pytest.mark.parametrize("steps", range(12))
async def test_close_during_a_call_loses_no_socket(rig: Rig, guest: Guest, steps: int) -> None:
    """No socket is left to the garbage collector, and no callback fails."""
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
    """Accepting fails repeatedly, and resumes once a descriptor is free."""
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
    rig.listener.close()  # connections that were not accepted yet
    assert await is_dropped(client)


async def test_a_taken_port_raises_port_taken(nothing_left: None) -> None:
    with claim(0) as listener, pytest.raises(PortTaken):
        claim(listener.getsockname()[1])


async def test_only_this_host_can_call(nothing_left: None) -> None:
    with claim(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
