# SPDX-License-Identifier: Apache-2.0
"""The forward from a TCP port on 127.0.0.1 to the guest's SSH server.

Used by the machines, which own it and supply the `Dial` to the guest. The forwarder copies bytes
with backpressure and half-close, and interprets none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from waggle.domain.errors import PortTaken
from waggle.tasks import end

MAX_CONNECTIONS: Final = 32
"""Connections at once, as many as the guest's init serves; more are closed at once."""
LINGER: Final = 2.0
"""Seconds in which a guest has to end its side once the client has ended its own. A server that is
stopped never does, and would keep one of the few ways to the guest from the next client."""
_CHUNK: Final = 64 * 1024
_PAUSE: Final = 0.1
Dial = Callable[[], AbstractAsyncContextManager[socket.socket]]
"""Opens a nonblocking connection to the guest, and closes it at the end. Raises OSError."""


def claim(port: int) -> socket.socket:
    """Return a socket that listens on the port. Raises PortTaken, OSError."""
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
    """The server of one listener until `close`. The caller closes `listener`."""

    def __init__(self, listener: socket.socket, dial: Dial, *, linger: float = LINGER) -> None:
        self._listener = listener
        self._dial = dial
        self._linger = linger
        self._stop_accepting: Callable[[], object] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept from now on; earlier connections have waited in the listener's queue."""
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
        """Accept a client; not with `loop.sock_accept`, which loses one while it is cancelled."""
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors are left, or the client is gone already
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
        task.add_done_callback(lambda _: client.close())  # also if the task never began

    async def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with self._dial() as guest, asyncio.TaskGroup() as group:
                answers = group.create_task(_copy(guest, client))
                await _copy(client, guest)
                await asyncio.wait({answers}, timeout=self._linger)
                answers.cancel()


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, and end the target's direction. A broken side ends both.

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
