# SPDX-License-Identifier: Apache-2.0
"""The web server: it serves the application on a socket until `stop`, then lets calls finish.

Used by `waggle.app.serving`, which owns signals. Runs the HTTP server of `waggle.web.protocol`, and
calls `McpEndpoint.drain`.
"""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass, field

import anyio
import anyio.abc

from waggle.domain.errors import SettingsInvalid
from waggle.web import WebApp
from waggle.web.connections import ConnectionLimits, Connections
from waggle.web.protocol import WAITING, GuardedProtocol, HttpServer


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of the server.

    `grace`: seconds for calls to finish on stop. `keep_alive`: seconds that an idle connection
    lives. `head_bytes`: maximum bytes of a request head.
    """

    grace: float = 30.0
    keep_alive: int = 30
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    head_bytes: int = 32 * 1024


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises SettingsInvalid if it fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port <= 65_535:
            raise OSError(errno.EINVAL, "a port is 0 to 65535")
        listener = socket.create_server((host, port), family=family, backlog=WAITING)
    except OSError as error:
        raise SettingsInvalid(
            f"Cannot listen on {host} port {port}: {_reason(error)}.",
            hint="Stop the other server, or choose another address with WAGGLE_LISTEN_ADDR.",
        ) from error
    # Accepted connections inherit this. asyncio does not set it on sockets with protocol 0 like
    # this one, and every answer would wait for the client's delayed acknowledgement: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _reason(error: OSError) -> str:
    """Return the reason without the address that the socket module repeats in brackets."""
    return (error.strerror or str(error)).partition(" (while")[0]


def url_of(listener: socket.socket) -> str:
    """Return the base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class WebServer:
    """One web server. Owns the listening socket from the start of `run` on."""

    def __init__(self, web: WebApp, listener: socket.socket, limits: ServerLimits | None = None):
        self._web = web
        self._listener = listener
        self._limits = limits or ServerLimits()
        self._stopping = anyio.Event()
        self._connections = Connections[GuardedProtocol](self._limits.connections, time.monotonic)
        web.crowded = lambda: self._connections.full
        self._http = HttpServer(
            web.asgi,
            self._connections,
            keep_alive=self._limits.keep_alive,
            head_bytes=self._limits.head_bytes,
            offers=web.offers,
        )

    @property
    def url(self) -> str:
        """The base URL."""
        return url_of(self._listener)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def stop(self) -> None:
        """Begin to stop: refuse new work, give calls in progress their grace. Idempotent."""
        self._stopping.set()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop`. Cancelling ends the grace at once.

        Reports its URL through `task_status` once it accepts connections. When it returns, every
        connection and the listening socket are closed.
        """
        url = self.url
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve)
            try:
                await self._http.up.wait()
                task_status.started(url)
                await self._stopping.wait()
                await self._web.endpoint.drain(self._limits.grace)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._http.up.wait()
                    if self._http.started:
                        await self._web.endpoint.drain(0)
                    self._http.should_exit = True

    async def _serve(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._http.serve([self._listener])
            finally:
                self._http.up.set()
                self._listener.close()
