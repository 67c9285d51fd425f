# SPDX-License-Identifier: Apache-2.0
"""The way to a guest, or to its VMM, through a Unix socket that the VMM made in its directory.

Used for all such sockets. The VMM is not trusted: nothing that it puts in a socket's place leads to
another, and the kernel confirms that it answers before anything is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator
from typing import Final

_CREDENTIALS: Final = struct.Struct("iII")


class Door:
    """The way to a VMM's guest. The caller keeps and closes `directory`."""

    def __init__(self, directory: int, name: str, pid: int) -> None:
        """Connect to the socket `name` in the open `directory`; process `pid` must answer."""
        self._directory = directory
        self._name = name
        self._pid = pid

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """Open one connection. Raises OSError as `dial` does."""
        with await dial(self._directory, self._name, pid=self._pid) as guest:
            yield guest


async def dial(
    directory: int, name: str, *, pid: int | None = None, uid: int | None = None
) -> socket.socket:
    """Return a nonblocking connection to the socket `name` in an open directory.

    What is there may be a link, which is not followed: it could lead to any socket of the host. The
    process `pid`, or one of user `uid`, must listen. The caller closes the connection, and bounds
    the time. Safe to cancel. Raises OSError: ConnectionAbortedError for what is not the VMM's.
    """
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise ConnectionAbortedError(errno.ECONNABORTED, f"{name} is no socket")
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(wire, f"/proc/self/fd/{place}")
            peer, user = _peer(wire)
            if peer == 0:  # asyncio takes a full queue for a connection
                raise ConnectionRefusedError(errno.ECONNREFUSED, "its socket has no room")
            if pid not in (None, peer) or uid not in (None, user):
                text = "another process answers on its socket"
                raise ConnectionAbortedError(errno.ECONNABORTED, text)
        except BaseException:
            wire.close()
            raise
        return wire
    finally:
        os.close(place)


def peer_pid(connection: socket.socket) -> int:
    """Return the process that listens on the other end of a Unix socket; see unix(7)."""
    return _peer(connection)[0]


def _peer(connection: socket.socket) -> tuple[int, int]:
    size = _CREDENTIALS.size
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return pid, uid
