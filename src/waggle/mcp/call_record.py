# SPDX-License-Identifier: Apache-2.0
"""What is told of a tool call once it has ended, for metrics and the audit log.

Called by `waggle.mcp.server`. Takes from the request what is safe to keep, and from the arguments
only the environment's id, and the program for an audit log that wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mcp_types import CallToolResult, Result
from starlette.requests import Request

from waggle.domain.environment import parse_id
from waggle.domain.errors import InvalidArgument
from waggle.domain.observer import CANCELLED, Call
from waggle.mcp.context import Ctx, owner_of
from waggle.mcp.errors import outcome

_PROGRAMS = ("code", "command")


def ended_call(
    ctx: Ctx, tool: str, arguments: Mapping[str, Any], result: Result | None, seconds: float
) -> Call:
    """The call as it ended; without a result it was cancelled. Never raises."""
    request: object = ctx.request_context.request
    http = cast("Request[Any]", request) if isinstance(request, Request) else None
    session = "stdio" if http is None else "session" if "mcp-session-id" in http.headers else "none"
    return Call(
        owner=owner_of(request),
        tool=tool,
        outcome=CANCELLED if result is None else outcome(result),
        seconds=seconds,
        environment_id=_environment(arguments, result),
        session=session,
        address=http.client.host if http and http.client else None,
        program=next((arguments[name] for name in _PROGRAMS if name in arguments), None),
    )


def _environment(arguments: Mapping[str, Any], result: Result | None) -> str | None:
    """The environment of a call: the one that it names, or the one that it made."""
    given: object = arguments.get("environment_id")
    if given is None:
        made = result.structured_content if isinstance(result, CallToolResult) else None
        given = cast("dict[str, object]", made or {}).get("environment_id")
    if not isinstance(given, str):
        return None
    try:
        return parse_id(given[:100])
    except InvalidArgument:
        return None
