# SPDX-License-Identifier: Apache-2.0
"""The exposed ports of a guest: one listener on 127.0.0.1 per port, which relays bytes unseen.

Owned by an environment's guest, which supplies the way to connect to the guest. A listener leads to
one port of the guest and nowhere else. Guest and clients are hostile: connections and bytes under
way are bounded, and every wait has an end. `Openings`, also used by `guest_request`, counts the
connections that a guest has not answered: an SSH channel cannot be withdrawn before the other side
answers, so requests to a guest that never does would pile up. Must not know SSH or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from waggle.domain.errors import GuestLost, TooManyPorts
from waggle.domain.machine import MAX_EXPOSED_PORTS, ExposedPort
from waggle.infra.net import PeerGone, Stream, StreamReaderLike, StreamWriterLike, relay
from waggle.infra.net.ports import LOOPBACK
from waggle.tasks import end

Streams = tuple[StreamReaderLike, StreamWriterLike]


class Openings:
    """Connections being opened to one guest. At most `most` may be late; `aclose` it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._late: set[asyncio.Future[Streams]] = set()

    @property
    def late(self) -> int:
        """The number of connections without a caller that the guest has not answered."""
        return len(self._late)

    async def open(
        self, connect: Callable[[], Awaitable[Streams]], seconds: float
    ) -> Stream | None:
        """Return the stream; None if it fails, takes longer, or too many are late already.

        A connection that arrives late or after the caller was cancelled is closed.
        """
        if len(self._late) >= self._most:
            return None
        opening = asyncio.ensure_future(connect())
        try:
            async with asyncio.timeout(seconds):
                return Stream(*await asyncio.shield(opening))
        except asyncio.CancelledError:
            self._leave(opening)
            raise
        except Exception:
            self._leave(opening)
            return None

    async def aclose(self) -> None:
        """Give up the late connections. Idempotent."""
        await end(*self._late)

    def _leave(self, opening: asyncio.Future[Streams]) -> None:
        self._late.add(opening)
        if opening.done():
            self._came_late(opening)
        else:
            opening.add_done_callback(self._came_late)

    def _came_late(self, opening: asyncio.Future[Streams]) -> None:
        self._late.discard(opening)
        if not opening.cancelled() and opening.exception() is None:
            Stream(*opening.result()).abort()


MAX_CONNECTIONS: Final = 64
"""Connections of one environment, over all its ports; more are closed at once."""
_BACKLOG: Final = 16
_PAUSE: Final = 0.25

Connect = Callable[[int], Awaitable[Streams]]
"""Connects to a port of the guest; any error it raises means that nothing answers there."""


@dataclass(frozen=True, slots=True)
class ExposureLimits:
    """Limits in seconds: for the guest to answer, idle both ways, and to take the last bytes."""

    answer: float = 10.0
    idle: float = 3600.0
    presence: float = 15.0
    """Interval at which an open connection is reported as a visit."""
    flush: float = 10.0
    linger: float = 2.0


@dataclass(slots=True)
class _Door:
    """One listener and the connections that it serves."""

    server: asyncio.Server | None = None
    serving: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    closed: bool = False

    @property
    def local_port(self) -> int:
        return 0 if self.server is None else int(self.server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent."""
        self.closed = True
        if self.server is not None:
            self.server.close()
        await end(*self.serving)


class Exposures:
    """The exposed ports of one guest. Safe for concurrent use on one event loop; `aclose` it."""

    def __init__(self, connect: Connect, limits: ExposureLimits | None = None) -> None:
        self._connect = connect
        self._limits = limits or ExposureLimits()
        self._doors: dict[int, _Door] = {}
        self._openings = Openings(MAX_CONNECTIONS)
        self._turn = asyncio.Lock()
        self._closed = False
        self.visited: Callable[[], None] = lambda: None
        """Called at intervals while a client is connected. It must not raise or wait."""

    @property
    def ports(self) -> tuple[ExposedPort, ...]:
        """The exposed ports, in the order in which they were exposed."""
        return tuple(ExposedPort(port, door.local_port) for port, door in self._doors.items())

    @property
    def connections(self) -> int:
        """The number of connections being served or not yet answered by the guest."""
        return self._openings.late + sum(len(door.serving) for door in self._doors.values())

    async def expose(self, port: int, local_port: int = 0) -> ExposedPort:
        """Listen for a guest port on 127.0.0.1, on `local_port` if that is free. Idempotent.

        Raises TooManyPorts, or GuestLost after `aclose`.
        """
        async with self._turn:
            if self._closed:
                raise GuestLost("The environment is being destroyed.")
            if port not in self._doors:
                if len(self._doors) >= MAX_EXPOSED_PORTS:
                    raise TooManyPorts(f"{MAX_EXPOSED_PORTS} ports of the environment are exposed.")
                self._doors[port] = await self._listen(port, local_port)
            return ExposedPort(port, self._doors[port].local_port)

    async def _listen(self, port: int, local_port: int) -> _Door:
        door = _Door()
        start = partial(
            asyncio.start_server, partial(self._accept, port, door), LOOPBACK, backlog=_BACKLOG
        )
        if local_port:
            with contextlib.suppress(OSError):
                door.server = await start(local_port)
                return door
        try:
            door.server = await start(0)
        except OSError as error:
            raise TooManyPorts(f"No more can listen here: {error.strerror or error}.") from error
        return door

    async def unexpose(self, port: int) -> bool:
        """Close the port's listener and its connections; return whether it was exposed."""
        async with self._turn:
            door = self._doors.pop(port, None)
            if door is not None:
                await door.close()
            return door is not None

    async def answers(self, port: int, seconds: float) -> bool:
        """Return whether something listens on the guest's port within so many seconds.

        This connects to the port and closes the connection at once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            left = max(until - loop.time(), _PAUSE)
            stream = await self._open(port, min(left, self._limits.answer))
            if stream is not None:
                stream.abort()
                return True
            if self._closed or loop.time() + _PAUSE >= until:
                return False
            await asyncio.sleep(_PAUSE)

    async def clear(self) -> None:
        """Close every listener and connection. Idempotent."""
        async with self._turn:
            while self._doors:
                await self._doors.popitem()[1].close()
        await self._openings.aclose()

    async def aclose(self) -> None:
        """Close every listener and connection, and accept no more. Idempotent."""
        self._closed = True
        await self.clear()

    def _accept(
        self, port: int, door: _Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve a client in a separate task: asyncio logs an error if its own task is cancelled."""
        client = Stream(reader, writer)
        if door.closed or self.connections >= MAX_CONNECTIONS:
            client.abort()
            return
        task = asyncio.create_task(self._pass(port, client))
        door.serving.add(task)
        task.add_done_callback(door.serving.discard)
        task.add_done_callback(lambda _: client.abort())  # also if the task never began

    async def _pass(self, port: int, client: Stream) -> None:
        upstream = await self._open(port, self._limits.answer)
        if upstream is None:
            return
        presence = asyncio.create_task(self._attend())
        try:
            with contextlib.suppress(PeerGone, TimeoutError):
                await relay(client, upstream, b"", self._limits.idle)
                await client.finish(self._limits.flush, self._limits.linger)
        finally:
            upstream.abort()
            presence.cancel()
            self.visited()

    async def _attend(self) -> None:
        """Report a visit at intervals until cancelled."""
        while True:
            self.visited()
            await asyncio.sleep(self._limits.presence)

    async def _open(self, port: int, seconds: float) -> Stream | None:
        return await self._openings.open(partial(self._connect, port), seconds)
