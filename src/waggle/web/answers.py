# SPDX-License-Identifier: Apache-2.0
"""The JSON answers of the web layer itself: plain problems, and JSON-RPC errors for /mcp."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.responses import JSONResponse
from starlette.types import Message, Send

log = structlog.get_logger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
SERVER_BUSY = -32000


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error outside of MCP."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def rpc_error(
    status: int, code: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A JSON-RPC error for a request that never reached the MCP server, so without its id."""
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return JSONResponse(body, status_code=status, headers=headers)


def until_complete(send: Send) -> Send:
    """Drop what comes after a complete response.

    The SDK answers once more when a session ends under a call whose stream was closed already,
    which the server would take for a crash of ours.
    """
    complete = False

    async def guarded(message: Message) -> None:
        nonlocal complete
        if complete:
            log.debug("late_answer_dropped", type=message["type"])
            return
        complete = message["type"] == "http.response.body" and not message.get("more_body")
        await send(message)

    return guarded
