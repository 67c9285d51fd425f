# SPDX-License-Identifier: Apache-2.0
"""How many MCP sessions one owner may have open, so that nobody holds them all.

Used by `waggle.web.endpoint` around the SDK's session manager, which counts only all together.

Tell a client that its session is gone, in the words by which clients open another one.

After a restart of the server, or a night's pause, clients go on with the session that they had. By
the specification, 404 makes them open a new one. Claude Code does so only for the code that the
TypeScript SDK gives, which is none that the Python SDK has. Called by `waggle.web.endpoint`.

Which toolsets the client of a request chose: `/mcp?toolsets=core,ports`.

Built by `waggle.web.app` in front of the endpoint. Leaves the offer in the request's scope, where
`waggle.mcp` reads it; refuses what is none, or is not allowed. Knows no tools.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qs

from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import RequestId
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.domain.access import Quota, SeveralOwners, share_of
from waggle.domain.errors import InvalidArgument, QuotaExceeded
from waggle.domain.toolset import CHOSEN, Offer
from waggle.jsonrpc import INVALID_REQUEST, SERVER_BUSY
from waggle.web.access import owner_of
from waggle.web.answers import rpc_error
from waggle.web.hosts import fields, text


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
        """The application for an `initialize`: it opens a session, or says whose share is full."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            owner: str = scope["user"].access_token.client_id  # `web.access` let somebody in
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
                    place.close()  # from here on the manager counts it, unless it was refused
                    await send(message)

                await self._manager.handle_request(scope, receive, sent)

        return answer

    def holds(self, scope: Scope) -> bool:
        """Whether the session that a request names is its caller's."""
        session = text(fields(scope).get(b"mcp-session-id"))
        owner = self._owners.get(session or "")
        return owner is not None and owner["client_id"] == owner_of(scope)

    @property
    def _owners(self) -> Mapping[str, AuthorizationContext]:
        # The SDK tells nowhere else whose sessions there are.
        return self._manager._session_owners  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _opened(self, owner: str) -> None:
        self._opening -= Counter((owner,))

    def _require_share(self, owner: str) -> None:
        """Raise QuotaExceeded. One that is just being opened may count twice, never not at all."""
        if not self._several_owners():
            return  # the manager's own maximum is all there is
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
    """`app`, which serves a session, with an answer of ours for one that there is not."""

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


PARAMETER = "toolsets"
MOST_REMEMBERED = 100


class ToolsetChoice:
    """ASGI middleware for /mcp; `offer` is what the operator has, for clients that do not choose.

    The parameter may come several times, with names separated by commas or spaces.
    """

    def __init__(self, app: ASGIApp, offer: Offer) -> None:
        self._app = app
        self._offer = offer
        self._read = lru_cache(MOST_REMEMBERED)(self._choice)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with what its client chose, or refuse it."""
        if scope["query_string"]:
            try:
                chosen = self._read(scope["query_string"])
            except InvalidArgument as error:
                told = f"{error.message} {error.hint}".strip()
                await rpc_error(400, INVALID_REQUEST, told)(scope, receive, send)
                return
            scope[CHOSEN] = chosen
        await self._app(scope, receive, send)

    def _choice(self, query: bytes) -> Offer | None:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get(PARAMETER)
        words = re.split(r"[,\s]+", ",".join(given or ()))
        return None if given is None else self._offer.choose(words)
