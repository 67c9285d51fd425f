# SPDX-License-Identifier: Apache-2.0
"""Connections to ports of one guest, as channels of its SSH connection.

Used by `service.local.guest`, for exposed ports and for addresses that lead home. Knows no hosts
but the guest's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

import asyncssh

from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import open_tcp
from waggle.infra.ssh.bounds import BrakedWriter

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Addresses of servers that only the guest may reach; Node.js listens on the second."""
WINDOW: Final = 128 << 10
"""Bytes that the guest may send ahead on each channel."""

Streams = tuple["asyncssh.SSHReader[bytes]", BrakedWriter]


class GuestPorts:
    """The opener of channels to ports of one guest."""

    def __init__(self, connection: SshConnection) -> None:
        self._pool = connection

    async def connect(self, port: int, addresses: Sequence[str] = LOOPBACKS) -> Streams:
        """Connect to a port of the guest, on the first of its own addresses that answers.

        Raises GuestLost, asyncssh.Error or OSError. Not bounded in time: a guest may never answer,
        and asyncssh cannot withdraw the request.
        """
        connection = await self._pool.get()
        *first, last = addresses
        for address in first:
            with contextlib.suppress(asyncssh.ChannelOpenError):
                return await self._open(connection, address, port)
        return await self._open(connection, last, port)

    async def _open(
        self, connection: asyncssh.SSHClientConnection, address: str, port: int
    ) -> Streams:
        reader, writer = await open_tcp(connection, address, port, WINDOW)
        return reader, BrakedWriter(writer, self._pool.clear)
