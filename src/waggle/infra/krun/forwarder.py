# SPDX-License-Identifier: Apache-2.0
"""From a TCP port on 127.0.0.1 to the Unix socket behind which a runner's guest listens for SSH.

Used by the machine, which owns it. Copies bytes with backpressure and half-close, and understands
none of them. The runner is not trusted: it made the socket, so before anything is sent the kernel
is asked whether it is that very process that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from waggle.domain.errors import PortTaken
from waggle.infra.tasks import end

MAX_CONNECTIONS: Final = 32
"""As many as the guest's init serves; more are closed at once."""
_CHUNK: Final = 64 * 1024
_PAUSE: Final = 0.1
_CREDENTIALS: Final = struct.Struct("iII")


def claim(port: int) -> socket.socket:
    """A socket that is bound to the port and listens. Raises PortTaken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken("The forwarded port was taken in between.") from error
        raise
    return listener


class Forwarder:
    """Serves one listener until `close`. `directory` and `listener` remain the caller's."""

    def __init__(self, listener: socket.socket, directory: int, name: str, pid: int) -> None:
        """`name` is the socket's in the open `directory`; `pid` is the process that must answer."""
        self._listener = listener
        self._path = f"/proc/self/fd/{directory}/{name}"
        self._pid = pid
        self._stop_accepting: Callable[[], object] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept from now on; what called before has waited in the listener's queue."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._accept)
        self._stop_accepting = partial(loop.remove_reader, self._listener)

    async def close(self) -> None:
        """Drop every connection. Idempotent."""
        if self._stop_accepting is not None:
            self._stop_accepting()
            self._stop_accepting = None
        await end(*self._connections)

    def _accept(self) -> None:
        """Not `loop.sock_accept`, which loses a caller who comes while it is cancelled."""
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors left, or the client is gone already
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._stop_accepting = loop.call_later(_PAUSE, self.start).cancel
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            client.close()
            return
        client.setblocking(False)
        task = asyncio.create_task(self._serve(client))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: client.close())  # also of one that never began

    async def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest,
        ):
            guest.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(guest, self._path)
            if peer_pid(guest) != self._pid:
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(client, guest))
                group.create_task(_copy(guest, client))


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends, which the target then hears. A broken side ends both directions.

    `sock_sendall` waits until the kernel has taken everything, so one chunk is held at a time.
    """
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(_CHUNK))
    try:
        while size := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(target, buffer[:size])
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def peer_pid(connection: socket.socket) -> int:
    """The process that listens at the other end of a connected Unix socket; see unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
