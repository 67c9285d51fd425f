# SPDX-License-Identifier: Apache-2.0
"""list_environments of a server with all its guards on, against a no-op tool of the SDK alone.

What waggle adds to a call that needs no machine: authentication, the audit log, metrics, the
checks of requests, and an answer about ten environments instead of none.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks import noop
from benchmarks.figures import compare
from benchmarks.guarded import Guarded, guarded
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import environment, free_port, stopped
from benchmarks.table import Result
from benchmarks.wire import Wire, initialize, tool_call, wire
from waggle.cli.client import connected

ROUNDS = 30
ENVIRONMENTS = 10
BATCHES = ((1, 60), (32, 10))
"""Clients, and the calls of each in a round."""
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """A server, the tool that is called, and the token that it wants."""

    url: str
    tool: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client: its connection, and the request that it sends over and over."""

    wire: Wire
    request: bytes


async def measure(options: Options) -> list[Result]:
    """The rows `call-1`, `call-32`, `session-1` and `session-32`."""
    results: list[Result] = []
    async with guarded() as ours, _sdk() as theirs, _environments(ours, options):
        waggle = Side(ours.server.url, "list_environments", ours.token)
        for key, sessions in (("call", False), ("session", True)):
            for clients, calls in BATCHES:
                async with (
                    _callers(waggle, clients, sessions) as of_waggle,
                    _callers(Side(theirs, noop.TOOL), clients, sessions) as of_sdk,
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
    """As many running environments as a server has by default at most."""
    async with connected(server.server.url, server.token) as client, AsyncExitStack() as stack:
        for number in range(ENVIRONMENTS):
            options.tick(f"environment {number + 1} of {ENVIRONMENTS}")
            await stack.enter_async_context(environment(client, "shell"))
        yield


@asynccontextmanager
async def _sdk() -> AsyncGenerator[str]:
    """The server of `benchmarks.noop`, until the block ends; its URL."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.noop", str(port)
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
async def _callers(side: Side, count: int, sessions: bool) -> AsyncGenerator[list[Caller]]:
    async with AsyncExitStack() as stack:
        callers: list[Caller] = []
        for _ in range(count):
            connection = await stack.enter_async_context(wire(side.url))
            session = ""
            if sessions:
                opened = await connection.ask(initialize(side.url, side.token))
                session = opened.headers["mcp-session-id"]
            request = tool_call(side.url, side.tool, token=side.token, session=session)
            callers.append(Caller(connection, request))
        yield callers


async def _median(callers: Sequence[Caller], calls: int) -> float:
    """Seconds of a call while all clients call one after another."""
    return statistics.median(
        second
        for seconds in await asyncio.gather(*(_calls(caller, calls) for caller in callers))
        for second in seconds
    )


async def _calls(caller: Caller, count: int) -> list[float]:
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        answer = await caller.wire.ask(caller.request)
        seconds.append(time.perf_counter() - began)
        if answer.status != 200 or b'"isError":false' not in answer.body.replace(b": ", b":"):
            raise RuntimeError(f"a call failed: {answer}")
    return seconds
