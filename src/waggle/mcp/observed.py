# SPDX-License-Identifier: Apache-2.0
"""The frame of tool calls, resource reads and prompts: shutdown, audit reports, idempotency.

Called by `waggle.mcp.server`, `resources`, `tools` and the stdio server. A stopping server refuses
new calls and ends the running ones. An ended call is reported to the observer with the data that is
safe to keep. A call with an idempotency key runs once (`waggle.service.idempotency`). Must not know
a transport beyond the session and address that it reports.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

import anyio
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult, Result, TextContent
from pydantic import Field
from starlette.requests import Request

from waggle.domain.access import MAX_KEY, KeyedCall, parse_key
from waggle.domain.errors import InvalidArgument, WaggleError
from waggle.domain.names import parse_id
from waggle.domain.observer import CANCELLED, OK, Call
from waggle.domain.programs.guest_job import EndedByRestart
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import Failure, innermost, outcome, refusal
from waggle.mcp.offered import refusing
from waggle.mcp.results import NEW_META_KEY, Reply
from waggle.mcp.schema import unlisted
from waggle.service.environments.provision import Place
from waggle.service.idempotency import Repeats

_PROGRAMS = ("code", "command")


def ended_call(
    ctx: Ctx, tool: str, arguments: Mapping[str, Any], result: Result | None, seconds: float
) -> Call:
    """Return the record of an ended call; without a result it was cancelled. Never raises."""
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
    """A request other than a tool call; `uri` is as the client sent it, cut."""

    method: str
    uri: str = ""
    environment_id: str | None = None


@asynccontextmanager
async def counted(
    services: Services, ctx: Ctx, about: About, advise: Callable[[str], str]
) -> AsyncGenerator[None]:
    """Count the block, which answers a request, as a tool call: in the rate, metrics and audit.

    Raises MCPError for its errors, with what `advise` leaves of their hints, and if the owner
    sends too many requests.
    """
    session, address = _origin(ctx)
    began, ended = time.perf_counter(), CANCELLED
    try:
        version = ctx.request_context.protocol_version
        async with refusing(about.method, about.uri, version, advise):
            if services.rates is not None:
                services.rates.take(current_owner(ctx))
            yield
        ended = OK
    except MCPError as error:
        ended = refusal(error)
        raise
    finally:
        services.observer.call_ended(
            Call(
                owner=current_owner(ctx),
                tool="",
                outcome=ended,
                seconds=time.perf_counter() - began,
                environment_id=about.environment_id,
                session=session,
                address=address,
                method=about.method,
            )
        )


def _origin(ctx: Ctx) -> tuple[str, str | None]:
    """Return the kind of a request's session, and the client's address if it came by HTTP."""
    request: object = ctx.request_context.request
    http = cast("Request[Any]", request) if isinstance(request, Request) else None
    session = "stdio" if http is None else "session" if "mcp-session-id" in http.headers else "none"
    return session, http.client.host if http and http.client else None


def _environment(arguments: Mapping[str, Any], result: Result | None) -> str | None:
    """Return the id of the environment that a call names or created."""
    given: object = arguments.get("environment_id")
    if given is None:
        given = _new_environment(result) if isinstance(result, CallToolResult) else None
    if not isinstance(given, str):
        return None
    try:
        return parse_id(given[:100])
    except InvalidArgument:
        return None


def _new_environment(result: CallToolResult) -> object:
    """Return the id in a result; a result with a picture has no structured content."""
    content = cast("dict[str, object]", result.structured_content or {})
    return (result.meta or {}).get(NEW_META_KEY) or content.get("environment_id")


_AFTER_STOP = "Its environments end with it: call again when it is back, and create a new one."
REFUSED = Failure(
    "shutting_down",
    "The server is shutting down and takes no new calls.",
    _AFTER_STOP,
    retryable=True,
)
CUT = Failure(
    "shutting_down",
    "The server is shutting down and had to stop this call.",
    _AFTER_STOP,
    retryable=True,
)


class Calls:
    """The running calls of a server, and whether more may begin."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._stopping = False
        self._idle = anyio.Event()
        self.when_cut: Callable[[], None] = lambda: None
        """Called by `cut`, which ends what the calls have left, too."""

    @property
    def stopping(self) -> bool:
        """Whether new calls are refused."""
        return self._stopping

    def __len__(self) -> int:
        return len(self._scopes)

    @contextmanager
    def one(self) -> Generator[anyio.CancelScope]:
        """Count a call for the length of the block; `cut` cancels the scope."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._idle.set()

    def stop(self) -> None:
        """Refuse new calls from now on. Idempotent."""
        self._stopping = True

    def cut(self) -> int:
        """Cancel the running calls, which then return an error; return their number."""
        self.when_cut()
        for scope in self._scopes:
            scope.cancel()
        return len(self._scopes)

    async def finished(self) -> None:
        """Wait until no call is in progress."""
        while self._scopes:
            self._idle = anyio.Event()
            await self._idle.wait()


PARAMETER = "idempotency_key"
REPEATED_META_KEY = "waggle/repeated"
LOST_WITH_SERVER = frozenset({"create_environment", "fork_environment"})
"""The tools whose interrupted work is undone when the server starts again."""
_REPEATED = (
    "This is the result of the first call with this idempotency_key; nothing was done again."
)
_SINCE = {
    "create_environment": "list_environments shows whether it is still there.",
    "fork_environment": "list_environments shows which of them are still there.",
    "snapshot_environment": "list_snapshots shows whether it is still kept.",
    "execute": "read_job shows the state of a program that still ran.",
    "run_command": "read_job shows the state of a program that still ran.",
}
"""Advice on the current state of what the first call made, by tool."""
IdempotencyKey = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=MAX_KEY,
        description="Any text that is unique for this action. A call that is repeated with its key "
        "within a day, after a lost connection for example, returns the first result and does "
        "nothing.",
        json_schema_extra=unlisted(),
    ),
]
ToolResult = CallToolResult | InputRequiredResult
ToolCall = Callable[[], Awaitable[ToolResult]]


async def once(
    repeats: Repeats,
    name: str,
    arguments: Mapping[str, Any],
    call: ToolCall,
    *,
    owner: str,
    advise: Callable[[str], str],
    fail: Callable[[Exception], ToolResult],
) -> ToolResult:
    """Call the tool, or return the result of an earlier call with the same key, marked as such.

    A refusal before anything was done is not kept, but the end by a restart, as `fail` puts it, is:
    a part was done, so it must not run again. Raises as `Repeats.once`.
    """
    given = arguments.get(PARAMETER)
    if not isinstance(given, str):
        return await call()
    keyed = KeyedCall(owner, parse_key(given), fingerprint(name, arguments))
    fresh: list[ToolResult] = []

    async def work() -> str | None:
        try:
            result = await call()
            is_done = _done(result)
        except (ToolError, WaggleError) as error:
            if not isinstance(innermost(error), EndedByRestart):
                raise
            result, is_done = fail(error), True
        fresh.append(result)
        return result.model_dump_json(by_alias=True) if is_done else None

    kept = await repeats.once(keyed, work, lost_with_server=name in LOST_WITH_SERVER)
    if kept is None:
        return fresh[0]
    result = CallToolResult.model_validate_json(kept)
    note = advise(f"{_REPEATED} {_SINCE.get(name, '')}".strip())
    return result.model_copy(
        update={
            "content": [*result.content, TextContent(type="text", text=note)],
            "meta": {**(result.meta or {}), REPEATED_META_KEY: True},
        }
    )


def _done(result: ToolResult) -> bool:
    """Whether something was done: a refusal has an error and no structured content."""
    return isinstance(result, CallToolResult) and not (
        result.is_error and result.structured_content is None
    )


def fingerprint(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the digest of a call without its idempotency key. Pure."""
    rest = {key: value for key, value in arguments.items() if key != PARAMETER}
    canonical = json.dumps([name, rest], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def introduced(reply: Reply, place: Place) -> Reply:
    """Return the reply of a call, beginning with the environment's id if the call created it."""
    return reply.introduced(place.id, place.environment.runtime) if place.is_new else reply
