# SPDX-License-Identifier: Apache-2.0
"""Connect to TCP ports of the guest's own addresses, over the environment's connection.

Used for exposed ports and for what the egress proxy sends home. The guest sees a connection from
its SSH server on itself; nothing of its network is needed, so it works with every hypervisor and
network policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, Protocol, cast

import asyncssh

from waggle.infra.ssh.brake import BrakedWriter
from waggle.infra.ssh.connection import SshConnection

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Where servers listen that nobody else is to reach; Node.js means the second by localhost."""
WINDOW: Final = 128 << 10
"""Bytes that the guest may send ahead on each channel."""

Streams = tuple["asyncssh.SSHReader[bytes]", BrakedWriter]


class _Connection(Protocol):
    """asyncssh's connection, as far as it is used here, with its open types filled in."""

    async def open_connection(
        self, remote_host: str, remote_port: int, *, encoding: None, window: int
    ) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]: ...


class GuestPorts:
    """Opens channels to ports of one guest."""

    def __init__(self, connection: SshConnection) -> None:
        self._pool = connection

    async def connect(self, port: int, addresses: Sequence[str] = LOOPBACKS) -> Streams:
        """Connect to that port of the guest, on the first of its own addresses that answers.

        Raises GuestLost, asyncssh.Error or OSError. Not bounded: a guest may never answer, and
        asyncssh cannot take the request back.
        """
        typed = cast("_Connection", await self._pool.get())
        *first, last = addresses
        for address in first:
            with contextlib.suppress(asyncssh.ChannelOpenError):
                return await self._open(typed, address, port)
        return await self._open(typed, last, port)

    async def _open(self, connection: _Connection, address: str, port: int) -> Streams:
        reader, writer = await connection.open_connection(
            address, port, encoding=None, window=WINDOW
        )
        return reader, BrakedWriter(writer, self._pool.clear)
