# SPDX-License-Identifier: Apache-2.0
"""From nothing to a first result: waggle over MCP, and a bare QEMU of the same machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from mcp import Client

from benchmarks import bare
from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import destroy, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected
from waggle.config import Settings
from waggle.domain.programs.runtime import RuntimeName

ROUNDS = 11


async def measure(options: Options) -> list[Result]:
    """Measure the row `cold`."""
    async with serving() as server, connected(server.url) as client:
        seconds = await interleave(
            {"waggle": lambda: create_and_run(client), "bare": lambda: _bare(server.settings)},
            rounds=options.rounds or ROUNDS,
            tick=options.tick,
        )
    return [ratio("cold", compare(seconds["waggle"], seconds["bare"]))]


async def create_and_run(client: Client, image: str | None = None) -> float:
    """Return the seconds from requesting an environment to the result of `true` in it."""
    began = time.perf_counter()
    named = {"image": image} if image else {}
    made = await call(client, "create_environment", runtime="shell", **named)
    try:
        done = await call(
            client, "execute", environment_id=made["environment_id"], code="true", language="shell"
        )
        took = time.perf_counter() - began
    finally:
        await destroy(client, str(made["environment_id"]))
    if done["exit_code"] != 0:
        raise RuntimeError(f"true failed: {done}")
    return took


async def _bare(settings: Settings) -> float:
    with tempfile.TemporaryDirectory(prefix="waggle-bare-") as directory:
        parts = await bare.prepare(settings, RuntimeName.SHELL, Path(directory))
        return await bare.start_and_run(parts)
