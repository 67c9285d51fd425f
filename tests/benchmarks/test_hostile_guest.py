# SPDX-License-Identifier: Apache-2.0
"""The hostile SSH server that benchmarks/attacks puts into a guest, here with the real client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from benchmarks.attacks.hostile import SERVER, compiled
from tests.support.programs import program

from waggle.domain.errors import GuestLost, GuestMisbehaves, WaggleError
from waggle.domain.programs import Command
from waggle.infra.ssh import EnvironmentKeys, SshConnection, new_keys
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.sftp import Files
from waggle.tasks import end

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that contains seal.so."""
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "seal.so").write_bytes(compiled(program("cc")))
    return directory


@asynccontextmanager
async def serving(kind: str, place: Path) -> AsyncGenerator[tuple[int, EnvironmentKeys]]:
    """Serve like PID 1 of a guest: one process per connection, which gets its descriptor."""
    keys, identity = new_keys(), place / f"{kind}.key"
    identity.write_bytes(keys.host_key)
    processes: list[subprocess.Popen[bytes]] = []

    async def accept() -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with connection, ours, theirs:
                argv = [sys.executable, "-S", "-m", SERVER, kind, place, identity]
                processes.append(subprocess.Popen(argv, stdin=theirs.fileno(), cwd=ROOT))
                ours.setblocking(False)
                await loop.sock_recv(ours, 1)
                socket.send_fds(ours, [b"\0"], [connection.fileno()])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept())
        try:
            yield listener.getsockname()[1], keys
        finally:
            await end(accepting)
            for process in processes:
                process.kill()
                process.wait()


@pytest.mark.parametrize(
    "kind",
    ["forwarded-opens", "unknown-opens", "global-requests", "unknown-packets", "debug", "ignore"],
)
async def test_a_flood_of_control_packets_is_misconduct(kind: str, place: Path) -> None:
    async with serving(kind, place) as (port, keys):
        connection = SshConnection(port, keys)
        try:
            await connection.get()
            with pytest.raises(WaggleError):
                await Shell(connection).run(Command(("true",), 30.0, 100))
            with pytest.raises(GuestMisbehaves):
                connection.require_good_conduct()
        finally:
            await connection.aclose()


@pytest.mark.parametrize("kind", ["one-byte-data", "channel-requests", "channel-requests-unread"])
async def test_a_flood_within_the_rules_is_no_misconduct(kind: str, place: Path) -> None:
    async with serving(kind, place) as (port, keys):
        connection = SshConnection(port, keys)
        try:
            await connection.get()
            shell = Shell(connection, patience=(1.0, 1.0))
            try:
                result = await shell.run(Command(("true",), 1.0, 100))
            except GuestLost:  # it does not answer the kill request
                result = None
            assert result is None or result.timed_out
            connection.require_good_conduct()
        finally:
            await connection.aclose()


async def test_an_endless_directory_is_listed_in_part(place: Path) -> None:
    async with serving("sftp-without-end", place) as (port, keys):
        connection = SshConnection(port, keys)
        try:
            listing = await Files(connection).list("/d")
        finally:
            await connection.aclose()
    assert listing.truncated


async def test_unrequested_answers_are_refused(place: Path) -> None:
    async with serving("sftp-nobody-asked", place) as (port, keys):
        connection = SshConnection(port, keys)
        try:
            await connection.get()
            with pytest.raises(WaggleError):
                await Files(connection).list("/d")
        finally:
            await connection.aclose()
