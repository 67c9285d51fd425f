# SPDX-License-Identifier: Apache-2.0
"""The JSON answers of the web layer itself: plain problems, and JSON-RPC errors for /mcp."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import structlog
from mcp_types import RequestId
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle.jsonrpc import INTERNAL_ERROR

log = structlog.get_logger(__name__)


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error outside of MCP."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def rpc_error(
    status: int,
    code: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    number: RequestId | None = None,
    data: Mapping[str, object] | None = None,
) -> JSONResponse:
    """A JSON-RPC error for a request that never reached the MCP server, with its id if known."""
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    body = {"jsonrpc": "2.0", "id": number, "error": error}
    return JSONResponse(body, status_code=status, headers=headers)


class OneAnswer:
    """A `send` that drops what comes after a complete response.

    The SDK answers once more when a session ends under a call whose stream was closed already,
    which the server would take for a crash of ours.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self._complete = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the response, if it is one of the first."""
        if self._complete:
            log.debug("late_answer_dropped", type=message["type"])
            return
        self.begun = True
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request of JSON-RPC once, and tell the client also when `app` crashes.

    A crash in the middle of the response is raised: only a connection that ends tells it then.
    """
    answer = OneAnswer(send)
    try:
        await app(scope, receive, answer)
    except Exception:
        error_id = secrets.token_hex(6)
        log.exception("request_crashed", error_id=error_id)
        if answer.begun:
            raise
        told = f"Internal error {error_id}. This is a fault of the server; its log has the details"
        await rpc_error(500, INTERNAL_ERROR, f"{told} under this id.")(scope, receive, answer)
