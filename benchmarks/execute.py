# SPDX-License-Identifier: Apache-2.0
"""A one-line program: through MCP, and through plain asyncssh into the same guest."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from mcp import Client

from benchmarks import guest
from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import environment, serving, ssh_into
from benchmarks.table import Result
from waggle.cli.client import call, connected

ROUNDS = 40
CODE = "print(1)"
PRINTED = b"1\n"


async def measure(options: Options) -> list[Result]:
    """Measure the rows `execute` and `execute-argument`."""
    sent = guest.frame(["python3", "{file}"], CODE.encode(), ".py")
    argument = guest.frame(["python3", "-c", CODE])
    async with (
        serving() as server,
        connected(server.url) as client,
        environment(client, "python") as made,
        ssh_into(server, made) as ssh,
    ):
        seconds = await interleave(
            {
                "waggle": lambda: _timed(lambda: _execute(client, made.id)),
                "asyncssh": lambda: _timed(lambda: guest.run(ssh, sent)),
                "asyncssh, no file": lambda: _timed(lambda: guest.run(ssh, argument)),
            },
            rounds=options.rounds or ROUNDS,
            warmups=3,
            tick=options.tick,
        )
    ours = seconds["waggle"]
    return [
        ratio("execute", compare(ours, seconds["asyncssh"])),
        ratio("execute-argument", compare(ours, seconds["asyncssh, no file"])),
    ]


async def _execute(client: Client, environment_id: str) -> bytes:
    done = await call(client, "execute", environment_id=environment_id, code=CODE)
    return str(done["stdout"]).encode()


async def _timed(work: Callable[[], Awaitable[bytes]]) -> float:
    began = time.perf_counter()
    printed = await work()
    took = time.perf_counter() - began
    if printed != PRINTED:
        raise RuntimeError(f"the program printed {printed!r}")
    return took
