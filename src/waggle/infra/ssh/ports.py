# SPDX-License-Identifier: Apache-2.0
"""Connect to TCP ports of the guest's own loopback, over the environment's connection.

Used for exposed ports. The guest sees a connection from its SSH server on its 127.0.0.1; nothing
of its network is needed, so it works with every hypervisor and network policy.
"""

from __future__ import annotations

from typing import Final, Protocol, cast

import asyncssh

from waggle.infra.ssh.brake import BrakedWriter
from waggle.infra.ssh.connection import SshConnection

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

    async def connect(self, port: int) -> Streams:
        """Connect to 127.0.0.1:`port` in the guest. Raises GuestLost, asyncssh.Error or OSError.

        Not bounded: a guest may never answer, and asyncssh cannot take the request back.
        """
        connection = await self._pool.get()
        typed = cast("_Connection", connection)
        reader, writer = await typed.open_connection(
            "127.0.0.1", port, encoding=None, window=WINDOW
        )
        return reader, BrakedWriter(writer, self._pool.clear)
