# SPDX-License-Identifier: Apache-2.0
"""Cells in contexts: in a live one, and the first of a new one, against new processes and SSH."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

from mcp import Client

from benchmarks import guest
from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.results import ratio
from benchmarks.server import destroy, environment, serving, ssh_into
from benchmarks.table import Result
from benchmarks.template import create_and_print, until_made
from waggle.cli.client import call, connected
from waggle.config import load
from waggle.config.places import Places

ROUNDS, NEW_ROUNDS = 40, 15
WAIT_SECONDS = 120
CELL = "x += 1; print(x)"


async def measure(options: Options) -> list[Result]:
    """Measure the rows `cell`, `cell-ssh`, `first-cell` and `new-cell`."""
    async with (
        serving(more={"WAGGLE_TEMPLATES": "on"}) as server,
        connected(server.url) as client,
    ):
        await until_made(partial(create_and_print, client), Places.of(load()).templates)
        async with environment(client, "python") as made, ssh_into(server, made) as ssh:
            numbers = count(1)
            await call(client, "execute", environment_id=made.id, context="main", code="x = 0")
            true = guest.frame(["true"])
            seconds = await interleave(
                {
                    "cell": lambda: _timed(client, made.id, CELL, f"{next(numbers)}\n", "main"),
                    "execute": lambda: _timed(client, made.id, "print(1)", "1\n"),
                    "asyncssh": lambda: _took(lambda: guest.run(ssh, true)),
                },
                rounds=options.rounds or ROUNDS,
                warmups=3,
                tick=options.tick,
            )
            new = await interleave(
                {
                    "cell": partial(_new_context, client, made.id),
                    "execute": lambda: _timed(client, made.id, "print(1)", "1\n"),
                },
                rounds=options.rounds or NEW_ROUNDS,
                tick=options.tick,
            )
        first = await interleave(
            {"cell": partial(_first, client, "main"), "execute": partial(_first, client, "")},
            rounds=options.rounds or NEW_ROUNDS,
            tick=options.tick,
        )
    return [
        ratio("cell", compare(seconds["cell"], seconds["execute"])),
        ratio("cell-ssh", compare(seconds["cell"], seconds["asyncssh"])),
        ratio("first-cell", compare(first["cell"], first["execute"])),
        ratio("new-cell", compare(new["cell"], new["execute"])),
    ]


async def _took(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def _timed(client: Client, made: str, code: str, printed: str, context: str = "") -> float:
    """Return the seconds of one `execute`."""
    where: dict[str, object] = {"wait_seconds": WAIT_SECONDS}
    if context:
        where["context"] = context
    began = time.perf_counter()
    done = await call(client, "execute", environment_id=made, code=code, **where)
    took = time.perf_counter() - began
    if done.get("stdout") != printed:
        raise RuntimeError(f"{code} printed {done}")
    return took


async def _new_context(client: Client, made: str) -> float:
    """Return the seconds of a first cell, and end its context."""
    took = await _timed(client, made, "print(1)", "1\n", "new")
    jobs = (await call(client, "list_jobs", environment_id=made))["jobs"]
    (one,) = (job["job_id"] for job in jobs if "new" in job["summary"] and _lives(job))
    await call(client, "kill_job", environment_id=made, job_id=one)
    return took


def _lives(job: dict[str, object]) -> bool:
    return job["tool"] == "context" and job["status"] == "running"


async def _first(client: Client, context: str) -> float:
    """Return the seconds of the first `execute` of a new environment from a template."""
    made = await call(client, "create_environment", runtime="python")
    try:
        return await _timed(client, str(made["environment_id"]), "print(1)", "1\n", context)
    finally:
        await destroy(client, str(made["environment_id"]))
