# SPDX-License-Identifier: Apache-2.0
"""Channels to a guest's ports against an SSH server that plays the guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import asyncssh
import pytest
from tests.infra.ssh.peer import Peer, peer

from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.ports import GuestPorts

pytestmark = pytest.mark.anyio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(-1))
    await writer.drain()
    writer.close()


@pytest.fixture
async def reachable() -> AsyncGenerator[tuple[Peer, SshConnection, int]]:
    """A guest with an echo server on one port."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    async with server, peer(tunnels=True) as made:
        connection = SshConnection(made.port, made.keys)
        yield made, connection, port
        await connection.aclose()


async def test_the_directions_end_separately(reachable: tuple[Peer, SshConnection, int]) -> None:
    _, connection, port = reachable
    reader, writer = await GuestPorts(connection).connect(port)
    writer.write(b"x" * 300_000)
    await writer.drain()
    writer.write_eof()
    assert await reader.read(-1) == b"x" * 300_000
    writer.close()
    await writer.wait_closed()
    assert writer.is_closing()


async def test_a_port_without_a_listener_is_refused(
    reachable: tuple[Peer, SshConnection, int],
) -> None:
    _, connection, _ = reachable
    with pytest.raises(asyncssh.ChannelOpenError):
        await GuestPorts(connection).connect(1)


async def test_a_server_on_the_other_loopback_is_found(
    reachable: tuple[Peer, SshConnection, int],
) -> None:
    _, connection, _ = reachable
    server = await asyncio.start_server(echo, "::1", 0)
    async with server:
        port = int(server.sockets[0].getsockname()[1])
        reader, writer = await GuestPorts(connection).connect(port)
        writer.write(b"six")
        writer.write_eof()
        assert await reader.read(-1) == b"six"
        writer.close()
        with pytest.raises(asyncssh.ChannelOpenError):
            await GuestPorts(connection).connect(port, ("127.0.0.1",))


async def test_drain_waits_for_the_connection_below_the_channel(
    reachable: tuple[Peer, SshConnection, int],
) -> None:
    """A guest that opens a huge window and reads nothing must not fill the server's memory."""
    _, connection, port = reachable
    _, writer = await GuestPorts(connection).connect(port)
    below = await connection.get()
    below.pause_writing()  # as the transport does when its buffer is over the limit
    writer.write(b"x")
    draining = asyncio.create_task(writer.drain())
    done, _ = await asyncio.wait({draining}, timeout=0.1)
    assert not done
    below.resume_writing()
    await asyncio.wait_for(draining, 5)
    below.pause_writing()
    draining = asyncio.create_task(writer.drain())
    connection.drop(below)
    await asyncio.wait_for(asyncio.wait({draining}), 5)
    assert writer.is_closing()
