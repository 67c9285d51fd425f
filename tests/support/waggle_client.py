# SPDX-License-Identifier: Apache-2.0
"""Clients of a `waggle serve` process: the SDK's, bare HTTP, and a person's curl.

`connected(server)` is the SDK's real client; `call`, `execute` and `environment` use it. The
servers are those of `waggle_process`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
)
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.support.server import LEGACY, MODERN, data_of, error_of, request
from tests.support.waggle_process import Waggle


@asynccontextmanager
async def connected(
    server: Waggle, era: str = LEGACY, *, max_event: int | None = 1024 * 1024
) -> AsyncGenerator[Client]:
    """Connect the SDK's client over real HTTP. `max_event` is the SDK's own default."""
    transport = streamable_http_client(server.mcp, max_sse_event_size=max_event)
    async with Client(transport, mode=era, read_timeout_seconds=240) as client:
        yield client


async def call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Make a call that must succeed and return its structured content."""
    return data_of(await client.call_tool(tool, arguments))


async def refusal(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Make a call that must be refused and return its code, message and hint."""
    return error_of(await client.call_tool(tool, arguments))


async def create(client: Client, runtime: str = "python", **arguments: object) -> str:
    """Create an environment and return its id."""
    made = await call(client, "create_environment", runtime=runtime, **arguments)
    return str(made["environment_id"])


TEMPLATE_SECONDS = 120.0


async def with_template(server: Waggle, runtime: str = "shell") -> None:
    """Make sure that a runtime has a template, so that the next create uses it."""
    async with connected(server) as client:
        made = await create(client, runtime)
        if server.events("environment_created")[-1]["template"] is None:
            await until(lambda: server.events("template_made"), TEMPLATE_SECONDS)
        await call(client, "destroy_environment", environment_id=made)


@asynccontextmanager
async def environment(
    client: Client, runtime: str = "shell", **arguments: object
) -> AsyncGenerator[str]:
    """Create an environment for the length of the block."""
    made = await create(client, runtime, **arguments)
    try:
        yield made
    finally:
        with anyio.CancelScope(shield=True):
            await call(client, "destroy_environment", environment_id=made)


async def execute(client: Client, environment: str, code: str, **arguments: object) -> str:
    """Run a program that must succeed and return its standard output."""
    result = await call(client, "execute", environment_id=environment, code=code, **arguments)
    assert result["exit_code"] == 0, result
    return str(result.get("stdout", ""))


async def until(
    condition: Callable[[], object | Awaitable[object]], seconds: float = 20, what: str = ""
) -> float:
    """Wait for a condition and return the seconds it took; fail the test at the deadline."""
    began = time.monotonic()
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await cast("Awaitable[object]", value)
        taken = time.monotonic() - began
        if value:
            return taken
        if taken > seconds:
            pytest.fail(f"Not within {seconds:g} s: {what or 'the condition'}")
        await anyio.sleep(0.02)


CREATE = ("create_environment", {"runtime": "shell"})


def bare(tool: str, arguments: object, era: str = LEGACY) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the message and the headers of a call without a session, with progress."""
    meta: dict[str, object] = {"progressToken": 1}
    headers = {"Accept": "application/json, text/event-stream"}
    if era == MODERN:
        meta["io.modelcontextprotocol/protocolVersion"] = MODERN
        meta["io.modelcontextprotocol/clientCapabilities"] = {}
        headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    return request("tools/call", params), headers


@asynccontextmanager
async def streaming(
    server: Waggle, message: object, headers: Mapping[str, str]
) -> AsyncGenerator[AsyncIterator[str]]:
    """Post a message and yield the lines of its answer; hang up at the end of the block."""
    async with (
        httpx2.AsyncClient(timeout=240) as http,
        http.stream("POST", server.mcp, json=message, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield answer.aiter_lines()


async def heard(lines: AsyncIterator[str], text: str) -> str:
    """Return the first line that contains the text. Fails the test if the answer ends before."""
    async for line in lines:
        if text in line:
            return line
    pytest.fail(f"The answer never said {text!r}.")


async def status(server: Waggle, path: str) -> tuple[int, dict[str, Any]]:
    """Return the answer of /healthz or /readyz."""
    async with httpx2.AsyncClient() as http:
        answer = await http.get(server.url + path)
        return answer.status_code, answer.json()


def curl(server: Waggle, tool: str, **arguments: object) -> list[str]:
    """Return the command of a person who calls a tool without a session."""
    message = request("tools/call", {"name": tool, "arguments": arguments})
    return [
        *("curl", "-sS", "-X", "POST", server.mcp),
        *("-H", "Content-Type: application/json"),
        *("-H", "Accept: application/json, text/event-stream"),
        *("-d", json.dumps(message)),
    ]


def curl_result(said: str) -> dict[str, Any]:
    """Return the structured content in curl's output."""
    data = [line[5:] for line in said.splitlines() if line.startswith("data:")]
    result = json.loads(data[-1] if data else said)["result"]
    assert not result.get("isError"), result
    return result["structuredContent"]


def by_curl(server: Waggle, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool by curl and wait; it must succeed."""
    command = curl(server, tool, **arguments)
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    return curl_result(said.stdout)
