# SPDX-License-Identifier: Apache-2.0
"""A real SSH server on loopback that plays a hostile guest with valid keys.

`peer` serves with asyncssh, `raw_peer` with any bytes that a test sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import stat
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from waggle.infra.ssh import EnvironmentKeys, new_keys

Process = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]
SftpFactory = Callable[["asyncssh.SSHServerChannel[bytes]"], asyncssh.SFTPServer]
RawSession = asyncssh.SSHServerSession[bytes]
SessionFactory = Callable[[], RawSession | Awaitable[RawSession]]
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Peer:
    """The port, the matching keys, and what the peer has seen."""

    port: int
    keys: EnvironmentKeys
    connections: int = 0
    commands: list[str] = field(default_factory=list[str])

    def runs(self) -> list[str]:
        return [command for command in self.commands if command.startswith("run ")]

    def kills(self) -> list[str]:
        return [command for command in self.commands if command.startswith("kill ")]


class _Channel(Protocol):
    """asyncssh's channel without its open type parameters."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...


class RawSftp(asyncssh.SSHServerSession[bytes]):
    """An SFTP server of raw bytes: it sends `answers` to any requests, then `endless` forever.

    An empty answer hangs up.
    """

    def __init__(self, answers: Sequence[bytes], endless: bytes = b"") -> None:
        self._answers = list(answers)
        self._endless = endless
        self._input = b""
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._input += data
        while len(self._input) >= 4:
            size = 4 + int.from_bytes(self._input[:4], "big")
            if len(self._input) < size:
                return
            self._input = self._input[size:]
            if self._answers:
                self._write(self._answers.pop(0))
                if not self._answers:
                    self.resume_writing()

    def resume_writing(self) -> None:
        if self._endless and not self._answers:
            asyncio.get_running_loop().call_soon(self._babble)

    def _babble(self) -> None:
        self._write(self._endless)
        if self._channel is not None and self._channel.get_write_buffer_size() < 100_000:
            self.resume_writing()

    def _write(self, data: bytes) -> None:
        channel = cast("_Channel | None", self._channel)
        if channel is None or channel.is_closing():
            return
        if data:
            channel.write(data)
        else:
            channel.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel, self._endless = None, b""


def private_host_key(keys: EnvironmentKeys) -> asyncssh.SSHKey:
    """Return the guest's private key, read from dropbear's format as dropbear reads it."""
    (size,) = struct.unpack_from(">I", keys.host_key)
    assert keys.host_key[4 : 4 + size] == b"ssh-ed25519"
    (length,) = struct.unpack_from(">I", keys.host_key, 4 + size)
    body = keys.host_key[8 + size :]
    assert len(body) == length == 64
    private = Ed25519PrivateKey.from_private_bytes(body[:32])
    assert private.public_key().public_bytes_raw() == body[32:]
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return asyncssh.import_private_key(pem)


@contextlib.asynccontextmanager
async def peer(
    run: Process | None = None,
    *,
    kill: Process | None = None,
    sftp: SftpFactory | None = None,
    keys: EnvironmentKeys | None = None,
    shown_key: asyncssh.SSHKey | None = None,
    lets_in: bool = True,
    forwards: bool | asyncio.Future[bool] = False,
    tunnels: bool = False,
    session: SessionFactory | None = None,
    packet: int = 32_768,
) -> AsyncGenerator[Peer]:
    """Serve until the end of the block; `run` and `kill` stand in for the launcher.

    `packet` is the largest packet that the server takes.
    """
    keys = keys or new_keys()
    made = Peer(0, keys)

    open_now: list[asyncssh.SSHServerConnection] = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            made.connections += 1
            open_now.append(conn)

        def server_requested(self, listen_host: str, listen_port: int) -> bool | Awaitable[bool]:
            return forwards

        def connection_requested(
            self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
        ) -> bool:
            return tunnels and dest_host in ("127.0.0.1", "::1")

        def session_requested(self) -> RawSession | Awaitable[RawSession] | bool:
            return session() if session else False

    async def launcher(process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        made.commands.append(command)
        handler = kill if command.startswith("kill ") else run
        if handler is None:
            process.exit(0)
            return
        with contextlib.suppress(OSError, asyncssh.Error):
            await handler(process)

    client = keys.client.export_public_key().decode() if lets_in else ""
    acceptor = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[shown_key or private_host_key(keys)],
        authorized_client_keys=asyncssh.import_authorized_keys(client),
        process_factory=None if session else launcher,
        sftp_factory=sftp,
        max_pktsize=packet,
        encoding=None,
    )
    made.port = acceptor.get_port()
    try:
        yield made
    finally:
        acceptor.close()
        for connection in open_now:
            connection.abort()
            await connection.wait_closed()
        await acceptor.wait_closed()


@contextlib.asynccontextmanager
async def raw_peer(serve: Raw) -> AsyncGenerator[Peer]:
    """Serve connections with a coroutine that may do anything; it is cancelled at the end."""
    made = Peer(0, new_keys())
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(set(tasks))
        await server.wait_closed()


REGULAR = stat.S_IFREG | 0o644


class Server(asyncssh.SFTPServer):
    """A server of one regular file of a few bytes; tests override it to misbehave."""

    content = b"content"
    size: int | None = None
    mode = REGULAR

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs | Awaitable[asyncssh.SFTPAttrs]:
        size = len(self.content) if self.size is None else self.size
        return asyncssh.SFTPAttrs(size=size, permissions=self.mode, mtime=0, atime=0)

    lstat = stat

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        return object()

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]

    def close(self, file_obj: object) -> None:
        return None

    def realpath(self, path: bytes) -> bytes:
        return path


class Stalling(Server):
    def stat(self, path: bytes) -> Awaitable[asyncssh.SFTPAttrs]:
        return asyncio.get_running_loop().create_future()
