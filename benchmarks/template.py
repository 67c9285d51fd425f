# SPDX-License-Identifier: Apache-2.0
"""From nothing to a first result: from a template, and from a boot of the same machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from mcp import Client

from benchmarks.cold import create_and_run
from benchmarks.figures import compare
from benchmarks.interleave import Arm, interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import destroy, serving
from benchmarks.table import Result
from waggle.cli.client import call, connected
from waggle.config import load
from waggle.config.places import Places

ROUNDS = 30
_MAKING_SECONDS = 300.0
Once = Callable[[Client], Awaitable[float]]


async def measure(options: Options) -> list[Result]:
    """Measure the rows `template` and `template-python`."""
    rounds = options.rounds or ROUNDS
    async with (
        serving(more={"WAGGLE_TEMPLATES": "on"}) as ours,
        serving() as theirs,
        connected(ours.url) as copies,
        connected(theirs.url) as boots,
    ):
        results: list[Result] = []
        for key, once in (("template", create_and_run), ("template-python", create_and_print)):
            await until_made(partial(once, copies), Places.of(load()).templates)
            seconds = await interleave(
                {"copy": lambda once=once: once(copies), "boot": lambda once=once: once(boots)},
                rounds=rounds,
                tick=options.tick,
            )
            results.append(ratio(key, compare(seconds["copy"], seconds["boot"])))
    return results


async def until_made(once: Arm, store: Path) -> None:
    """Create repeatedly until the template for it exists, perhaps from an earlier run."""
    before = _last_use(store)
    async with asyncio.timeout(_MAKING_SECONDS):
        while True:
            await once()
            if _last_use(store) != before:
                return
            await asyncio.sleep(1)


def _last_use(store: Path) -> int:
    """Return a time that changes when a template is made or used."""
    used = (path.stat().st_mtime_ns for path in store.glob("[!.]*"))
    return max(used, default=0)


async def create_and_print(client: Client, runtime: str = "python") -> float:
    """Return the seconds from requesting an environment to the result of `print(1)` in it."""
    began = time.perf_counter()
    made = await call(client, "create_environment", runtime=runtime)
    try:
        done = await call(client, "execute", environment_id=made["environment_id"], code="print(1)")
        took = time.perf_counter() - began
    finally:
        await destroy(client, str(made["environment_id"]))
    if done["stdout"] != "1\n":
        raise RuntimeError(f"print failed: {done}")
    return took
