# SPDX-License-Identifier: Apache-2.0
"""The way to a QEMU's guest: sockets of the network that QEMU alone is in.

Used by the forwarder of a machine. A socket belongs to the network it was made in, whoever holds
it, so the server connects without entering that network. What was connected is disconnected and
used again: see connect(2), AF_UNSPEC.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
from collections.abc import AsyncGenerator

from waggle.infra.qemu.starter import SOCKETS

ADDRESS = "127.0.0.2"
"""Not .1: where the kernel allows no namespaces, the server itself has the port there."""
_libc = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED = bytes(16)


class Door:
    """`wire` remains the caller's, the sockets are this one's until `close`."""

    def __init__(self, wire: socket.socket, port: int) -> None:
        self._wire = wire
        self._port = port
        self._all: list[socket.socket] = []
        self._free: asyncio.LifoQueue[socket.socket] = asyncio.LifoQueue()

    def open(self) -> None:
        """Take the sockets, which came before QEMU began. Raises BlockingIOError without them."""
        _, descriptors, _, _ = socket.recv_fds(self._wire, 1, SOCKETS)
        for descriptor in descriptors:
            made = socket.socket(fileno=descriptor)
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._all.append(made)
            self._free.put_nowait(made)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """One connection; waits for a socket when all are in use. Raises OSError."""
        guest = await self._free.get()
        try:
            await asyncio.get_running_loop().sock_connect(guest, (ADDRESS, self._port))
            yield guest
        finally:
            _libc.connect(guest.fileno(), _UNSPECIFIED, len(_UNSPECIFIED))
            self._free.put_nowait(guest)

    def close(self) -> None:
        """Close every socket. Idempotent; nobody may be connected."""
        for each in self._all:
            each.close()
