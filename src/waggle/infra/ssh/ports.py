# SPDX-License-Identifier: Apache-2.0
"""Connect to TCP ports of the guest's own loopback, over the environment's connection.

Used for exposed ports. The guest sees a connection from its SSH server on its 127.0.0.1; nothing
of its network is needed, so it works with every hypervisor and network policy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol, cast

import asyncssh

from waggle.infra.ssh.connection import SshConnection

WINDOW: Final = 128 << 10
"""Bytes that the guest may send ahead on each channel."""
_LOOK_AGAIN: Final = 1.0

Streams = tuple["asyncssh.SSHReader[bytes]", "BrakedWriter"]


class _Connection(Protocol):
    """asyncssh's connection, as far as it is used here, with its open types filled in."""

    pause_writing: Callable[[], None]
    resume_writing: Callable[[], None]

    async def open_connection(
        self, remote_host: str, remote_port: int, *, encoding: None, window: int
    ) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]: ...


class BrakedWriter:
    """A channel's writer that also waits for the connection below it.

    asyncssh sends as much as the channel's window allows, and the guest says how much that is: one
    that opens a huge window and then reads nothing would have the server hold it all.
    """

    def __init__(self, writer: asyncssh.SSHWriter[bytes], clear: asyncio.Event) -> None:
        self._writer = writer
        self._clear = clear
        self.channel = writer.channel

    def write(self, data: bytes) -> None:
        """Take `data` into the buffer."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the channel and the connection can take more, or the channel has closed."""
        await self._writer.drain()
        while not self._clear.is_set() and not self._writer.is_closing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._clear.wait()

    def can_write_eof(self) -> bool:
        """Always: a channel ends in one direction only."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """End the direction that is written."""
        self._writer.write_eof()

    def close(self) -> None:
        """End both directions once the buffer is sent."""
        self._writer.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        """Wait until `close` has taken effect."""
        await self._writer.wait_closed()


class GuestPorts:
    """Opens channels to ports of one guest."""

    def __init__(self, connection: SshConnection) -> None:
        self._pool = connection
        self._braked: asyncssh.SSHClientConnection | None = None
        self._clear = asyncio.Event()

    async def connect(self, port: int) -> Streams:
        """Connect to 127.0.0.1:`port` in the guest. Raises GuestLost, asyncssh.Error or OSError.

        Not bounded: a guest may never answer, and asyncssh cannot take the request back.
        """
        connection = await self._pool.get()
        clear = self._brake(connection)
        typed = cast("_Connection", connection)
        reader, writer = await typed.open_connection(
            "127.0.0.1", port, encoding=None, window=WINDOW
        )
        return reader, BrakedWriter(writer, clear)

    def _brake(self, connection: asyncssh.SSHClientConnection) -> asyncio.Event:
        """Hear from the transport when it holds too much; asyncssh itself ignores that."""
        if connection is not self._braked:
            self._clear.set()  # who waits for an earlier connection finds it closed
            self._braked, self._clear = connection, asyncio.Event()
            self._clear.set()
            typed = cast("_Connection", connection)
            typed.pause_writing = self._clear.clear
            typed.resume_writing = self._clear.set
        return self._clear
