# SPDX-License-Identifier: Apache-2.0
"""The /mcp endpoint: which of the SDK's session managers serves a request, and how it ends.

A request of a 2025 session goes to the stateful manager. One without a session id that is not
`initialize` (a person with curl) goes to the stateless one. Requests of 2026-07-28 name their
version, and either manager hands them to the SDK's modern entry. Calls are answered as an event
stream, so that a client that hangs up cancels its call; what is answered at once, to a client
without a session, is plain JSON. Called by `waggle.web.app`; knows no tools.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import structlog
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION, RequestId
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.domain.access import SeveralOwners, one_owner
from waggle.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, SERVER_BUSY, Message, NoMessage
from waggle.large import TooLarge
from waggle.web.access import owner_of
from waggle.web.answers import as_json, fit_for_sdk, forms, is_json, rpc_error
from waggle.web.bodies import Bodies, BodyRefusedError, ClientGoneError, MessageReader, replay
from waggle.web.hosts import fields, text
from waggle.web.sessions import SessionShares, telling_lost

log = structlog.get_logger(__name__)
_LISTEN = b"subscriptions/listen"

_OURS = frozenset({INVALID_PARAMS})
"""What the SDK refuses of a message of 2026-07-28 without saying why."""

_FOLLOW_UPS = frozenset({"tools/list", "ping", "server/discover"})
"""What a client asks around its calls, and a server that is stopping still answers: the SDK's
looks up the schema of a result that it got, and loses the result when it cannot."""

FOLLOW_UP_SECONDS = 1.0
"""For the clients of calls that ended within the grace to ask that."""
FLUSH_SECONDS = 1.0
"""For the answers of calls that were cut to reach their clients."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long an unused 2025 session lives, in seconds, and how many there may be.

    Where several owners may call, one of them may have half of these.
    """

    idle_seconds: float
    maximum: int
    several_owners: SeveralOwners = one_owner


class McpEndpoint:
    """An ASGI application for one path. Serves within `running`, until `drain`."""

    def __init__(
        self,
        server: Server[Any],
        sessions: SessionLimits,
        bodies: Bodies,
        reader: MessageReader,
        cut_calls: Callable[[], object] = lambda: None,
    ) -> None:
        """`cut_calls` ends the tool calls in progress, so that each is still answered."""
        most = bodies.largest
        self._stateful = StreamableHTTPSessionManager(
            server,
            session_idle_timeout=sessions.idle_seconds,
            max_sessions=sessions.maximum,
            max_request_body_size=most,
        )
        self._stateless = StreamableHTTPSessionManager(
            server, stateless=True, max_request_body_size=most
        )
        self._shares = SessionShares(self._stateful, sessions.maximum, sessions.several_owners)
        self._cut_calls = cut_calls
        self._bodies = bodies
        self._reader = reader
        self._requests: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        self._idle = anyio.Event()
        self._draining = False
        self._closing = anyio.Event()
        self._closed = anyio.Event()

    @property
    def draining(self) -> bool:
        """Whether new work is refused because the server is stopping."""
        return self._draining

    @property
    def in_flight(self) -> int:
        """POST requests being served now, but for streams of changes, which have no end."""
        return len(self._requests)

    @property
    def large(self) -> int:
        """How many bodies there were that were not small."""
        return self._bodies.larger

    @property
    def sessions(self) -> int:
        """2025 sessions that are open now."""
        # The SDK counts them nowhere else.
        return len(self._stateful._server_instances)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Own the SDK's managers and their tasks. Can be entered once."""
        async with anyio.create_task_group() as group:
            await group.start(self._run_managers)
            try:
                yield
            finally:
                self._closing.set()

    async def _run_managers(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            async with self._stateful.run(), self._stateless.run():
                task_status.started()
                await self._closing.wait()
        finally:
            self._closed.set()

    async def drain(self, grace: float) -> int:
        """Refuse new work, let calls finish for `grace` seconds, then end every stream.

        Returns how many calls were cut. Idempotent; when cancelled, call it again without grace.
        """
        if self._closing.is_set():
            return 0
        self._draining = True
        log.info("draining", calls=self.in_flight, grace_seconds=grace)
        with anyio.move_on_after(grace):
            if self._requests:
                await self._all_answered()
                await anyio.sleep(FOLLOW_UP_SECONDS)
            await self._all_answered()
        cut = self.in_flight
        self._cut_calls()
        with anyio.move_on_after(FLUSH_SECONDS):
            await self._all_answered()
        self._closing.set()
        await self._closed.wait()
        for request in [*self._requests, *self._streams]:
            request.cancel()
        log.info("drained", calls_cut=cut)
        return cut

    async def _all_answered(self) -> None:
        while self._requests:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = fields(scope)
        if self._closing.is_set():
            await _shutting_down()(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(headers, scope, receive, send)
        elif scope["method"] in ("GET", "DELETE") and b"mcp-session-id" in headers:
            await telling_lost(self._stateful.handle_request)(scope, receive, send)
        else:
            answer = rpc_error(
                405,
                INVALID_REQUEST,
                "Send JSON-RPC requests by POST; GET and DELETE need an Mcp-Session-Id.",
                {"Allow": "POST, GET, DELETE"},
            )
            await answer(scope, receive, send)

    async def _post(
        self, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        listens = headers.get(b"mcp-method") == _LISTEN  # the SDK refuses another one in the body
        taken = forms(headers.get(b"accept"))
        if not is_json(headers.get(b"content-type")):
            answer = rpc_error(415, INVALID_REQUEST, "Send Content-Type: application/json.")
            await answer(scope, receive, send)
            return
        if not (taken.events or (taken.json and not listens)):
            answer = rpc_error(
                406, INVALID_REQUEST, "Answers are event streams or JSON: accept both."
            )
            await answer(scope, receive, send)
            return
        fit_for_sdk(headers, taken, scope)
        declared = headers.get(b"content-length", b"").decode("latin-1")
        request = anyio.CancelScope()
        among = self._streams if listens else self._requests
        among.add(request)
        try:
            with request:
                async with self._bodies.read(declared, receive, owner_of(scope)) as body:
                    message, said = await self._reader.read(body, scope)
                    app, short = self._route(headers, message, scope, has_text=bool(said))
                    received = replay(said, receive)
                    plain = taken.json and (short or not taken.events)
                    await (
                        as_json(app, scope, received, send) if plain else app(scope, received, send)
                    )
        except BodyRefusedError as error:
            await anyio.sleep(error.penalty)
            closing = {"Connection": "close"}
            await rpc_error(error.status, INVALID_REQUEST, error.message, closing)(
                scope, receive, send
            )
        except ClientGoneError:
            pass
        finally:
            among.discard(request)
            if not self._requests:
                self._idle.set()

    def _route(
        self,
        headers: Mapping[bytes, bytes],
        message: Message | NoMessage,
        scope: Scope,
        *,
        has_text: bool,
    ) -> tuple[ASGIApp, bool]:
        """The application for a POST, and whether its event stream is best sent as JSON."""
        version = text(headers.get(b"mcp-protocol-version"))
        modern = version in MODERN_PROTOCOL_VERSIONS
        if isinstance(message, NoMessage):
            if modern and has_text and message.code not in _OURS and not self._draining:
                return self._stateless.handle_request, False  # answers in the words of its version
            status = 413 if isinstance(message, TooLarge) else 400
            return rpc_error(status, message.code, message.why, number=message.id), False
        if modern and not self._draining:
            return self._stateless.handle_request, False
        if self._draining and _is_new_work(message):
            return _shutting_down(message.id), False
        if version is not None and version not in KNOWN_PROTOCOL_VERSIONS:
            return self._unknown_version(version, message), False
        opens = message.method == "initialize"
        if b"mcp-session-id" in headers and not modern:
            if not opens or self._shares.holds(scope):
                return telling_lost(self._stateful.handle_request, message.id), False
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"mcp-session-id"]
        if opens and not modern:
            return self._shares.opening(message.id), True
        return self._stateless.handle_request, not modern and message.method != "tools/call"

    def _unknown_version(self, version: str, message: Message) -> ASGIApp:
        if message.is_self_contained:
            return self._stateless.handle_request  # tells which versions of its kind there are
        known = ", ".join(KNOWN_PROTOCOL_VERSIONS)
        return rpc_error(
            400,
            UNSUPPORTED_PROTOCOL_VERSION,
            f"The MCP-Protocol-Version is none that this server knows: {known}.",
            number=message.id,
            data={"supported": KNOWN_PROTOCOL_VERSIONS, "requested": version[:60]},
        )


def _is_new_work(message: Message) -> bool:
    """Whether a server that is stopping refuses it."""
    method = message.method
    return not (method is None or method.startswith("notifications/") or method in _FOLLOW_UPS)


def _shutting_down(number: RequestId | None = None) -> ASGIApp:
    why = "The server is shutting down; connect again when it is back."
    return rpc_error(503, SERVER_BUSY, why, {"Retry-After": "5"}, number=number)
