# SPDX-License-Identifier: Apache-2.0
"""Listeners on this host's 127.0.0.1 for the exposed ports of one environment.

Implements `domain.exposure.Listeners`, for an environment: they stay while its guest changes or is
paused. A listener leads to one port of the guest and nowhere else, and relays bytes unseen. Guest
and clients are hostile: bytes under way are bounded, every wait has an end, and a visit refuses
connections that are too many. Must not know guests, SSH or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from waggle.domain.errors import TooManyPorts, WaggleError
from waggle.domain.exposure import StreamLost, Visit
from waggle.infra.net import Stream, relay
from waggle.infra.net.ports import LOOPBACK
from waggle.tasks import end

log = structlog.get_logger(__name__)
_BACKLOG: Final = 16


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Limits in seconds: idle both ways, and for a client to take the last bytes and to leave.

    `connections` is the most of one environment, those included that wait for their guest.
    """

    idle: float = 3600.0
    flush: float = 10.0
    linger: float = 2.0
    connections: int = 64


@dataclass(slots=True)
class _Listener:
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


class LoopbackListeners:
    """All listeners of one environment. Safe for concurrent use on one event loop."""

    def __init__(self, visit: Visit, limits: ListenerLimits | None = None) -> None:
        self._visit = visit
        self._limits = limits or ListenerLimits()
        self._open: dict[int, _Listener] = {}
        self._turn = asyncio.Lock()

    @property
    def connections(self) -> int:
        """The number of connections being served."""
        return sum(len(listener.serving) for listener in self._open.values())

    async def listen(self, port: int, local_port: int = 0) -> int:
        """Listen; see `domain.exposure.Listeners`."""
        async with self._turn:
            if port not in self._open:
                self._open[port] = await self._listen(port, local_port)
            return self._open[port].local_port

    async def _listen(self, port: int, local_port: int) -> _Listener:
        listener = _Listener()
        accept = partial(self._accept, port, listener)
        start = partial(asyncio.start_server, accept, LOOPBACK, backlog=_BACKLOG)
        if local_port:
            with contextlib.suppress(OSError):
                listener.server = await start(local_port)
                return listener
        try:
            listener.server = await start(0)
        except OSError as error:
            raise TooManyPorts(f"No more can listen here: {error.strerror or error}.") from error
        return listener

    async def close(self, port: int) -> None:
        """Close the port's listener and its connections. Idempotent."""
        async with self._turn:
            if listener := self._open.pop(port, None):
                await listener.close()

    async def aclose(self) -> None:
        """Close every listener and connection. Idempotent."""
        async with self._turn:
            while self._open:
                await self._open.popitem()[1].close()

    def _accept(
        self,
        port: int,
        listener: _Listener,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Serve a client in a separate task: asyncio logs an error if its own task is cancelled."""
        client = Stream(reader, writer)
        if listener.closed or self.connections >= self._limits.connections:
            client.abort()
            return
        task = asyncio.create_task(self._pass(port, client))
        listener.serving.add(task)
        task.add_done_callback(listener.serving.discard)
        task.add_done_callback(lambda _: client.abort())  # also if the task never began

    async def _pass(self, port: int, client: Stream) -> None:
        """Relay, unless the visit is refused; the client is closed afterwards."""
        try:
            async with self._visit(port) as upstream:
                await relay(client, upstream, b"", self._limits.idle)
                await client.finish(self._limits.flush, self._limits.linger)
        except (StreamLost, TimeoutError, WaggleError):
            return
        except Exception:
            log.exception("exposed_port_failed", port=port)
