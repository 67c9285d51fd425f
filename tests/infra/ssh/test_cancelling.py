# SPDX-License-Identifier: Apache-2.0
"""Cancellation at every single step: no run continues, and no channel or task is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

import asyncssh
import pytest
from tests.infra.ssh.peer import Server, Stalling, peer
from tests.support.vm import command
from tests.support.waiting import until

from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import open_sftp, open_tcp
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.sftp import Files

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
STEPS = 80


@pytest.fixture
async def echo_port() -> AsyncGenerator[int]:
    """The port of a server that a guest's tunnels reach."""
    async with await asyncio.start_server(
        lambda _reader, writer: writer.close(), "127.0.0.1", 0
    ) as server:
        yield int(server.sockets[0].getsockname()[1])


async def cancelled_after(steps: int, work: Callable[[], Awaitable[object]]) -> bool:
    """Cancel `work` after this many turns of the loop, and return whether it was cancelled."""
    task = asyncio.ensure_future(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return isinstance(outcome, asyncio.CancelledError)


def channels(connection: asyncssh.SSHClientConnection) -> int:
    open_now = cast("dict[int, object]", connection._channels)  # pyright: ignore[reportUnknownMemberType]
    return len(open_now)


async def settled(
    connection: asyncssh.SSHClientConnection, tasks: set[asyncio.Task[object]]
) -> None:
    """Wait until the peer's answers to all closes have arrived and no task works."""
    await until(lambda: channels(connection) == 0, 5)
    ours = lambda: {t for t in asyncio.all_tasks() - tasks if "waggle" in str(t.get_coro())}  # noqa: E731
    await until(lambda: not ours(), 5)


async def test_a_command_cancelled_at_any_step_is_killed_and_leaves_nothing() -> None:
    running: dict[str, asyncssh.SSHServerProcess[bytes]] = {}
    doomed: set[str] = set()

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        number = (process.command or "").split()[1]
        if number in doomed:
            process.exit(125)  # as the launcher does when the kill came first
            return
        running[number] = process
        await process.channel.wait_closed()
        running.pop(number, None)

    async def kill(process: asyncssh.SSHServerProcess[bytes]) -> None:
        number = (process.command or "").split()[1]
        doomed.add(number)
        if number in running:
            running[number].exit_with_signal("KILL")
        process.exit(0)

    async with peer(run, kill=kill) as made:
        connection = SshConnection(made.port, made.keys)
        shell = Shell(connection)
        established = await connection.get()
        before = asyncio.all_tasks()
        for steps in range(STEPS):
            assert await cancelled_after(steps, lambda: shell.run(command("x", stdin=b"in")))
            assert await connection.get() is established  # nothing was dropped
        await settled(established, before)
        assert not running
        await connection.aclose()


@pytest.mark.parametrize("server", [Server, Stalling])
async def test_a_file_call_cancelled_at_any_step_leaves_nothing(server: type[Server]) -> None:
    async with peer(sftp=server) as made:
        connection = SshConnection(made.port, made.keys)
        files = Files(connection)
        established = await connection.get()
        before = asyncio.all_tasks()
        for steps in range(STEPS):
            await cancelled_after(steps, lambda: files.read("/f", limit=100))
        await until(lambda: channels(established) <= 1, 5)  # the session of the next call
        await cancelled_after(STEPS, lambda: files.read("/f", limit=100))
        established.abort()
        await settled(established, before)
        await connection.aclose()


async def test_a_channel_cancelled_at_any_step_of_its_opening_is_closed(
    echo_port: int,
) -> None:
    async with peer(sftp=Server, tunnels=True) as made:
        connection = SshConnection(made.port, made.keys)
        established = await connection.get()
        before = asyncio.all_tasks()

        async def tcp() -> None:
            _, writer = await open_tcp(established, "127.0.0.1", echo_port, 1 << 16)
            writer.channel.abort()

        async def sftp() -> None:
            _, channel = await open_sftp(established)
            channel.abort()

        for opened in (tcp, sftp):
            cancelled = [await cancelled_after(steps, opened) for steps in range(STEPS)]
            assert any(cancelled)
            await settled(established, before)
        await connection.aclose()


async def test_a_connect_cancelled_at_any_step_leaves_nothing() -> None:
    async with peer() as made:
        for steps in range(STEPS):
            connection = SshConnection(made.port, made.keys)
            await cancelled_after(steps, connection.get)
            await connection.aclose()
