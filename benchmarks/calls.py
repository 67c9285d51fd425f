# SPDX-License-Identifier: Apache-2.0
"""list_environments of a server with all its guards on, against a no-op tool of the SDK alone.

Measures waggle's part of a call that needs no machine: authentication, the audit log, metrics, the
checks of requests, and an answer about ten environments instead of none. Calls use the SDK's
client, except `wire`, which sends prepared bytes and so measures only the servers. The SDK's server
parses HTTP with the parser that installs with it; for `same`, with waggle's.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from benchmarks import noop
from benchmarks.figures import compare
from benchmarks.guarded import Guarded, guarded
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import environment, free_port, stopped
from benchmarks.table import Result
from benchmarks.wire import MODERN, tool_call, wire
from waggle.cli.client import connected

ROUNDS = 30
ENVIRONMENTS = 10
BATCHES = ((1, 60), (32, 10))
"""Clients, and calls per client in a round."""
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """A server, the called tool, and the token if it needs one."""

    url: str
    tool: str
    token: str = ""


Call = Callable[[], Awaitable[None]]
"""Calls a tool once, and fails if the call fails."""
Open = Callable[[AsyncExitStack, Side], Awaitable[Call]]
"""Connects a client."""


async def measure(options: Options) -> list[Result]:
    """Measure the rows `call-*`, `session-*`, `wire-*` and `same-*`."""
    results: list[Result] = []
    async with (
        guarded() as ours,
        _sdk("h11") as plain,
        _sdk("httptools") as same,
        _environments(ours, options),
    ):
        waggle = Side(ours.server.url, "list_environments", ours.token)
        for key, opened in KINDS.items():
            theirs = same if key == "same" else plain
            for clients, calls in BATCHES:
                async with (
                    _callers(waggle, clients, opened) as of_waggle,
                    _callers(Side(theirs, noop.TOOL), clients, opened) as of_sdk,
                ):
                    seconds = await interleave(
                        {
                            "waggle": partial(_median, of_waggle, calls),
                            "SDK": partial(_median, of_sdk, calls),
                        },
                        rounds=options.rounds or ROUNDS,
                        warmups=3,
                        tick=options.tick,
                    )
                results.append(ratio(f"{key}-{clients}", compare(*seconds.values())))
    return results


@asynccontextmanager
async def _environments(server: Guarded, options: Options) -> AsyncGenerator[None]:
    """Run as many environments as a server allows by default."""
    async with connected(server.server.url, server.token) as client, AsyncExitStack() as stack:
        for number in range(ENVIRONMENTS):
            options.tick(f"environment {number + 1} of {ENVIRONMENTS}")
            await stack.enter_async_context(environment(client, "shell"))
        yield


@asynccontextmanager
async def _sdk(parser: noop.Parser) -> AsyncGenerator[str]:
    """Run the server of `benchmarks.noop` until the block ends; yield its URL."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.noop", str(port), parser
    )
    try:
        await _until_open(port, process)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        await asyncio.shield(stopped(process))


async def _until_open(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return
    raise RuntimeError(f"the server of the SDK ended with {process.returncode}")


@asynccontextmanager
async def _callers(side: Side, count: int, opened: Open) -> AsyncGenerator[list[Call]]:
    async with AsyncExitStack() as stack:
        yield [await opened(stack, side) for _ in range(count)]


async def _client(stack: AsyncExitStack, side: Side, *, era: str) -> Call:
    """Connect the SDK's client."""
    headers = {"Authorization": f"Bearer {side.token}"} if side.token else {}
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=60))
    transport = streamable_http_client(side.url, http_client=http)
    client = await stack.enter_async_context(Client(transport, mode=era))

    async def call() -> None:
        result = await client.call_tool(side.tool, {})
        if result.is_error:
            raise RuntimeError(f"a call failed: {result}")

    return call


async def _wire(stack: AsyncExitStack, side: Side) -> Call:
    """Connect a bare socket, with the revision 2026-07-28."""
    connection = await stack.enter_async_context(wire(side.url))
    request = tool_call(side.url, side.tool, token=side.token)

    async def call() -> None:
        answer = await connection.ask(request)
        if answer.status != 200 or b'"isError":false' not in answer.body.replace(b": ", b":"):
            raise RuntimeError(f"a call failed: {answer}")

    return call


KINDS: Mapping[str, Open] = {
    "call": partial(_client, era=MODERN),
    "session": partial(_client, era="legacy"),
    "wire": _wire,
    "same": partial(_client, era=MODERN),
}


async def _median(callers: Sequence[Call], calls: int) -> float:
    """Return the median seconds of a call while all clients call at the same time."""
    return statistics.median(
        second
        for seconds in await asyncio.gather(*(_seconds(call, calls) for call in callers))
        for second in seconds
    )


async def _seconds(call: Call, count: int) -> list[float]:
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - began)
    return seconds
