# SPDX-License-Identifier: Apache-2.0
"""Many sessions of revision 2025-11-25 opened and abandoned: is their memory freed?

Clients often crash or end without closing their session. The server forgets a session after
WAGGLE_SESSION_IDLE_TIMEOUT, here shortened; its /metrics has the number of sessions.
"""

from __future__ import annotations

import asyncio
import re

from benchmarks.guarded import Guarded, guarded
from benchmarks.options import Options
from benchmarks.process import resident_bytes
from benchmarks.table import Result
from benchmarks.wire import get, initialize, wire

SESSIONS = 10_000
WARM = 500
"""Sessions before the first sample: memory that any used server keeps does not count."""
CLIENTS = 8
IDLE_SECONDS = 60
TIDY_SECONDS = 15
"""Time for the server to return memory once they are forgotten."""
GONE_SECONDS = 3 * IDLE_SECONDS
MEGABYTE = 1_000_000
VARIABLES = {
    "WAGGLE_SESSION_IDLE_TIMEOUT": f"{IDLE_SECONDS}s",
    "WAGGLE_MAX_SESSIONS": str(2 * SESSIONS),
}


async def measure(options: Options) -> list[Result]:
    """Measure the row `sessions`."""
    async with guarded(VARIABLES) as server:
        await _abandon(server, WARM, options)
        await _until_forgotten(server, options)
        await asyncio.sleep(TIDY_SECONDS)
        idle = resident_bytes(server.server.pid)
        await _abandon(server, SESSIONS, options)
        most, held = await _open(server), resident_bytes(server.server.pid)
        await _until_forgotten(server, options)
        await asyncio.sleep(TIDY_SECONDS)
        after = resident_bytes(server.server.pid)
    return [
        Result(
            "sessions",
            after / idle,
            ours=_shown(after),
            theirs=_shown(idle),
            how=f"{most} open at once, with which it takes {_shown(held)}; forgotten after "
            f"{IDLE_SECONDS} s",
        )
    ]


async def _abandon(server: Guarded, count: int, options: Options) -> None:
    """Open sessions, each over a connection that is then closed, and never use them again."""
    request = initialize(server.server.url, server.token)
    left = iter(range(count))

    async def work() -> None:
        for number in left:
            options.tick(f"session {number + 1} of {count}")
            async with wire(server.server.url) as connection:
                answer = await connection.ask(request)
            if answer.status != 200 or "mcp-session-id" not in answer.headers:
                raise RuntimeError(f"no session was opened: {answer}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(work())


async def _until_forgotten(server: Guarded, options: Options) -> None:
    async with asyncio.timeout(GONE_SECONDS):
        while count := await _open(server):
            options.tick(f"{count} sessions are open")
            await asyncio.sleep(1)


async def _open(server: Guarded) -> int:
    """Return the number of sessions that the server has now."""
    async with wire(server.server.url) as connection:
        answer = await connection.ask(get(server.server.url, "/metrics", server.scraper))
    found = re.search(rb"^waggle_sessions (\d+)", answer.body, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/metrics tells no sessions: {answer.status}")
    return int(found[1])


def _shown(size: float) -> str:
    return f"{size / MEGABYTE:.1f} MB"
