# SPDX-License-Identifier: Apache-2.0
"""MCP sessions: an owner's share of them, and the answer for a lost one.

`SessionShares` and `telling_lost` wrap the SDK's session manager for `waggle.web.endpoint`. The
manager counts only all sessions together. After a restart of the server, or a night's pause,
clients continue with their old session. By the specification, 404 makes them open a new one; Claude
Code does so only for the error code of the TypeScript SDK, which the Python SDK lacks.
Knows no tools.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping

from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import RequestId
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.domain.access import Quota, SeveralOwners, share_of
from waggle.domain.errors import QuotaExceeded
from waggle.jsonrpc import SERVER_BUSY
from waggle.web.access import owner_of
from waggle.web.answers import fields, rpc_error, text


class SessionShares:
    """The sessions of one manager, which has at most `maximum`."""

    def __init__(
        self, manager: StreamableHTTPSessionManager, maximum: int, several_owners: SeveralOwners
    ) -> None:
        self._manager = manager
        self._maximum = maximum
        self._several_owners = several_owners
        self._opening = Counter[str]()

    def opening(self, number: RequestId | None) -> ASGIApp:
        """Return the application for an `initialize`: it opens a session, or refuses with 429."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            owner: str = scope["user"].access_token.client_id  # set by `web.access`
            try:
                self._require_share(owner)
            except QuotaExceeded as error:
                told = {"code": error.code}
                refusal = rpc_error(429, SERVER_BUSY, str(error), number=number, data=told)
                await refusal(scope, receive, send)
                return
            with contextlib.ExitStack() as place:
                self._opening[owner] += 1
                place.callback(self._opened, owner)

                async def sent(message: Message) -> None:
                    place.close()  # from now on the manager counts it, unless it was refused
                    await send(message)

                await self._manager.handle_request(scope, receive, sent)

        return answer

    def holds(self, scope: Scope) -> bool:
        """Whether the session that a request names belongs to the request's owner."""
        session = text(fields(scope).get(b"mcp-session-id"))
        owner = self._owners.get(session or "")
        return owner is not None and owner["client_id"] == owner_of(scope)

    @property
    def _owners(self) -> Mapping[str, AuthorizationContext]:
        # The SDK has no public way to list the owners of sessions.
        return self._manager._session_owners  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _opened(self, owner: str) -> None:
        self._opening -= Counter((owner,))

    def _require_share(self, owner: str) -> None:
        """Raise QuotaExceeded if the share is full.

        A session being opened may count twice, but never goes uncounted.
        """
        if not self._several_owners():
            return  # then only the manager's own maximum applies
        held = sum(each["client_id"] == owner for each in self._owners.values())
        quota = Quota(
            "MCP sessions",
            share_of(self._maximum, several=True),
            "WAGGLE_MAX_SESSIONS, of which each of several owners has half",
            "End one with DELETE, or wait until unused ones have ended.",
        )
        quota.require(owner, held + self._opening[owner])


SESSION_NOT_FOUND = -32001


def telling_lost(app: ASGIApp, number: RequestId | None = None) -> ASGIApp:
    """Wrap `app`, which serves a session: replace its 404 by SESSION_NOT_FOUND."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        lost = False

        async def sent(message: Message) -> None:
            nonlocal lost
            if message["type"] == "http.response.start" and message["status"] == 404:
                lost = True
                told = rpc_error(404, SESSION_NOT_FOUND, "Session not found", number=number)
                await told(scope, receive, send)
            elif not lost:
                await send(message)

        await app(scope, receive, sent)

    return answer
