# SPDX-License-Identifier: Apache-2.0
"""The SDK's two session managers, and what they lack: the only file of `web` that looks into them.

The managers count only all sessions together; here an owner has a share. After a restart of the
server, or a night's pause, clients continue with their old session. By the specification, 404 makes
them open a new one; Claude Code does so only for the error code of the TypeScript SDK. The SDK
parses headers and body again: both transports make a Request of their own from the scope and parse
`await request.body()`, and take nothing parsed. `waggle.web.bodies` keeps that to 256 KiB.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import RequestId
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.domain.access import Quota, SeveralOwners, one_owner, share_of
from waggle.domain.errors import QuotaExceeded
from waggle.jsonrpc import SERVER_BUSY
from waggle.web.access import owner_of
from waggle.web.answers import EVENTS, JSON, Forms, fields, rpc_error

SESSION_NOT_FOUND = -32001
_WANTED = {b"accept": JSON + b", " + EVENTS, b"content-type": JSON}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The life of an unused 2025 session, in seconds, and the maximum number of sessions.

    Where several owners may call, one owner may have half of the maximum.
    """

    idle_seconds: float
    maximum: int
    several_owners: SeveralOwners = one_owner


class Sessions:
    """The sessions of a server, and the requests without one. Every request has a `user`."""

    def __init__(self, server: Server[Any], limits: SessionLimits, largest_body: int) -> None:
        self._limits = limits
        self._stateful = StreamableHTTPSessionManager(
            server,
            session_idle_timeout=limits.idle_seconds,
            max_sessions=limits.maximum,
            max_request_body_size=largest_body,
        )
        self._stateless = StreamableHTTPSessionManager(
            server, stateless=True, max_request_body_size=largest_body
        )
        self._opening = Counter[str]()
        self.without: ASGIApp = self._stateless.handle_request
        """The application for requests without a session, or of 2026-07-28."""

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def _owners(self) -> Mapping[str, AuthorizationContext]:
        # The SDK (2.3.0) has no public way to count sessions or to list their owners.
        return self._stateful._session_owners  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the managers until the block ends. Can be entered once."""
        async with self._stateful.run(), self._stateless.run():
            yield

    def holds(self, scope: Scope) -> bool:
        """Whether the session that a request names belongs to the request's owner."""
        owner = self._owners.get(fields(scope).text(b"mcp-session-id") or "")
        return owner is not None and owner["client_id"] == owner_of(scope)

    def opening(self, number: RequestId | None) -> ASGIApp:
        """Return the application for an `initialize`: it opens a session, or refuses with 429."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            owner = owner_of(scope)
            try:
                self._require_share(owner)
            except QuotaExceeded as error:
                data = {"code": error.code}
                refusal = rpc_error(429, SERVER_BUSY, str(error), number=number, data=data)
                await refusal(scope, receive, send)
                return
            with contextlib.ExitStack() as place:
                self._opening[owner] += 1
                place.callback(self._opened, owner)

                async def sent(message: Message) -> None:
                    place.close()  # from now on the manager counts it, unless it was refused
                    await send(message)

                await self._stateful.handle_request(scope, receive, sent)

        return answer

    def _opened(self, owner: str) -> None:
        self._opening -= Counter((owner,))

    def _require_share(self, owner: str) -> None:
        """Raise QuotaExceeded if the share is full.

        A session being opened may count twice, but never goes uncounted.
        """
        if not self._limits.several_owners():
            return  # then only the manager's own maximum applies
        held = sum(session["client_id"] == owner for session in self._owners.values())
        quota = Quota(
            "MCP sessions",
            share_of(self._limits.maximum, several=True),
            "WAGGLE_MAX_SESSIONS, of which each of several owners has half",
            "End one with DELETE, or wait until unused ones have ended.",
        )
        quota.require(owner, held + self._opening[owner])

    def within(self, number: RequestId | None = None) -> ASGIApp:
        """Return the application for a session's request; 404 has SESSION_NOT_FOUND in it."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            lost = False

            async def sent(message: Message) -> None:
                nonlocal lost
                if message["type"] == "http.response.start" and message["status"] == 404:
                    lost = True
                    refusal = rpc_error(404, SESSION_NOT_FOUND, "Session not found", number=number)
                    await refusal(scope, receive, send)
                elif not lost:
                    await send(message)

            await self._stateful.handle_request(scope, receive, sent)

        return answer


def fit_for_sdk(scope: Scope, taken: Forms) -> None:
    """Replace Accept and Content-Type in `scope` where the SDK would refuse the request."""
    if not (all(taken) and fields(scope)[b"content-type"].startswith(JSON)):
        others = [header for header in scope["headers"] if header[0] not in _WANTED]
        scope["headers"] = [*others, *_WANTED.items()]


def without_session(scope: Scope) -> None:
    """Remove the session's id from `scope`, so that the SDK opens a new one."""
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"mcp-session-id"]
