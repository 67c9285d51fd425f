# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 by uvicorn and httptools, as strict as h11, with limits that uvicorn lacks.

The only file that knows uvicorn; used by `waggle.web.server`. httptools parses in C, which saves a
fifth of a short call, but uvicorn's use of it is laxer than its h11: the head of a request has no
limit, trailers join the headers of the request being answered, values keep trailing spaces, and
Host may be repeated. A connection is also closed if a head, or a body that is not awaited, does not
arrive in time (slow-loris). `waggle.web.bodies` times the bodies that the application awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import cast

import anyio
import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from waggle.web.answers import Fields, fields, problem
from waggle.web.connections import Connections
from waggle.web.joined import Joined

WAITING = 512
"""Connections that the kernel queues until they are accepted."""
AT_ONCE = 16
"""Connections accepted before the loop serves others, so that a flood does not block it."""
HEAD_SECONDS = 10.0
WEBSOCKETS = b"/environments/"
"""The beginning of the paths of terminals, at which requests may become websockets."""
EARLY_BYTES = 16 << 10
CONNECTION = "waggle.connection"
"""The key of a request's scope that holds its connection."""


Offers = Callable[[bytes, Fields], bool]
"""Whether a request for this URL, with these headers, may become a websocket."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `HttpServer` subclasses it to set `among`, the connections it belongs to.

    And `offers`, for websockets other than terminals.
    """

    head_seconds = HEAD_SECONDS
    among: Connections[GuardedProtocol]
    offers: Offers
    _deadline: asyncio.TimerHandle | None = None
    _begun = False
    """Whether a message has begun and its head is not complete."""
    _complete = False
    """Whether the last message has arrived whole."""
    _moved = False
    """Whether this read brought the end of a head or of a message, or a part of a body."""
    offer = False
    """Whether the current request offers to become a websocket; `upgrade` accepts that."""
    _early: bytearray | None = None
    """What came after such a request; bounded, and not HTTP."""
    _held = 0
    """Bytes of the reads since then: a head or trailers, which the parser may hold."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as upstream
        """Register the connection and begin to wait for the first request."""
        super().connection_made(transport)
        for line in self.among.opened(self, self.client[0] if self.client else ""):
            line.transport.abort()  # it is idle, and makes room
        self._watch()

    def let_in(self, owner: str) -> bool:
        """Note the owner of the current request. Return whether it is within the limit."""
        return self.among.let_in(self, owner)

    def data_received(self, data: bytes) -> None:
        """Parse `data`, and keep the deadline if it does not complete a request's head."""
        if self._early is not None:
            self._keep_early(data)
            return
        self._moved = False
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        try:
            self._feed(data)
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        self._held = 0 if self._moved else self._held + len(data)
        if self._held > self._limit and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
        self._watch()

    def _feed(self, data: bytes) -> None:
        """Parse `data`. An offer to change the protocol is ignored, as a server may.

        Except where there are websockets. The parser stops at an offer, before the
        request's body, so a new parser gets the head without the offer, and the rest.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            version = self.parser.get_http_version().encode()
            method = self.parser.get_method()
            start = b"%s %s HTTP/%s" % (method, self.url, version)
            headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = HttpRequestParser(self)
            rest = data[offer.args[0] :]
            given = fields(cast("Scope", self.scope))
            wanted = given.get(b"upgrade", b"").lower() == b"websocket" and method == b"GET"
            if wanted and (self.url.startswith(WEBSOCKETS) or self.offers(self.url, given)):
                self.offer = True
                self._keep_early(rest)
                rest = b""
            self._feed(b"\r\n".join([start, *headers, b"", rest]))

    def _keep_early(self, data: bytes) -> None:
        self._early = bytearray() if self._early is None else self._early
        self._early += data
        if len(self._early) > EARLY_BYTES:
            self.transport.pause_reading()

    def upgrade(self, answer: bytes, later: asyncio.Protocol) -> bool:
        """Answer the current request, an offer, and give the connection to `later`.

        `later` reports the end of the connection to `connection_lost`. False if it has ended.
        """
        if self.transport.is_closing() or self._early is None:
            return False
        self.cycle.response_started = self.cycle.response_complete = True
        self.transport.write(answer)
        later.connection_made(self.transport)
        self.transport.set_protocol(later)
        early, self._early = bytes(self._early), None
        self.transport.resume_reading()
        if early:
            later.data_received(early)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and drop references to this connection, so that it is freed at once.

        Otherwise 1,000 short connections leave cycles that take the collector half a second.
        """
        self._stop_waiting()
        self.among.closed(self)
        super().connection_lost(exc)
        self.pipeline.clear()
        self.cycle = self.scope = None  # pyright: ignore[reportAttributeAccessIssue]  # as before the first request

    def on_message_begin(self) -> None:
        """Expect the head of a message."""
        super().on_message_begin()
        self._begun, self._complete = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass a header on; drop trailers."""
        if self._begun:
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Serve the request. A ValueError raised here is answered with 400."""
        self._begun, self._moved = False, True
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limit:
            raise ValueError("the head is too large")
        if b"host" in fields(cast("Scope", self.scope)).repeated:
            raise ValueError("more than one Host")
        if self.parser.should_upgrade():
            return
        self.scope[CONNECTION] = self  # pyright: ignore[reportGeneralTypeIssues]  # waggle's key
        served = cast("ASGIApp", self.config.loaded_app)  # pyright: ignore[reportUnknownMemberType]
        self.app = served if self.among.begins(self) else _no_room
        super().on_headers_complete()
        if self.offer:
            self.cycle.keep_alive = False  # what comes next is not HTTP
        self.cycle.transport = Joined(self.transport, self.loop)  # pyright: ignore[reportAttributeAccessIssue]  # all that it uses

    def on_response_complete(self) -> None:
        """Count the connection as idle, unless another request has already arrived."""
        if not self.pipeline:
            self.among.ends(self)
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the message is complete."""
        if not self.parser.should_upgrade():
            self._complete = self._moved = True
            super().on_message_complete()

    @property
    def _limit(self) -> int:
        return self.config.h11_max_incomplete_event_size or 0

    def _watch(self) -> None:
        serving = self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]
        if serving or self._complete or self.transport.is_closing():
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.close()


async def _no_room(scope: Scope, receive: Receive, send: Send) -> None:
    why = "The server serves as many requests as it can; try again later."
    await problem(503, why, {"Retry-After": "5", "Connection": "close"})(scope, receive, send)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would end event streams at once."""

    def __init__(
        self,
        app: ASGIApp,
        connections: Connections[GuardedProtocol],
        *,
        keep_alive: int,
        head_bytes: int,
        offers: Offers = lambda _url, _headers: False,
    ) -> None:
        parts = {"among": connections, "offers": staticmethod(offers)}
        config = uvicorn.Config(
            app,
            http=type("GuardedProtocol", (GuardedProtocol,), parts),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=AT_ONCE,
            proxy_headers=False,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=head_bytes,  # used by GuardedProtocol
        )
        super().__init__(config)
        self.up = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the application."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on `sockets`, and report that the server is up."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(WAITING)  # the loop has reduced it to the number accepted at once
        self.up.set()
