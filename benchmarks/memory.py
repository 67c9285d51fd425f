# SPDX-License-Identifier: Apache-2.0
"""Memory of the server process: idle, and for each running environment. The VMs do not count."""

from __future__ import annotations

from contextlib import AsyncExitStack

from mcp import Client

from benchmarks.options import Options
from benchmarks.process import resident_bytes
from benchmarks.server import environment, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected

ENVIRONMENTS = 8
MEGABYTE = 1_000_000


async def measure(options: Options) -> list[Result]:
    """Measure the rows `idle` and `environment`."""
    count = options.rounds or ENVIRONMENTS
    async with serving() as server, connected(server.url) as client:
        await call(client, "list_environments")
        idle = resident_bytes(server.pid)
        async with AsyncExitStack() as stack:
            await _add(stack, client)  # loads what stays loaded, which counts for no environment
            first = resident_bytes(server.pid)
            for number in range(count):
                options.tick(f"environment {number + 1} of {count}")
                await _add(stack, client)
            average = (resident_bytes(server.pid) - first) / count
    return [
        Result("idle", idle / MEGABYTE, _shown(idle), "", "ready, one client connected"),
        Result(
            "environment",
            average / MEGABYTE,
            _shown(average),
            "",
            f"{count} used environments beside a first one, with which it takes {_shown(first)}",
        ),
    ]


async def _add(stack: AsyncExitStack, client: Client) -> None:
    """Add an environment until the stack is closed, with its SSH and SFTP sessions open."""
    made = await stack.enter_async_context(environment(client, "shell"))
    await call(client, "execute", environment_id=made.id, code="echo used")
    await call(client, "list_files", environment_id=made.id)


def _shown(size: float) -> str:
    return f"{size / MEGABYTE:.2f} MB"
