# SPDX-License-Identifier: Apache-2.0
"""`/environments/{id}/terminal`: a terminal over a websocket.

Called by `waggle.web` behind the same checks as /mcp: Host, Origin, token. A browser asks nobody
before it opens a websocket to another origin, so the origins that may are those that may read the
answers of /mcp. `conversation` is what
happens on an open one, `messages` has the messages. What is printed is kept by the
job, and what a client does not read in time and is not kept is skipped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from waggle.domain.access import Owner
from waggle.domain.errors import QuotaExceeded, WaggleError
from waggle.domain.observer import OK, Call, Observer
from waggle.domain.programs import GuestUser
from waggle.service.programs.terminals import Reader, TerminalService
from waggle.service.sharing import RateLimiter
from waggle.web.access import ADMITTED, owner_of
from waggle.web.answers import Fields, fields, problem
from waggle.web.endpoint import McpEndpoint
from waggle.web.protocol import CONNECTION, WEBSOCKETS, GuardedProtocol
from waggle.web.terminal.conversation import Conversation
from waggle.web.terminal.messages import SUBPROTOCOL, Wanted, parse_wanted
from waggle.web.websocket import SocketLimits, WebSocket, handshake

log = structlog.get_logger(__name__)
METHOD = "terminal"
_STATUS = {
    "not_found": 404,
    "job_not_found": 404,
    "invalid_argument": 400,
    "rate_limited": 429,
    "quota_exceeded": 429,
}
_ENDING = "/terminal"


@dataclass(frozen=True, slots=True)
class TerminalLimits:
    """The most connections at once, in all and of one owner.

    A token is checked again every `check_seconds`.
    """

    connections: int = 200
    owner: int = 32
    check_seconds: float = 30.0
    socket: SocketLimits = field(default_factory=SocketLimits)


@dataclass(frozen=True, slots=True)
class Terminals:
    """What the endpoint uses: the use cases, the rate of calls, and who observes them."""

    service: TerminalService
    rates: RateLimiter | None = None
    observer: Observer = field(default_factory=Observer)
    limits: TerminalLimits = field(default_factory=TerminalLimits)


def environment_in(path: str) -> str | None:
    """Return the environment that the path of a terminal names; None for any other path."""
    start = WEBSOCKETS.decode()
    if not path.startswith(start) or not path.endswith(_ENDING):
        return None
    name = path[len(start) : -len(_ENDING)]
    return name if name and "/" not in name else None


class TerminalEndpoint:
    """An ASGI application for the paths of terminals. `mcp` shows whether the server stops."""

    def __init__(self, parts: Terminals, mcp: McpEndpoint, origins: Collection[str]) -> None:
        self._parts = parts
        self._mcp = mcp
        self._origins = origins
        self._connected = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: refuse it, or make it a websocket until that is closed."""
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        owner = Owner(owner_of(scope))
        try:
            with self._counted(owner):
                refusal = await self._serve(scope, owner)
        except QuotaExceeded as error:
            refusal = _refused(error)
        if refusal is not None:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """Refuse a request that is no offer of a websocket, or comes from another web page."""
        line: GuardedProtocol | None = scope.get(CONNECTION)
        headers = fields(scope)
        if self._mcp.draining:
            return problem(503, "The server is shutting down.", {"Retry-After": "5"})
        if scope["method"] != "GET":
            return problem(405, "A terminal is a websocket.", {"Allow": "GET"})
        if line is None or not line.offer:
            needed = {"Upgrade": "websocket", "Connection": "Upgrade"}
            return problem(426, "A terminal is a websocket.", needed)
        if not self._allows(headers):
            return problem(403, "Web pages of this Origin may not open terminals.")
        if (chosen := _subprotocol(headers)) is None:
            return problem(400, f"Offer the subprotocol {SUBPROTOCOL} beside others.")
        if handshake(headers, chosen) is None:
            version = {"Sec-WebSocket-Version": "13"}
            return problem(400, "The offer of a websocket is not complete.", version)
        return None

    def _allows(self, headers: Fields) -> bool:
        """Whether its page may use the answers; a client that is no browser names no Origin."""
        origin, host = headers.text(b"origin"), headers.text(b"host") or ""
        if origin is None or origin in self._origins or "*" in self._origins:
            return True
        return origin.partition("://")[2].lower() == host.lower()

    @contextmanager
    def _counted(self, owner: str) -> Generator[None]:
        """Count a connection. Raises QuotaExceeded if there are too many."""
        limits = self._parts.limits
        if self._connected[owner] >= limits.owner or self._connected.total() >= limits.connections:
            raise QuotaExceeded("There are too many connections to terminals.", hint="Close one.")
        self._connected[owner] += 1
        try:
            yield
        finally:
            self._connected[owner] -= 1
            if not self._connected[owner]:
                del self._connected[owner]

    async def _serve(self, scope: Scope, owner: Owner) -> Response | None:
        """Open the terminal and converse. Return a refusal if it cannot be opened."""
        began, outcome, environment_id = time.perf_counter(), "internal", None
        try:
            reader, wanted = await self._open(scope, owner)
            outcome, environment_id = OK, reader.job.environment_id
        except WaggleError as error:
            outcome = error.code
            return _refused(error)
        finally:
            client = scope.get("client")
            self._parts.observer.call_ended(
                Call(
                    owner=owner,
                    tool="",
                    outcome=outcome,
                    seconds=time.perf_counter() - began,
                    environment_id=environment_id,
                    address=str(client[0]) if client else None,
                    method=METHOD,
                )
            )
        line: GuardedProtocol = scope[CONNECTION]
        headers = fields(scope)
        socket = WebSocket(self._parts.limits.socket, line.connection_lost)
        answer = handshake(headers, _subprotocol(headers) or "")
        if answer is None or not line.upgrade(answer, socket):
            if wanted.job is None:  # nobody knows of it
                await reader.job.kill()
            return None
        await Conversation(self._parts.service, socket, reader, owner).run(
            self._mcp.closing, partial(self._refuses, scope)
        )
        return None

    async def _refuses(self, scope: Scope) -> None:
        """Return when the token of the request is not valid any more."""
        admitted: Callable[[], Awaitable[bool]] = scope[ADMITTED]
        while True:
            await anyio.sleep(self._parts.limits.check_seconds)
            if not await admitted():
                return

    async def _open(self, scope: Scope, owner: Owner) -> tuple[Reader, Wanted]:
        parts, environment = self._parts, environment_in(scope["path"]) or ""
        if parts.rates is not None:
            parts.rates.take(owner)
        wanted = parse_wanted(scope["query_string"])
        service = parts.service
        if wanted.job is None:
            user = GuestUser(wanted.user)
            return await service.open(environment, wanted.size, owner=owner, user=user), wanted
        reader = await service.attach(environment, wanted.job, wanted.offset, owner=owner)
        if wanted.has_size:
            await service.resize(reader.job, wanted.size, owner=owner)
        return reader, wanted


def _subprotocol(headers: Fields) -> str | None:
    """Return the subprotocol to answer, empty if none is offered; None if ours is not among them.

    The answer never repeats the offer, which may hold a token.
    """
    offered = headers.text(b"sec-websocket-protocol")
    if offered is None:
        return ""
    return SUBPROTOCOL if SUBPROTOCOL in map(str.strip, offered.split(",")) else None


def _refused(error: WaggleError) -> Response:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    content = {"error": error.message, "hint": error.hint, "code": error.code}
    return JSONResponse(content, status_code=_STATUS.get(error.code, 409), headers=headers)
