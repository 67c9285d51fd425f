# SPDX-License-Identifier: Apache-2.0
"""An environment from the warm pool and its first result, against a call in a running one."""

from __future__ import annotations

import asyncio
import re
import time

import httpx2
from mcp import Client

from benchmarks.execute import CODE, PRINTED
from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import Server, destroy, environment, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected

ROUNDS = 30
FILL_SECONDS = 300.0
LOOK_SECONDS = 0.2
QUIET_SECONDS = 1.0
"""Time between the pool's last work and a measurement."""
_READY = re.compile(r'^waggle_warm_machines\{runtime="python"\} (\d)', re.MULTILINE)


async def measure(options: Options) -> list[Result]:
    """Measure the row `claim`."""
    more = {"WAGGLE_WARM_POOL": "python:1", "WAGGLE_METRICS": "true"}
    async with (
        serving(more=more) as server,
        connected(server.url) as client,
        environment(client, "python") as made,
    ):

        async def running() -> float:
            await _until_filled(server)
            return await _execute(client, made.id)

        async def claimed() -> float:
            await _until_filled(server)
            return await _create_and_execute(client)

        seconds = await interleave(
            {"claimed": claimed, "running": running},
            rounds=options.rounds or ROUNDS,
            warmups=2,
            tick=options.tick,
        )
    return [ratio("claim", compare(seconds["claimed"], seconds["running"]))]


async def _create_and_execute(client: Client) -> float:
    began = time.perf_counter()
    made = await call(client, "create_environment", runtime="python")
    try:
        await _execute(client, str(made["environment_id"]))
        return time.perf_counter() - began
    finally:
        await destroy(client, str(made["environment_id"]))


async def _execute(client: Client, environment_id: str) -> float:
    began = time.perf_counter()
    done = await call(client, "execute", environment_id=environment_id, code=CODE)
    took = time.perf_counter() - began
    if str(done["stdout"]).encode() != PRINTED:
        raise RuntimeError(f"the program printed {done}")
    return took


async def _until_filled(server: Server) -> None:
    """Wait until a warm machine is ready and the pool is idle, so that it slows neither side."""
    page = server.url.removesuffix("/mcp") + "/metrics"
    async with httpx2.AsyncClient() as http, asyncio.timeout(FILL_SECONDS):
        for _ in range(round(FILL_SECONDS / LOOK_SECONDS)):
            found = _READY.search((await http.get(page)).text)
            if found and found[1] == "1":
                break
            await asyncio.sleep(LOOK_SECONDS)
    await asyncio.sleep(QUIET_SECONDS)
