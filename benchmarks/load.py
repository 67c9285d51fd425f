# SPDX-License-Identifier: Apache-2.0
"""A minute of load: many clients execute at once in a few environments."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from mcp import Client

from benchmarks.figures import seconds
from benchmarks.guarded import guarded
from benchmarks.options import Options
from benchmarks.process import resident_bytes
from benchmarks.server import environment
from benchmarks.table import Result
from waggle.cli.client import call, connected
from waggle.domain.errors import WaggleError

CLIENTS, ENVIRONMENTS = 32, 4
SECONDS = 60.0
WARM_SECONDS = 10.0
SAMPLE_SECONDS = 0.25
MEGABYTE = 1_000_000
CODE, PRINTED = "echo 1", "1\n"


@dataclass(slots=True)
class Load:
    """The measured values: seconds of each call, errors, and the server's memory over time."""

    seconds: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    memory: list[int] = field(default_factory=list[int])


async def measure(options: Options) -> list[Result]:
    """Measure the rows `load-errors`, `load-p99` and `load-memory`."""
    async with (
        guarded() as server,
        connected(server.server.url, server.token) as owner,
        AsyncExitStack() as stack,
    ):
        ids: list[str] = []
        for number in range(ENVIRONMENTS):
            options.tick(f"environment {number + 1} of {ENVIRONMENTS}")
            ids.append((await stack.enter_async_context(environment(owner, "shell"))).id)
        clients = [
            await stack.enter_async_context(connected(server.server.url, server.token))
            for _ in range(CLIENTS)
        ]
        options.tick("warming up")
        await _load(clients, ids, server.server.pid, WARM_SECONDS)
        options.tick(f"{SECONDS:g} s of load")
        load = await _load(clients, ids, server.server.pid, SECONDS)
    return results(load)


def results(load: Load) -> list[Result]:
    """Make the rows of a load. Pure."""
    p50, p99 = statistics.median(load.seconds), percentile(load.seconds, 0.99)
    middle, last = thirds(load.memory)
    calls = f"{CLIENTS} clients in {ENVIRONMENTS} environments, {len(load.seconds)} calls"
    why = f"; the first: {load.errors[0]}" if load.errors else ""
    return [
        Result("load-errors", len(load.errors), f"{len(load.errors)} errors", "", calls + why),
        Result("load-p99", p99 / p50, seconds(p99), seconds(p50), calls),
        Result(
            "load-memory",
            (last - middle) / MEGABYTE,
            f"{last / MEGABYTE:.2f} MB",
            f"{middle / MEGABYTE:.2f} MB",
            f"medians of {len(load.memory)} looks",
        ),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least this share of the values does not exceed. Pure."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def thirds(values: Sequence[int]) -> tuple[float, float]:
    """Return the medians of the middle and of the last third. Pure."""
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])


async def _load(clients: Sequence[Client], ids: Sequence[str], pid: int, lasts: float) -> Load:
    load = Load()
    until = time.monotonic() + lasts
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch(load, pid, until))
        for number, client in enumerate(clients):
            group.create_task(_execute(load, client, ids[number % len(ids)], until))
    return load


async def _execute(load: Load, client: Client, environment_id: str, until: float) -> None:
    while time.monotonic() < until:
        began = time.perf_counter()
        try:
            done = await call(client, "execute", environment_id=environment_id, code=CODE)
        except WaggleError as error:
            load.errors.append(str(error).replace("|", "/").replace("\n", " "))
            continue
        load.seconds.append(time.perf_counter() - began)
        if done["stdout"] != PRINTED or done["exit_code"] != 0:
            load.errors.append(f"status {done['status']}, exit code {done['exit_code']}")


async def _watch(load: Load, pid: int, until: float) -> None:
    while time.monotonic() < until:
        load.memory.append(resident_bytes(pid))
        await asyncio.sleep(SAMPLE_SECONDS)
