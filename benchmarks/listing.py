# SPDX-License-Identifier: Apache-2.0
"""list_environments of a server with records of 1,000 destroyed environments, and one with 10."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mcp import Client

from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import serving
from benchmarks.table import Result
from waggle.cli.client import call, connected
from waggle.domain.access import LOCAL
from waggle.domain.environment import Environment, State
from waggle.domain.machine import Resources
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.store.environments import SqliteStore

ROUNDS = 60
BATCH = 5
"""Calls of a round, of which the fastest counts: one takes a millisecond, an interruption ten."""
MANY, FEW = 1_000, 10


async def measure(options: Options) -> list[Result]:
    """Measure the row `list`."""
    async with (
        serving(before=lambda data: remember(data, MANY)) as large,
        serving(before=lambda data: remember(data, FEW)) as small,
        connected(large.url) as of_many,
        connected(small.url) as of_few,
    ):
        seconds = await interleave(
            {"1,000 records": lambda: _fastest(of_many), "10 records": lambda: _fastest(of_few)},
            rounds=options.rounds or ROUNDS,
            warmups=5,
            tick=options.tick,
        )
    return [ratio("list", compare(*seconds.values()))]


async def remember(data: Path, count: int) -> None:
    """Store records of destroyed environments for a server that is not running."""
    store = await SqliteStore.open(data / "state.db")
    try:
        for number in range(count):
            await store.save(_destroyed(number))
    finally:
        await store.aclose()


def _destroyed(number: int) -> Environment:
    now = datetime.now(UTC) - timedelta(seconds=number)
    return Environment(
        id=str(uuid.uuid4()),
        name=f"shell-{number}",
        runtime=RuntimeName.SHELL,
        image="shell",
        owner=LOCAL,
        state=State.DESTROYED,
        resources=Resources(1, 512, 4096),
        network=PUBLIC_NETWORK,
        idle_timeout=timedelta(minutes=30),
        created_at=now,
        last_used_at=now,
    )


async def _fastest(client: Client) -> float:
    return min([await _list(client) for _ in range(BATCH)])


async def _list(client: Client) -> float:
    began = time.perf_counter()
    listed = await call(client, "list_environments")
    took = time.perf_counter() - began
    if listed.get("count", 0) != 0:
        raise RuntimeError(f"destroyed environments are listed: {listed}")
    return took
