# SPDX-License-Identifier: Apache-2.0
"""Which toolsets the client of a request chose: `/mcp?toolsets=core,ports`.

Built by `waggle.web.app` in front of the endpoint. Leaves the offer in the request's scope, where
`waggle.mcp` reads it; refuses what is none, or is not allowed. Knows no tools.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.domain.errors import InvalidArgument
from waggle.domain.toolset import CHOSEN, Offer
from waggle.jsonrpc import INVALID_REQUEST
from waggle.web.answers import rpc_error

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
