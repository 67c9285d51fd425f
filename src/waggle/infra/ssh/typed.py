# SPDX-License-Identifier: Apache-2.0
"""asyncssh, as far as it is used here, with the types that its own annotations leave open.

The other modules of this package call asyncssh's channels and SFTP through these functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Protocol, cast

import asyncssh
from asyncssh.sftp import start_sftp_client

from waggle.infra.ssh.sftp_reader import SftpReader

SFTP_VERSION: Final = 3
_LEAST_PACKET: Final = 1_024
"""Bytes of data that a guest must take in one packet; dropbear takes 32 KiB."""
STDERR: Final = asyncssh.constants.EXTENDED_DATA_STDERR


class Channel(Protocol):
    """A session channel that carries bytes."""

    def writelines(self, list_of_data: Sequence[bytes]) -> None:
        """Queue data to be sent. Raises OSError when the channel cannot send any more."""
        ...

    def write_eof(self) -> None:
        """Say that no more data follows."""
        ...

    def abort(self) -> None:
        """Close at once, dropping what was queued either way."""
        ...


class TinyPackets(OSError):
    """The guest takes data in pieces that would keep this server busy."""


def require_packets(channel: object) -> None:
    """Refuse a channel whose guest takes next to nothing in one packet. Raises TinyPackets.

    asyncssh sends all that the window allows at once, in packets as small as the guest says: 10 MB
    byte by byte is minutes, and with packets of 0 bytes it never ends.
    """
    size = getattr(channel, "_send_pktsize", _LEAST_PACKET)
    if size < _LEAST_PACKET:
        cast("Channel", channel).abort()
        raise TinyPackets(f"the guest takes {size} bytes in one packet")


class SftpFile(Protocol):
    """An open remote file. At a block size of 0, each call is one request."""

    async def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset`, empty at the end. A hostile peer may send more."""
        ...

    async def write(self, data: bytes, offset: int) -> int:
        """Write all of `data` at `offset`."""
        ...

    async def setstat(self, attrs: asyncssh.SFTPAttrs) -> None:
        """Set attributes of the open file."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class _Connection(Protocol):
    async def create_session(
        self,
        session_factory: Callable[[], asyncssh.SSHClientSession[bytes]],
        command: str,
        *,
        encoding: None,
        window: int,
    ) -> tuple[Channel, object]: ...

    async def open_session(
        self, *, subsystem: str, encoding: None
    ) -> tuple[asyncssh.SSHWriter[bytes], asyncssh.SSHReader[bytes], object]: ...


class _Sftp(Protocol):
    async def open(
        self, path: bytes, pflags_or_mode: str, attrs: asyncssh.SFTPAttrs, *, block_size: int
    ) -> SftpFile: ...

    def scandir(self, path: bytes) -> AsyncGenerator[asyncssh.SFTPName]: ...


async def open_exec(
    connection: asyncssh.SSHClientConnection,
    session: asyncssh.SSHClientSession[bytes],
    command: str,
    window: int,
) -> Channel:
    """Start a command. Raises asyncssh.Error or OSError."""
    typed = cast("_Connection", connection)
    channel, _ = await typed.create_session(lambda: session, command, encoding=None, window=window)
    require_packets(channel)
    return channel


async def open_sftp(
    connection: asyncssh.SSHClientConnection,
) -> tuple[asyncssh.SFTPClient, Channel]:
    """Start SFTP, with the channel it runs on. Raises asyncssh.Error or OSError.

    asyncssh's own `start_sftp_client` keeps the channel to itself, and it is the only thing that
    ends a session whose server hangs.
    """
    typed = cast("_Connection", connection)
    writer, reader, _ = await typed.open_session(subsystem="sftp", encoding=None)
    channel = cast("Channel", writer.channel)
    require_packets(channel)
    try:
        client = await start_sftp_client(
            connection,
            asyncio.get_running_loop(),
            "strict",
            cast("asyncssh.SSHReader[bytes]", SftpReader(reader)),
            writer,
            None,
            "strict",
            SFTP_VERSION,
        )
    except BaseException:
        channel.abort()
        raise
    return client, channel


async def open_file(
    client: asyncssh.SFTPClient, path: bytes, mode: str, permissions: int | None = None
) -> SftpFile:
    """Open a remote file; `mode` as for the built-in `open`. Raises asyncssh.Error."""
    attributes = asyncssh.SFTPAttrs(permissions=permissions)
    return await cast("_Sftp", client).open(path, mode, attributes, block_size=0)


def scan(client: asyncssh.SFTPClient, path: bytes) -> AsyncGenerator[asyncssh.SFTPName]:
    """The entries of a directory as they come; close it when leaving before the end."""
    return cast("_Sftp", client).scandir(path)
