# SPDX-License-Identifier: Apache-2.0
"""The way to a runner's guest: the Unix socket that libkrun made.

Used by the forwarder of a machine. The runner is not trusted: it made the socket, so before
anything is sent the kernel is asked whether it is that very process that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from typing import Final

_CREDENTIALS: Final = struct.Struct("iII")


class Door:
    """`directory` remains the caller's."""

    def __init__(self, directory: int, name: str, pid: int) -> None:
        """`name` is the socket's in the open `directory`; `pid` is the process that must answer."""
        self._path = f"/proc/self/fd/{directory}/{name}"
        self._pid = pid

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """One connection. Raises OSError, also when another process answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
            guest.setblocking(False)
            await asyncio.get_running_loop().sock_connect(guest, self._path)
            if peer_pid(guest) != self._pid:
                raise ConnectionRefusedError("Another process answers.")
            yield guest


def peer_pid(connection: socket.socket) -> int:
    """The process that listens at the other end of a connected Unix socket; see unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
