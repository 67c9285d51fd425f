# SPDX-License-Identifier: Apache-2.0
"""The way to a guest through a Unix socket that its VMM made in its directory.

Used by the machines of the hypervisors that have vsock. The VMM is not trusted, so the kernel
confirms that the answering process is the VMM before anything is sent.
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
    """The way to a VMM's guest. The caller keeps and closes `directory`."""

    def __init__(self, directory: int, name: str, pid: int) -> None:
        """Connect to the socket `name` in the open `directory`; process `pid` must answer."""
        self._path = f"/proc/self/fd/{directory}/{name}"
        self._pid = pid

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[socket.socket]:
        """Open one connection. Raises OSError, also when another process answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
            guest.setblocking(False)
            await asyncio.get_running_loop().sock_connect(guest, self._path)
            if peer_pid(guest) != self._pid:
                raise ConnectionRefusedError("Another process answers.")
            yield guest


def peer_pid(connection: socket.socket) -> int:
    """Return the process that listens on the other end of a Unix socket; see unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
