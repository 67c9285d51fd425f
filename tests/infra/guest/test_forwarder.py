# SPDX-License-Identifier: Apache-2.0
"""The forwarder between real sockets: bytes in both directions, and half-closes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import tracemalloc
from pathlib import Path

import pytest
from tests.infra.guest.forwarding import (
    BULK,
    Guest,
    Rig,
    is_dropped,
    pair,
    receive,
    receive_all,
    send,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def test_bulk_data_flows_both_ways_at_once(rig: Rig, guest: Guest) -> None:
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
async def test_a_slow_reader_blocks_the_sender_in_bounded_memory(
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
    # `BULK + BULK` itself is 20 MiB; the forwarder holds one chunk of the data in transit.
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


async def test_a_silent_guest_does_not_keep_the_way_of_a_client_that_has_left(
    tmp_path: Path, guest: Guest
) -> None:
    """A stopped SSH server never closes; QEMU's machines have four ways to it."""
    rig = Rig(tmp_path, os.getpid(), linger=0.1)
    client, inside = await pair(rig, guest)
    await send(client, b"question")
    client.close()
    assert await receive_all(inside) == b"question"
    assert inside.fileno() >= 0, "its own end is open"
    await until(lambda: not rig.forwarder._connections)
    with pytest.raises(BrokenPipeError):
        await send(inside, b"answer")
    await rig.close()


async def test_a_client_that_has_not_left_keeps_its_way(tmp_path: Path, guest: Guest) -> None:
    rig = Rig(tmp_path, os.getpid(), linger=0.0)
    client, inside = await pair(rig, guest)
    await send(inside, b"banner")
    assert await receive(client) == b"banner"
    await send(client, b"question")
    assert await receive(inside) == b"question"
    assert rig.forwarder._connections
    await rig.close()


async def test_a_guest_that_ends_its_half_still_receives_from_the_client(
    rig: Rig, guest: Guest
) -> None:
    client, inside = await pair(rig, guest)
    await send(inside, b"banner")
    inside.shutdown(socket.SHUT_WR)
    assert await receive_all(client) == b"banner"
    await send(client, b"more")
    client.close()
    assert await receive_all(inside) == b"more"


async def test_a_client_that_resets_ends_the_guests_side(rig: Rig, guest: Guest) -> None:
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
