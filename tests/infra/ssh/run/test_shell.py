# SPDX-License-Identifier: Apache-2.0
"""The shell against launchers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
import tracemalloc
from collections.abc import AsyncGenerator, Sequence

import anyio
import asyncssh
import pytest
from tests.infra.ssh.peer import Peer, Process, peer, raw_peer
from tests.infra.ssh.run.processes import hang, refuse
from tests.support.vm import command
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.domain.programs import NOTHING_LEFT, ExecutionResult, GuestUser
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run import Shell

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
PATIENCE = (0.3, 0.3)
PATIENT_AT_LAST = (0.3, 10)  # the second try includes a handshake, slow on a busy host
MEMORY = 24 << 20


@contextlib.asynccontextmanager
async def shell(
    run: Process, kill: Process | None = None, patience: Sequence[float] = PATIENCE
) -> AsyncGenerator[tuple[Peer, Shell]]:
    async with peer(run, kill=kill) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        try:
            yield made, Shell(connection, patience=patience)
        finally:
            await connection.aclose()


async def read_frame(process: asyncssh.SSHServerProcess[bytes]) -> list[bytes]:
    """Return the fields as the kit's frame.c reads them."""
    (size,) = struct.unpack(">I", await process.stdin.readexactly(4))
    body = await process.stdin.readexactly(size)
    assert body.endswith(b"\0")
    return body[:-1].split(b"\0")


async def test_the_frame_code_and_stdin_arrive_as_sent() -> None:
    seen: list[object] = []

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        seen.append(await read_frame(process))
        seen.append(await process.stdin.read())
        process.stdout.write(b"out\xff")
        process.stderr.write(b"err")
        process.exit(3)

    given = command(
        "a", "{file}", code=b"\0code", extension=".py", stdin=b"in", cwd="/x", env={"K": "v=w"},
        user=GuestUser.ROOT,
    )  # fmt: skip
    async with shell(run) as (_, made):
        result = await made.run(given)
    assert seen == [
        [b"r", b"d/x", b"eK=v=w", b"aa", b"a{file}", b"c5", b"x.py"],
        b"\0codein",
    ]
    assert (result.stdout.head, result.stderr.head, result.exit_code) == (b"out\xff", b"err", 3)


async def test_an_end_without_a_status_is_a_lost_guest_and_the_run_is_killed() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await read_frame(process)
        process.close()

    async with shell(run) as (made, made_shell):
        with pytest.raises(GuestLost, match="it was not finished"):
            await made_shell.run(command("x"))
        (started,) = made.runs()
        assert made.kills() == [started.replace("run", "kill")]


async def test_a_broken_connection_is_a_lost_guest_and_the_run_is_killed_over_a_new_one() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await read_frame(process)
        process.get_extra_info("connection").abort()

    async with shell(run) as (made, made_shell):
        with pytest.raises(GuestLost, match="it was not finished"):
            await made_shell.run(command("x"))
        assert made.connections == 2
        assert len(made.kills()) == 1


async def test_an_unknown_signal_name_is_not_repeated() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.exit_with_signal("KILL\x1b[31m\n", False, "x" * 1000)

    async with shell(run) as (_, made):
        result = await made.run(command("x"))
    assert (result.exit_code, result.signal) == (None, "unknown")


async def test_a_timeout_kills_and_returns_the_output_so_far() -> None:
    running: list[asyncssh.SSHServerProcess[bytes]] = []

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(b"so far")
        running.append(process)
        await hang(process)

    async def kill(process: asyncssh.SSHServerProcess[bytes]) -> None:
        run_id = made.runs()[0].removeprefix("run ")
        running[0].stderr.write(
            f"\0waggle-left {run_id}\n{run_id} 9 child\nall 1\n".encode()  # reported, then killed
        )
        running[0].exit_with_signal("KILL")
        process.exit(0)

    async with shell(run, kill) as (made, made_shell):
        result = await made_shell.run(command("x", timeout=0.3))
        assert result.timed_out
        assert (result.stdout.head, result.exit_code, result.signal) == (b"so far", None, None)
        assert result.left == NOTHING_LEFT
        assert len(made.kills()) == 1
        assert made.connections == 1  # the connection was not dropped


async def ignore(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.exit(0)  # confirms, but the run continues


async def babble(process: asyncssh.SSHServerProcess[bytes]) -> None:
    while True:
        process.stdout.write(b"no " * 10_000)
        await process.stdout.drain()


@pytest.mark.parametrize("kill", [hang, refuse, babble])
async def test_a_guest_that_does_not_kill_is_lost_within_the_patience(kill: Process) -> None:
    async with shell(hang, kill) as (made, made_shell):
        started = time.monotonic()
        with pytest.raises(GuestLost, match="does not answer to have it killed"):
            await made_shell.run(command("x", timeout=0.2))
        assert time.monotonic() - started < 0.2 + sum(PATIENCE) + 2
        assert len(made.kills()) == 2
        assert made.connections == 2  # the second try had its own connection


async def test_a_guest_that_claims_to_have_killed_is_not_waited_for() -> None:
    async with shell(hang, ignore, PATIENT_AT_LAST) as (made, made_shell):
        assert (await made_shell.run(command("x", timeout=1))).timed_out
        assert made.connections == 2


@pytest.mark.parametrize("kill", [hang, refuse, ignore])
async def test_cancelling_is_bounded_too(kill: Process) -> None:
    async with shell(hang, kill) as (_, made):
        started = time.monotonic()
        with anyio.move_on_after(0.2) as scope:
            await made.run(command("x"))
        assert scope.cancelled_caught
        assert time.monotonic() - started < 0.2 + sum(PATIENCE) + 2


async def test_a_channel_that_never_opens_is_a_lost_guest() -> None:
    async with peer(session=asyncio.get_running_loop().create_future) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        with pytest.raises(GuestLost, match="does not answer to have it killed"):
            await Shell(connection, patience=PATIENCE).run(command("x", timeout=0.3))
        await connection.aclose()


async def test_a_flood_is_counted_and_not_kept() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for _ in range(2_000):
            process.stdout.write(b"x" * 32_768)
            await process.stdout.drain()
        process.exit(0)

    async with shell(run) as (_, made):
        tracemalloc.start()
        try:
            result = await made.run(command("x", output_limit=1_000))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert result.stdout.total == 2_000 * 32_768
    assert len(result.stdout.head) + len(result.stdout.tail) == 1_000
    assert peak < MEMORY


async def test_a_dead_connection_is_noticed_and_the_command_sent_over_a_new_one() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await read_frame(process)
        process.exit(0)

    async with peer(run) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        made_shell = Shell(connection, patience=PATIENCE)
        await made_shell.run(command("x"))
        old = await connection.get()
        task = asyncio.create_task(made_shell.run(command("x")))
        await asyncio.sleep(0)  # the command now holds the old connection
        old.abort()
        assert (await task).exit_code == 0
        assert made.connections == 2
        await connection.aclose()


async def test_a_silent_server_is_a_lost_guest_within_the_commands_time() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_peer(silent) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        with pytest.raises(GuestLost, match="within the command's time"):
            await Shell(connection).run(command("x", timeout=0.2))
        await connection.aclose()


async def test_a_commands_time_stops_while_the_machine_is_paused() -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    results: list[ExecutionResult] = []

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await read_frame(process)
        begun.set()
        await go_on.wait()
        process.exit(0)

    async with shell(run) as (_, made), anyio.create_task_group() as tasks:

        async def ask() -> None:
            results.append(await made.run(command("x", timeout=1.5)))

        tasks.start_soon(ask)
        await begun.wait()
        made.set_paused(True)
        await anyio.sleep(1.6)  # longer than the timeout: nothing may happen
        assert results == []
        go_on.set()
    assert [(result.exit_code, result.timed_out) for result in results] == [(0, False)]


async def test_a_resumed_command_has_the_rest_of_its_time() -> None:
    errors: list[GuestLost] = []
    async with shell(hang) as (_, made), anyio.create_task_group() as tasks:

        async def ask() -> None:
            try:
                assert (await made.run(command("x", timeout=1.0))).timed_out
            except GuestLost as error:  # this peer confirms no kill
                errors.append(error)

        tasks.start_soon(ask)
        await until(lambda: bool(made.running() - {""}))
        made.set_paused(True)
        made.set_paused(False)
    assert all("ran out of time" in error.message for error in errors)
