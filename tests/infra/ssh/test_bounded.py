# SPDX-License-Identifier: Apache-2.0
"""The bounds of a connection must keep whole output, its end, and key exchanges intact."""

from __future__ import annotations

from typing import Any, cast

import asyncssh
import pytest
from tests.infra.ssh.peer import peer
from tests.support.hostile_ssh import hostile
from tests.support.waiting import until

from waggle.domain.programs import Command
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.bounded import PACKETS
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.run.launcher import CommandSession

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
SIZE = 3_000_000


async def test_output_of_many_turns_arrives_complete_and_in_order() -> None:
    pattern = bytes(range(256)) * 40

    async def talk(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for _ in range(SIZE // len(pattern)):
            process.stdout.write(pattern)
            await process.stdout.drain()
        process.exit(0)

    async with peer(talk) as made:
        connection = SshConnection(made.port, made.keys)
        result = await Shell(connection).run(Command(("x",), 60.0, 2 * SIZE))
        await connection.aclose()
    assert result.exit_code == 0
    assert result.stdout.head + result.stdout.tail == pattern * (SIZE // len(pattern))


async def test_data_before_the_connections_end_is_decoded_before_the_end() -> None:
    """More packets than fit a turn, and right behind them the end of the stream."""
    lines = 20 * PACKETS

    async def talk(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for number in range(lines):
            process.stdout.write(b"%06d\n" % number)
        process.exit(3)
        cast("Any", process.channel.get_connection())._transport.write_eof()

    async with peer(talk) as made:
        connection = SshConnection(made.port, made.keys)
        result = await Shell(connection).run(Command(("x",), 60.0, 2 * SIZE))
        await connection.aclose()
    assert result.exit_code == 3
    assert result.stdout.total == 7 * lines


async def test_key_exchanges_during_output_interrupt_nothing() -> None:
    async def talk(process: asyncssh.SSHServerProcess[bytes]) -> None:
        server = cast("Any", process.channel.get_connection())
        for number in range(5):
            process.stdout.write(b"%d" % number)
            server._send_kexinit()
            server._kexinit_sent = True
            await until(lambda: server._kex_complete)
        process.exit(0)

    async with peer(talk) as made:
        connection = SshConnection(made.port, made.keys)
        result = await Shell(connection).run(Command(("x",), 60.0, 100))
        assert connection.clear.is_set()
        await connection.aclose()
    assert result.stdout.head + result.stdout.tail == b"01234"


async def test_writing_pauses_while_a_key_exchange_does_not_end() -> None:
    """Data that may not be sent yet is kept: a proxied download would fill the memory."""
    async with hostile() as (port, keys):
        connection = SshConnection(port, keys)
        session = CommandSession(100)
        attack = "attack rekey-without-end"
        await open_exec(await connection.get(), session, attack, window=100_000)
        await until(lambda: not connection.clear.is_set())
        await connection.aclose()
