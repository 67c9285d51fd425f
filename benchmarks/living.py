# SPDX-License-Identifier: Apache-2.0
"""Programs that live on: the output of a long job, and forks with a context and a job inside.

The output is measured through a server, the fork through the services behind the tools, as the row
`fork` is.
"""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial

from mcp import Client

from benchmarks import guest
from benchmarks.copies import (
    HEAP_BYTES,
    MEGABYTE,
    OWNER,
    TRUE,
    create,
    destroy,
    filled,
    opened_app,
    run_in,
    timed,
    until_made,
)
from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.process import resident_bytes
from benchmarks.results import ratio
from benchmarks.server import environment, serving, ssh_into
from benchmarks.table import Result
from waggle.app.root import App
from waggle.cli.client import call, connected
from waggle.domain.environment import Environment
from waggle.domain.programs.job import StreamName
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.programs import Job

ROUNDS, FORK_ROUNDS = 40, 15
WARM_JOBS, JOBS = 2, 6
PRINTED_BYTES, TAIL_BYTES = 10 * MEGABYTE, 16_000
PRINT = f"yes 0123456789abcde | head -c {PRINTED_BYTES}"
ANSWERING = "trap 'echo answer' USR1; echo ready; while true; do sleep 1000 & wait; done"
READY, ANSWER = b"ready\n", b"answer\n"
FILL = f"import os; heap = [os.urandom(1 << 20) for _ in range({HEAP_BYTES} >> 20)]; len(heap)"
HEAP = f"{HEAP_BYTES >> 20}\n"
WAIT_SECONDS, LOOK_SECONDS = 300, 0.005


async def measure(options: Options) -> list[Result]:
    """Measure the rows `output-tail`, `output-memory` and `fork-living`."""
    results = await _output(options)
    async with opened_app() as app:
        return [*results, await _fork(app, options)]


async def _output(options: Options) -> list[Result]:
    """Read the end of much output, and look at the server's memory after more of it."""
    async with (
        serving() as server,
        connected(server.url) as client,
        environment(client, "shell") as made,
        ssh_into(server, made) as ssh,
    ):
        job = 0
        for _ in range(WARM_JOBS):
            await _print(client, made.id)
        before = resident_bytes(server.pid)
        for number in range(JOBS):
            options.tick(f"job {number + 1} of {JOBS}")
            job = await _print(client, made.id)
        after = resident_bytes(server.pid)
        true = guest.frame(["true"])

        async def tail() -> float:
            began = time.perf_counter()
            page = await call(
                client, "read_job", environment_id=made.id, job_id=job, offset=-TAIL_BYTES
            )
            took = time.perf_counter() - began
            if len(page["content"]) != TAIL_BYTES or page["size"] != PRINTED_BYTES:
                raise RuntimeError(f"the page has {len(page['content'])} of {page['size']}")
            return took

        async def round_trip() -> float:
            began = time.perf_counter()
            await guest.run(ssh, true)
            return time.perf_counter() - began

        seconds = await interleave(
            {"tail": tail, "asyncssh": round_trip},
            rounds=options.rounds or ROUNDS,
            warmups=3,
            tick=options.tick,
        )
    grown = max(0, after - before) / MEGABYTE
    return [
        ratio("output-tail", compare(seconds["tail"], seconds["asyncssh"])),
        Result(
            "output-memory",
            grown,
            f"{after / MEGABYTE:.2f} MB",
            f"{before / MEGABYTE:.2f} MB",
            f"{JOBS} jobs after {WARM_JOBS} such jobs",
        ),
    ]


async def _print(client: Client, made: str) -> int:
    """Run a job that prints all of it, and return its number."""
    done = await call(
        client,
        "execute",
        environment_id=made,
        language="shell",
        code=PRINT,
        wait_seconds=WAIT_SECONDS,
    )
    if done["status"] != "exited":
        raise RuntimeError(f"printing failed: {done}")
    return int(done["job_id"])


async def _fork(app: App, options: Options) -> Result:
    """Compare a fork until a context and a job in it have answered with a fork as in `fork`."""
    await until_made(app, RuntimeName.PYTHON)
    plain, living = await filled(app), await create(app, RuntimeName.PYTHON)
    await _cell(app, living, FILL)
    job = await app.services.execution.execute(living.id, ANSWERING, owner=OWNER, language="shell")
    await _until_printed(job, READY)

    async def forked() -> Environment:
        (fork,) = await app.services.snapshots.fork(plain.id, 1, owner=OWNER)
        await run_in(app, fork, TRUE)
        return fork

    async def forked_living() -> Environment:
        (fork,) = await app.services.snapshots.fork(living.id, 1, owner=OWNER)
        copy = app.services.jobs.known(fork.id, job.number, owner=OWNER)
        await asyncio.gather(_cell(app, fork, "len(heap)"), _answer(app, copy))
        return fork

    seconds = await interleave(
        {"living": partial(timed, app, forked_living), "plain": partial(timed, app, forked)},
        rounds=options.rounds or FORK_ROUNDS,
        tick=options.tick,
    )
    await destroy(app, plain)
    await destroy(app, living)
    return ratio("fork-living", compare(seconds["living"], seconds["plain"]))


async def _cell(app: App, environment: Environment, code: str) -> None:
    """Run code in a context of the environment. Raises RuntimeError if it fails."""
    run = app.services.execution.execute
    cell = await run(environment.id, code, owner=OWNER, context="main")
    view = await cell.attend(WAIT_SECONDS)
    if view.exit_code != 0 or view.stdout.text() != HEAP:
        raise RuntimeError(f"{code} failed: {view}")


async def _answer(app: App, job: Job) -> None:
    """Have a job say something."""
    async with app.environments.using(job.environment_id, owner=OWNER) as (_, guest):
        await guest.signal(job.run_id, signal.SIGUSR1)
    await _until_printed(job, READY + ANSWER)


async def _until_printed(job: Job, wanted: bytes) -> None:
    for _ in range(round(WAIT_SECONDS / LOOK_SECONDS)):
        if job.streams[StreamName.STDOUT].total >= len(wanted):
            break
        await asyncio.sleep(LOOK_SECONDS)
    output = job.streams[StreamName.STDOUT].output()
    if output.head + output.tail != wanted:
        raise RuntimeError(f"the job printed {output}")
