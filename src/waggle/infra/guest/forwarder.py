# SPDX-License-Identifier: Apache-2.0
"""The forward from a TCP port on 127.0.0.1 to the guest's SSH server, and the renewal of a guest.

Used by the machines, which own both and supply the `Dial` to the guest. The forwarder copies bytes
with backpressure and half-close, and interprets none of them. `Renewal` gives a copied machine its
own identity through a port that the guest's PID 1 holds: records go in (kit/guest/renew.c), one
byte and the guest's time come back. Nothing else in the guest has to work, and the answer decides
only whether the machine is handed out. `record` encodes the identity (kit/guest/identity.c): u32
name length and u32 data length, little endian, then name and data; two zeros end the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from waggle.domain.errors import GuestLost, PortTaken
from waggle.tasks import end

MAX_CONNECTIONS: Final = 32
"""Connections at once, as many as the guest's init serves; more are closed at once."""
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

    def __init__(self, listener: socket.socket, dial: Dial) -> None:
        self._listener = listener
        self._dial = dial
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
                group.create_task(_copy(client, guest))
                group.create_task(_copy(guest, client))


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


_HEADER = struct.Struct("<II")
MAX_NAME = 63
MAX_DATA = 8 << 20
END = _HEADER.pack(0, 0)


def record(name: str, data: bytes) -> bytes:
    """Encode one record. Raises ValueError if it is too long."""
    raw = name.encode()
    if not 0 < len(raw) <= MAX_NAME or len(data) > MAX_DATA:
        raise ValueError(f"the record {name!r} is too long")
    return _HEADER.pack(len(raw), len(data)) + raw + data


DEADLINE: Final = 30.0
"""Seconds; an emulated machine on a busy host has taken more than five."""
DRIFT: Final = 0.02
"""Seconds by which the guest's clock may differ; renewal promises 0.05."""
_ATTEMPTS = 20
_ANSWER = struct.Struct("<BQ")


class Renewal:
    """The renewal of one guest. The owner closes the streams."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`now` returns nanoseconds since the epoch."""
        self._reader = reader
        self._writer = writer
        self._now = now

    async def renew(self, records: Mapping[str, bytes], *, deadline: float = DEADLINE) -> None:
        """Install records, and set the clock to within DRIFT of the host's.

        `deadline` is seconds for all of it. Raises GuestLost if the guest refuses, does not answer
        or keeps another time; it must not be handed out then.
        """
        parts = [record(name, data) for name, data in records.items()]
        try:
            async with asyncio.timeout(deadline):
                await self._send(parts, 0)
                ahead = 0
                for _ in range(_ATTEMPTS):
                    latency, off = await self._send([], ahead)
                    if off <= DRIFT * 1e9:
                        return
                    ahead = latency // 2
        except TimeoutError:
            raise GuestLost(f"The guest was not renewed within {deadline:g} s.") from None
        except (OSError, EOFError) as error:
            raise GuestLost("The guest was not renewed: its channel is closed.") from error
        raise GuestLost("The guest does not keep the time that it is given.")

    async def _send(self, parts: list[bytes], ahead: int) -> tuple[int, int]:
        """Send records and the time plus `ahead`; return the duration and the largest clock error.

        All are nanoseconds. The guest read its clock between `sent` and `received`.
        """
        sent = self._now()
        clock = record("clock", struct.pack("<Q", sent + ahead))
        self._writer.write(b"".join([*parts, clock, END]))
        await self._writer.drain()
        good, guest_time = _ANSWER.unpack(await self._reader.readexactly(_ANSWER.size))
        received = self._now()
        if good != 1:
            raise GuestLost("The guest refused to be renewed.")
        return received - sent, max(abs(guest_time - sent), abs(guest_time - received))
