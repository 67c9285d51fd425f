# SPDX-License-Identifier: Apache-2.0
"""The pooled connection against peers that break the rules: bounded, with clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import tracemalloc
from collections.abc import AsyncGenerator

import anyio
import asyncssh
import pytest
from tests.infra.ssh.peer import peer, private_host_key, raw_peer

from waggle.domain.errors import GuestLost
from waggle.infra.ssh import ATTEMPTS, EnvironmentKeys, SshConnection, SshSilent, new_keys
from waggle.infra.ssh.bounds import BrakedWriter

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
MEMORY = 16 << 20


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def opened(
    port: int, keys: EnvironmentKeys, timeout: float = 10.0
) -> AsyncGenerator[SshConnection]:
    connection = SshConnection(port, keys, timeout=timeout)
    try:
        yield connection
    finally:
        await connection.aclose()


async def test_one_connection_serves_all_callers() -> None:
    async with peer() as made, opened(made.port, made.keys) as connection:
        found = await asyncio.gather(*(connection.get() for _ in range(5)))
        assert len(set(map(id, found))) == 1
        assert made.connections == 1


async def test_a_dropped_connection_is_made_again() -> None:
    async with peer() as made, opened(made.port, made.keys) as connection:
        first = await connection.get()
        connection.drop(first)
        second = await connection.get()
        assert second is not first
        connection.drop(first)  # an old connection does not drop the new one
        assert await connection.get() is second
        assert made.connections == 2


async def test_a_connection_that_the_peer_closed_is_made_again() -> None:
    async with peer() as made, opened(made.port, made.keys) as connection:
        first = await connection.get()
        first.abort()
        await first.wait_closed()
        assert await connection.get() is not first


async def test_another_host_key_is_refused_at_once() -> None:
    other = private_host_key(new_keys())
    async with peer(shown_key=other) as made, opened(made.port, made.keys) as connection:
        with pytest.raises(GuestLost, match="host key that is not its own"):
            await connection.get()
        assert made.connections == 1


async def test_a_server_that_does_not_know_the_client_is_lost() -> None:
    async with peer(lets_in=False) as made, opened(made.port, made.keys) as connection:
        with pytest.raises(GuestLost, match="does not answer: PermissionDenied"):
            await connection.get()


async def test_a_missing_server_is_reported_quickly() -> None:
    async with opened(free_port(), new_keys()) as connection:
        started = time.monotonic()
        with pytest.raises(GuestLost, match="does not answer"):
            await connection.get()
        assert time.monotonic() - started < 2


async def test_silence_ends_at_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_peer(silent) as made, opened(made.port, made.keys, 0.5) as connection:
        with pytest.raises(GuestLost, match=r"it took over 0\.5 s") as lost:
            await connection.get()
        assert "try again" in (lost.value.hint or ""), "nothing is gone"
        assert made.connections == 1


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"hello\r\n" * 1000, id="lines without end"),
        pytest.param(b"x" * 1000, id="one line without end"),
        pytest.param(b"SSH-2.0-x\r\n" + b"\xff" * 1000, id="packets of 4 GiB"),
        pytest.param(b"SSH-2.0-x\r\n" + b"\0" * 1000, id="empty packets"),
        pytest.param(b"SSH-1.5-old\r\n" * 1000, id="an old protocol"),
        pytest.param(b"SSH-2.0-" + b"v" * 300 + b"\r\n", id="a long version"),
        pytest.param(
            (b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14" + b"\xff" * 10) * 1000, id="a bad key exchange"
        ),
    ],
)
async def test_malformed_data_is_bounded(piece: bytes) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(piece)
            await writer.drain()

    async with raw_peer(talk) as made, opened(made.port, made.keys, 3.0) as connection:
        tracemalloc.start()
        try:
            with pytest.raises(GuestLost, match="does not answer"):
                await connection.get()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MEMORY
        assert 1 <= made.connections <= ATTEMPTS


async def test_a_peer_that_hangs_up_is_retried_a_few_times() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with raw_peer(hang_up) as made, opened(made.port, made.keys) as connection:
        with pytest.raises(GuestLost, match="does not answer"):
            await connection.get()
        assert made.connections == ATTEMPTS


async def test_a_cancelled_connect_leaves_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()

    async with raw_peer(silent) as made, opened(made.port, made.keys) as connection:
        for seconds in (0.0, 0.01, 0.1):
            with anyio.move_on_after(seconds) as scope:
                await connection.get()
            assert scope.cancelled_caught


async def test_closing_ends_a_pending_connect_and_every_later_one() -> None:
    async with peer() as made:
        connection = SshConnection(made.port, made.keys)
        connecting = asyncio.create_task(connection.get())
        await asyncio.sleep(0)
        await connection.aclose()
        with pytest.raises(GuestLost, match="being destroyed"):
            await connecting
        with pytest.raises(GuestLost, match="being destroyed"):
            await connection.get()
        await connection.aclose()


async def test_the_proxy_is_offered_and_serves_the_guests_connections() -> None:
    served = asyncio.Event()

    async def proxy(reader: asyncssh.SSHReader[bytes], writer: BrakedWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()
        served.set()

    async with peer(forwards=True) as made:
        port = free_port()
        connection = SshConnection(made.port, made.keys, proxy=proxy, proxy_port=port)
        await connection.get()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"ping")
        assert await reader.read() == b"ping"
        assert served.is_set()
        writer.close()
        await writer.wait_closed()
        await connection.aclose()


async def test_a_taken_proxy_port_costs_the_network_but_not_the_guest() -> None:
    async def proxy(reader: asyncssh.SSHReader[bytes], writer: BrakedWriter) -> None: ...

    async with peer(forwards=True) as made:
        port = free_port()
        connection = SshConnection(made.port, made.keys, proxy=proxy, proxy_port=port)
        with socket.create_server(("127.0.0.1", port)):
            first = await connection.get()
        assert await connection.get() is first  # the port is free now, and is claimed again
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0
        await connection.aclose()


async def test_a_server_that_does_not_answer_about_the_proxy_is_silent_and_given_up() -> None:
    async def proxy(reader: asyncssh.SSHReader[bytes], writer: BrakedWriter) -> None: ...

    never = asyncio.get_running_loop().create_future()
    async with peer(forwards=never) as made:
        connection = SshConnection(
            made.port, made.keys, proxy=proxy, proxy_port=free_port(), timeout=1.0
        )
        for calls in (1, 2):
            with pytest.raises(SshSilent, match=r"forwards nothing \(TimeoutError\)"):
                await connection.get()
            assert made.connections == calls
        await connection.aclose()
