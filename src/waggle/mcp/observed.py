# SPDX-License-Identifier: Apache-2.0
"""What is told of a tool call, or a request for resources or a prompt, once it has ended.

Called by `waggle.mcp.server`, `.prompts` and `.resources`; heard by those who count. Takes from the
request what is safe to keep, and from the arguments only the environment's id, and the program for
an audit log that wants it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, Result
from starlette.requests import Request

from waggle.domain.environment import parse_id
from waggle.domain.errors import InvalidArgument
from waggle.domain.observer import CANCELLED, OK, Call, Observer
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import outcome, refusal
from waggle.mcp.refusals import refusing

_PROGRAMS = ("code", "command")
NEW_META_KEY = "waggle/new_environment"
"""In the `_meta` of a result: the id of the environment that the call made for itself."""


def ended_call(
    ctx: Ctx, tool: str, arguments: Mapping[str, Any], result: Result | None, seconds: float
) -> Call:
    """The call as it ended; without a result it was cancelled. Never raises."""
    session, address = _origin(ctx)
    return Call(
        owner=current_owner(ctx),
        tool=tool,
        outcome=CANCELLED if result is None else outcome(result),
        seconds=seconds,
        environment_id=_environment(arguments, result),
        session=session,
        address=address,
        program=next((arguments[name] for name in _PROGRAMS if name in arguments), None),
    )


@dataclass(frozen=True, slots=True)
class About:
    """What a request that is no tool call asks for; `uri` is as the client sent it, cut."""

    method: str
    uri: str = ""
    environment_id: str | None = None


@asynccontextmanager
async def counted(services: Services, ctx: Ctx, about: About) -> AsyncGenerator[None]:
    """Count the block, which answers a request, as a tool call: in the rate, metrics and audit.

    Raises MCPError when the owner makes too many.
    """
    with _telling(services.observer, ctx, about):
        if services.rates is not None:
            version = ctx.request_context.protocol_version
            async with refusing(about.method, about.uri, version, services.offer):
                services.rates.take(current_owner(ctx))
        yield


@contextmanager
def _telling(observer: Observer, ctx: Ctx, about: About) -> Generator[None]:
    """Tell how the block ended."""
    session, address = _origin(ctx)
    began = time.perf_counter()
    ended = CANCELLED
    try:
        yield
        ended = OK
    except MCPError as error:
        ended = refusal(error)
        raise
    except Exception:
        ended = "internal"
        raise
    finally:
        took = time.perf_counter() - began
        observer.call_ended(
            Call(
                owner=current_owner(ctx),
                tool="",
                outcome=ended,
                seconds=took,
                environment_id=about.environment_id,
                session=session,
                address=address,
                method=about.method,
            )
        )


def _origin(ctx: Ctx) -> tuple[str, str | None]:
    """How a request came, and from where."""
    request: object = ctx.request_context.request
    http = cast("Request[Any]", request) if isinstance(request, Request) else None
    session = "stdio" if http is None else "session" if "mcp-session-id" in http.headers else "none"
    return session, http.client.host if http and http.client else None


def _environment(arguments: Mapping[str, Any], result: Result | None) -> str | None:
    """The environment of a call: the one that it names, or the one that it made."""
    given: object = arguments.get("environment_id")
    if given is None:
        given = _made(result) if isinstance(result, CallToolResult) else None
    if not isinstance(given, str):
        return None
    try:
        return parse_id(given[:100])
    except InvalidArgument:
        return None


def _made(result: CallToolResult) -> object:
    """The environment that a result tells of. With a picture it has no structured content."""
    content = cast("dict[str, object]", result.structured_content or {})
    return (result.meta or {}).get(NEW_META_KEY) or content.get("environment_id")
