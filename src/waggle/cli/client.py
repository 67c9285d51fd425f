# SPDX-License-Identifier: Apache-2.0
"""The command line as an MCP client of the running server: connecting, calling, finding."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from waggle.cli.refusals import refused, refused_request
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
    default_hint = "Its environments end with it, but for those that sleep; start it again."


@asynccontextmanager
async def connected(url: str, token: str = "") -> AsyncGenerator[Client]:
    """Connect a client, which sends the token if there is one and requests every toolset.

    Raises SetupIncomplete when no MCP server answers or it has stopped, ShuttingDown and
    Unauthorized. An exception of the block is raised as it is, not inside the exception groups of
    the client's tasks.
    """
    refused: list[int] = [0]

    async def note(answer: httpx2.Response) -> None:
        """Remember the status, which the SDK's errors do not contain."""
        if answer.status_code in _TELLING:
            refused.append(answer.status_code)

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = httpx2.Timeout(30, read=300)
    try:
        async with (
            httpx2.AsyncClient(
                headers=headers, timeout=timeout, event_hooks={"response": [note]}
            ) as http,
            Client(streamable_http_client(f"{url}?toolsets=full", http_client=http)) as client,
        ):
            yield client
    except (httpx2.HTTPError, MCPError, BaseExceptionGroup) as error:
        cause = errors_in(cast("BaseException", error))[0]
        if isinstance(cause, (httpx2.HTTPError, MCPError)):
            raise _told(cause, url, token, refused[-1]) from error
        raise cause from None


def connected_by(settings: Settings) -> contextlib.AbstractAsyncContextManager[Client]:
    """Connect a client to the server of these settings, as `connected` does."""
    return connected(server_url(settings), settings.token.get_secret_value())


def _told(cause: httpx2.HTTPError | MCPError, url: str, token: str, status: int) -> WaggleError:
    """Return the error for a person. `status` is the last one of `_TELLING`, or 0."""
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
    if isinstance(cause, MCPError) and (told := refused_request(cause)):
        return told
    why = str(cause).rstrip(".") or type(cause).__name__
    return SetupIncomplete(
        f"What answers at {url} is no waggle server, or it stopped: {why}.",
        hint="Look at its log, and at WAGGLE_LISTEN_ADDR.",
    )


def _unauthorized(url: str, token: str, status: int) -> Unauthorized:
    if status == 403:
        return Unauthorized(f"The token may not be used at {url}.", hint=_ASK)
    if token:
        return Unauthorized(f"The server at {url} refuses the token in WAGGLE_TOKEN.", hint=_ASK)
    return Unauthorized(f"The server at {url} wants a token.", hint=_ASK)


_LOOK = "'waggle env ls' shows what there is, 'waggle env new' makes one."
_TELLING = (401, 403, 503)
_ASK = "Set WAGGLE_TOKEN to one that 'waggle token new OWNER' printed on the server's machine."


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool and return its structured result, as the server slims it. Raises CallRefused."""
    return _result(tool, await client.call_tool(tool, arguments))


async def call_telling(
    client: Client, tell: Callable[[str], None], tool: str, **arguments: object
) -> dict[str, Any]:
    """Call a tool as `call` does, and pass its progress to `tell`."""

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        tell(message or f"{progress:g} of {total or 1:g}")

    return _result(tool, await client.call_tool(tool, arguments, progress_callback=heard))


def _result(tool: str, result: CallToolResult) -> dict[str, Any]:
    if result.is_error:
        raise refused(tool, result)
    return result.structured_content or {}


async def find(client: Client, wanted: str) -> dict[str, Any]:
    """Find the environment with this id, beginning of id, or name.

    Raises NotFound, and InvalidArgument if there are several.
    """
    listed = await call(client, "list_environments")
    rows = cast("list[dict[str, Any]]", listed.get("environments", []))
    exact = [row for row in rows if wanted in (row["environment_id"], row["name"])]
    found = exact or [row for row in rows if str(row["environment_id"]).startswith(wanted)]
    if not found:
        raise NotFound(f"There is no environment {wanted!r}.", hint=_LOOK)
    if len(found) > 1:
        ids = ", ".join(f"{row['environment_id']} of {row['created_at']}" for row in found)
        raise InvalidArgument(
            f"{wanted!r} names {len(found)} environments.", hint=f"Use the id: {ids}."
        )
    return found[0]
