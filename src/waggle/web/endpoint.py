# SPDX-License-Identifier: Apache-2.0
"""The /mcp endpoint: it chooses one of the SDK's session managers for a request, and drains.

A request of a 2025 session is served by the stateful manager. A request without a session id that
is not `initialize` (a person with curl) is served by the stateless one. Requests of 2026-07-28
name their version, and either manager hands them to the SDK's modern entry. Calls are answered as
an event stream, so that a client that hangs up cancels its call; requests without a session that
are answered at once get plain JSON. Called by `waggle.web`; knows no tools.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc
import structlog
from mcp.server.lowlevel import Server
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION, RequestId
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, SERVER_BUSY, Message, NoMessage
from waggle.large import ONE_ANSWER, TooLarge
from waggle.web.access import owner_of
from waggle.web.answers import JSON, Fields, as_json, fields, forms, rpc_error
from waggle.web.bodies import Bodies, BodyRefusedError, ClientGoneError, replay
from waggle.web.sdk import SessionLimits, Sessions, fit_for_sdk, without_session

log = structlog.get_logger(__name__)
_LISTEN = b"subscriptions/listen"

_OURS = frozenset({INVALID_PARAMS})
"""Errors in messages of 2026-07-28 that the SDK would refuse without a reason."""

_FOLLOW_UPS = frozenset({"tools/list", "ping", "server/discover"})
"""Requests that a stopping server still answers. The SDK's client looks up the schema of a result
after a call, and loses the result when it cannot."""

FOLLOW_UP_SECONDS = 1.0
"""Time for those requests, after calls that ended within the grace."""
FLUSH_SECONDS = 1.0
"""Time for the answers of calls that were cut to reach their clients."""


class McpEndpoint:
    """An ASGI application for one path. Serves within `running`, until `drain`."""

    def __init__(
        self,
        server: Server[Any],
        sessions: SessionLimits,
        bodies: Bodies,
        cut_calls: Callable[[], object] = lambda: None,
    ) -> None:
        """Create the endpoint. `cut_calls` ends the tool calls in progress with an answer."""
        self._sessions = Sessions(server, sessions, bodies.largest)
        self._cut_calls = cut_calls
        self._bodies = bodies
        self._requests: set[anyio.CancelScope] = set()
        self._streams: set[anyio.CancelScope] = set()
        """Streams of changes, which have no end; the others are calls and other requests."""
        self._idle = anyio.Event()
        self._draining = False
        self._closing = anyio.Event()
        self._closed = anyio.Event()

    @property
    def draining(self) -> bool:
        """Whether new work is refused because the server is stopping."""
        return self._draining

    async def closing(self) -> None:
        """Return when all calls are answered, or cut, and streams without an end are to end."""
        await self._closing.wait()

    @property
    def large(self) -> int:
        """The number of bodies so far that were not small."""
        return self._bodies.larger

    @property
    def sessions(self) -> int:
        """The number of open 2025 sessions."""
        return len(self._sessions)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the SDK's managers and their tasks until the block ends. Can be entered once."""
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
            async with self._sessions.running():
                task_status.started()
                await self._closing.wait()
        finally:
            self._closed.set()

    async def drain(self, grace: float) -> int:
        """Refuse new work, let calls finish for `grace` seconds, then end every stream.

        Return the number of calls that were cut. Idempotent. After a cancellation, call it again
        with a grace of 0.
        """
        if self._closing.is_set():
            return 0
        self._draining = True
        log.info("draining", calls=len(self._requests), grace_seconds=grace)
        with anyio.move_on_after(grace):
            if self._requests:
                await self._all_answered()
                await anyio.sleep(FOLLOW_UP_SECONDS)
            await self._all_answered()
        cut = len(self._requests)
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
            await self._sessions.within()(scope, receive, send)
        else:
            why = "Send JSON-RPC requests by POST; GET and DELETE need an Mcp-Session-Id."
            allowed = {"Allow": "POST, GET, DELETE"}
            await rpc_error(405, INVALID_REQUEST, why, allowed)(scope, receive, send)

    async def _post(self, headers: Fields, scope: Scope, receive: Receive, send: Send) -> None:
        listens = headers.get(b"mcp-method") == _LISTEN  # the SDK refuses a body that differs
        taken = forms(headers.get(b"accept"))
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON:
            why = "Send Content-Type: application/json."
            await rpc_error(415, INVALID_REQUEST, why)(scope, receive, send)
            return
        if not (taken.events or (taken.json and not listens)):
            why = "Answers are event streams or JSON: accept both."
            await rpc_error(406, INVALID_REQUEST, why)(scope, receive, send)
            return
        fit_for_sdk(scope, taken)
        declared = headers.text(b"content-length") or ""
        request = anyio.CancelScope()
        among = self._streams if listens else self._requests
        among.add(request)
        try:
            with request:
                async with self._bodies.read(declared, receive, owner_of(scope)) as body:
                    message, text = await self._bodies.parse(body, scope)
                    app, short = self._route(headers, message, scope, has_text=bool(text))
                    if taken.json and (short or not taken.events):
                        app, scope[ONE_ANSWER] = partial(as_json, app), True
                    await app(scope, replay(text, receive), send)
        except BodyRefusedError as error:
            await anyio.sleep(error.penalty)
            close = {"Connection": "close"}
            refusal = rpc_error(error.status, INVALID_REQUEST, error.message, close)
            await refusal(scope, receive, send)
        except ClientGoneError:
            pass
        finally:
            among.discard(request)
            if not self._requests:
                self._idle.set()

    def _route(
        self, headers: Fields, message: Message | NoMessage, scope: Scope, *, has_text: bool
    ) -> tuple[ASGIApp, bool]:
        """Return the application for a POST, and whether its event stream is best sent as JSON."""
        version = headers.text(b"mcp-protocol-version")
        modern = version in MODERN_PROTOCOL_VERSIONS
        if isinstance(message, NoMessage):
            if modern and has_text and message.code not in _OURS and not self._draining:
                return self._sessions.without, False  # it answers as the version requires
            status = 413 if isinstance(message, TooLarge) else 400
            return rpc_error(status, message.code, message.why, number=message.id), False
        if modern and not self._draining:
            return self._sessions.without, False
        if self._draining and _is_new_work(message):
            return _shutting_down(message.id), False
        if version is not None and version not in KNOWN_PROTOCOL_VERSIONS:
            return self._unknown_version(version, message), False
        opens = message.method == "initialize"
        if b"mcp-session-id" in headers and not modern:
            if not opens or self._sessions.holds(scope):
                return self._sessions.within(message.id), False
            without_session(scope)
        if opens and not modern:
            return self._sessions.opening(message.id), True
        return self._sessions.without, not modern and message.method != "tools/call"

    def _unknown_version(self, version: str, message: Message) -> ASGIApp:
        if message.is_self_contained:
            return self._sessions.without  # it names the supported versions of this kind
        known = ", ".join(KNOWN_PROTOCOL_VERSIONS)
        return rpc_error(
            400,
            UNSUPPORTED_PROTOCOL_VERSION,
            f"The MCP-Protocol-Version is none that this server knows: {known}.",
            number=message.id,
            data={"supported": KNOWN_PROTOCOL_VERSIONS, "requested": version[:60]},
        )


def _is_new_work(message: Message) -> bool:
    """Whether a stopping server refuses the message."""
    method = message.method
    return not (method is None or method.startswith("notifications/") or method in _FOLLOW_UPS)


def _shutting_down(number: RequestId | None = None) -> ASGIApp:
    why = "The server is shutting down; connect again when it is back."
    return rpc_error(503, SERVER_BUSY, why, {"Retry-After": "5"}, number=number)
