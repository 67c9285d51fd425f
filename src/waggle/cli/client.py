# SPDX-License-Identifier: Apache-2.0
"""The command line as an MCP client of the running server: connections, calls and refusals."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
from mcp import Client, MCPError
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult, TextContent

from waggle.cli.advice import advice, message
from waggle.cli.ids import matching
from waggle.config import Settings
from waggle.domain.errors import InvalidArgument, NotFound, SetupIncomplete, WaggleError
from waggle.jsonrpc import SERVER_BUSY
from waggle.tasks import errors_in


def server_url(settings: Settings) -> str:
    """Return the URL of the server of these settings."""
    host = settings.listen_addr.host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{settings.listen_addr.port}/mcp"


class Unauthorized(WaggleError):
    """The server requires authentication, or refuses the token."""

    code = "unauthorized"


class ShuttingDown(WaggleError):
    """The server answers, but accepts no more calls."""

    code = "shutting_down"
    retryable = True
    default_hint = "Its environments end with it, except those paused to disk; start it again."


@asynccontextmanager
async def connected(
    url: str, token: str = "", person: ElicitationFnT | None = None
) -> AsyncGenerator[Client]:
    """Connect a client, which sends the token if there is one and requests every toolset.

    `person` answers what the server asks; None: it asks nobody.

    Raises SetupIncomplete when no MCP server answers or it has stopped, ShuttingDown and
    Unauthorized. An exception of the block is raised as it is, not inside the exception groups of
    the client's tasks.
    """
    refused: list[int] = [0]

    async def note(response: httpx2.Response) -> None:
        """Remember the status, which the SDK's errors do not contain."""
        if response.status_code in _REFUSING:
            refused.append(response.status_code)

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = httpx2.Timeout(30, read=300)
    try:
        async with (
            httpx2.AsyncClient(
                headers=headers, timeout=timeout, event_hooks={"response": [note]}
            ) as http,
            Client(
                streamable_http_client(f"{url}?toolsets=full", http_client=http),
                elicitation_callback=person,
            ) as client,
        ):
            yield client
    except (httpx2.HTTPError, MCPError, BaseExceptionGroup) as error:
        cause = errors_in(cast("BaseException", error))[0]
        if isinstance(cause, (httpx2.HTTPError, MCPError)):
            raise _unusable(cause, url, token, refused[-1]) from error
        raise cause from None


def connected_by(
    settings: Settings, person: ElicitationFnT | None = None
) -> contextlib.AbstractAsyncContextManager[Client]:
    """Connect a client to the server of these settings, as `connected` does."""
    return connected(server_url(settings), settings.token.get_secret_value(), person)


def _unusable(cause: httpx2.HTTPError | MCPError, url: str, token: str, status: int) -> WaggleError:
    """Return the error to show. `status` is the last one of `_REFUSING`, or 0."""
    if status in (401, 403):
        return _unauthorized(url, token, status)
    if isinstance(cause, httpx2.ConnectError):
        return SetupIncomplete(
            f"No server answers at {url}.",
            hint="Start it with 'waggle serve', or set WAGGLE_LISTEN_ADDR to its address.",
        )
    # The SDK uses the same code for a closed connection.
    if status == 503 and isinstance(cause, MCPError) and cause.error.code == SERVER_BUSY:
        return ShuttingDown(f"The server at {url} is shutting down.")
    if isinstance(cause, MCPError) and (refusal := refused_request(cause)):
        return refusal
    why = str(cause).rstrip(".") or type(cause).__name__
    return SetupIncomplete(
        f"The program at {url} is no waggle server, or it stopped: {why}.",
        hint="See its log, and check WAGGLE_LISTEN_ADDR.",
    )


def _unauthorized(url: str, token: str, status: int) -> Unauthorized:
    if status == 403:
        return Unauthorized(f"The token may not be used at {url}.", hint=_ASK)
    if token:
        return Unauthorized(f"The server at {url} refuses the token in WAGGLE_TOKEN.", hint=_ASK)
    return Unauthorized(f"The server at {url} requires a token.", hint=_ASK)


_LOOK = "'waggle env ls' shows what there is, 'waggle env new' makes one."
_REFUSING = (401, 403, 503)
_ASK = "Set WAGGLE_TOKEN to one that 'waggle token new OWNER' printed on the server's machine."


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool and return its structured result, as the server slims it. Raises CallRefused."""
    return _result(tool, await client.call_tool(tool, arguments))


async def call_reporting(
    client: Client, report: Callable[[str], None], tool: str, **arguments: object
) -> dict[str, Any]:
    """Call a tool as `call` does, and report its progress."""
    progress = progress_to(report)
    return _result(tool, await client.call_tool(tool, arguments, progress_callback=progress))


def progress_to(report: Callable[[str], None]) -> ProgressFnT:
    """Return a callback for the progress of a call, which reports it as text."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        report(message or f"{progress:g} of {total or 1:g}")

    return on_progress


def _result(tool: str, result: CallToolResult) -> dict[str, Any]:
    if result.is_error:
        raise refused(tool, result)
    return result.structured_content or {}


async def find(client: Client, wanted: str) -> dict[str, Any]:
    """Find the environment with this id, beginning of id, or name.

    Raises NotFound, and InvalidArgument if there are several.
    """
    listed = await call(client, "list_environments")
    found = matching(listed.get("environments", []), "environment_id", wanted)
    if not found:
        raise NotFound(f"There is no environment {wanted!r}.", hint=_LOOK)
    if len(found) > 1:
        ids = ", ".join(f"{row['environment_id']} of {row['created_at']}" for row in found)
        raise InvalidArgument(
            f"{wanted!r} names {len(found)} environments.", hint=f"Use the id: {ids}."
        )
    return found[0]


_ERROR = "waggle/error"
"""The key of waggle's errors in `_meta`, as `waggle.mcp.errors` writes them."""


class CallRefused(WaggleError):
    """A tool answered with an error. `reason` is its code, `result` the data of the answer."""

    code = "call_refused"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str = "",
        wait: float | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.wait = wait
        """Seconds after which the same call will succeed, if known."""
        self.result: Mapping[str, Any] = result or {}


def refused(tool: str, result: CallToolResult) -> CallRefused:
    """Return the error in a tool's error result."""
    error = (result.meta or {}).get(_ERROR)
    if not isinstance(error, dict):
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        return CallRefused("\n".join(texts) or "The server refused.")
    return _of(tool, cast("dict[str, Any]", error), result.structured_content)


def refused_request(error: MCPError) -> CallRefused | None:
    """Return waggle's error in an error of the protocol, or None if it holds none."""
    data: object = error.error.data
    found: object = cast("dict[str, Any]", data).get(_ERROR) if isinstance(data, dict) else None
    return _of("", cast("dict[str, Any]", found), None) if isinstance(found, dict) else None


def _of(tool: str, error: Mapping[str, Any], result: Mapping[str, Any] | None) -> CallRefused:
    code, hint = str(error["code"]), str(error["hint"])
    if code == "unknown_tool":
        return CallRefused(
            "The server does not offer what this command needs.",
            hint="Its operator limits the tools with WAGGLE_TOOLSETS_ALLOWED or WAGGLE_TOOLSETS.",
            reason=code,
        )
    if tool and hint.startswith(f"{tool} takes"):
        hint = ""  # a list of its parameters
    return CallRefused(
        message(str(error["message"])),
        hint=advice(hint),
        reason=code,
        wait=error.get("retry_after_seconds"),
        result=result,
    )
