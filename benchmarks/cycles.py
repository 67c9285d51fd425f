# SPDX-License-Identifier: Apache-2.0
"""Many created and destroyed environments, and the resources that they leave behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from mcp import Client

from benchmarks.options import Options
from benchmarks.process import difference, holdings, resident_bytes
from benchmarks.server import Server, environment, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected

WORKERS = 3
QUIET_SECONDS = 8.0
"""The server closes idle connections after 5 s; resources that exist after this are leaks."""


async def measure(options: Options) -> list[Result]:
    """Measure the row `cycles`."""
    async with serving() as server:
        await _cycles(server, WORKERS, options)  # opens what stays open: database, thread pools
        before, memory = await settled(server, None), resident_bytes(server.pid)
        began = time.monotonic()
        await _cycles(server, options.cycles, options)
        minutes = (time.monotonic() - began) / 60
        after = await settled(server, before)
        grown = (resident_bytes(server.pid) - memory) / 1e6
    more = {kind: change for kind, change in difference(before, after).items() if change > 0}
    kinds = ", ".join(f"{count} {kind}" for kind, count in more.items())
    return [
        Result(
            "cycles",
            sum(more.values()),
            ours=f"{after.total()} held",
            theirs=f"{before.total()} held",
            how=f"{options.cycles} cycles, {WORKERS} at a time, {minutes:.0f} min; server memory "
            f"{grown:+.1f} MB" + (f"; left: {kinds}" if kinds else ""),
        )
    ]


async def _cycles(server: Server, count: int, options: Options) -> None:
    left = iter(range(count))

    async def work(client: Client) -> None:
        for number in left:
            options.tick(f"cycle {number + 1} of {count}")
            async with environment(client, "shell") as made:
                await call(client, "execute", environment_id=made.id, code="true")

    async with connected(server.url) as client, asyncio.TaskGroup() as group:
        for _ in range(min(WORKERS, count)):
            group.create_task(work(client))


async def settled(server: Server, wanted: Counter[str] | None) -> Counter[str]:
    """Return the server's resources once they are `wanted` or unchanged for QUIET_SECONDS."""
    now = holdings(server.pid, server.data, server.temporary)
    since = time.monotonic()
    while now != wanted and time.monotonic() - since < QUIET_SECONDS:
        await asyncio.sleep(0.5)
        last, now = now, holdings(server.pid, server.data, server.temporary)
        if now != last:
            since = time.monotonic()
    return now
