# SPDX-License-Identifier: Apache-2.0
"""Tell a client that its session is gone, in the words by which clients open another one.

After a restart of the server, or a night's pause, clients go on with the session that they had. By
the specification, 404 makes them open a new one. Claude Code does so only for the code that the
TypeScript SDK gives, which is none that the Python SDK has. Called by `waggle.web.endpoint`.
"""

from __future__ import annotations

from mcp_types import RequestId
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.web.answers import rpc_error

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
