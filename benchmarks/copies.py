# SPDX-License-Identifier: Apache-2.0
"""Copies of machines: forks, machines paused to disk, and memory that many of them share.

Measured through the services behind the tools, in this process, with its own data directory.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog

from benchmarks.figures import compare
from benchmarks.interleave import interleave
from benchmarks.options import Options
from benchmarks.process import guest_bytes, own_bytes
from benchmarks.results import ratio
from benchmarks.table import Result
from waggle.app.root import App, open_app
from waggle.config import load
from waggle.domain.environment import Environment
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest

FORK_ROUNDS, PAUSE_ROUNDS = 30, 30
CLONES, CLONE_MIB = 20, 512
MEGABYTE = 1_000_000
OWNER = "benchmark"
_MAKING_SECONDS = 300.0
TRUE = Command(("true",), timeout=60, output_limit=1000)
HEAP_BYTES = 300 * MEGABYTE
FILL = f"""
import os, sys
heap = [os.urandom(1 << 20) for _ in range({HEAP_BYTES} >> 20)]
open("/tmp/filled", "w").close()
import time
time.sleep(3600)
"""
"""A heap of unique pages, held by a process that keeps running."""
FILLED = Command(("sh", "-c", "until test -e /tmp/filled; do sleep 0.05; done"), 300, 1000)


async def measure(options: Options) -> list[Result]:
    """Measure the rows `fork`, `pause` and `density`."""
    async with opened_app() as app:
        return [
            await _pause(app, options),
            await _density(app, options),
            await _fork(app, options),
        ]


@asynccontextmanager
async def opened_app(more: Mapping[str, str] | None = None) -> AsyncGenerator[App]:
    """Open a server without its web side; `more` are variables of its settings."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory(prefix="waggle-bench-") as name:
        Path(name).chmod(0o711)  # every machine's process has its own user
        environ = {
            **os.environ,
            "WAGGLE_DATA_DIR": f"{name}/data",
            "WAGGLE_IMAGE_CACHE_DIR": str(load().image_cache_dir),
            "WAGGLE_TEMPLATES": "on",
            "WAGGLE_MAX_ENVIRONMENTS": str(CLONES + 5),
            "WAGGLE_DEFAULT_MEMORY_MB": str(CLONE_MIB),
            **(more or {}),
        }
        async with open_app(load(environ)) as app:
            yield app


async def until_made(app: App, runtime: RuntimeName) -> None:
    """Make sure that a runtime has a template, perhaps from an earlier run."""
    async with asyncio.timeout(_MAKING_SECONDS):
        while True:
            made = await create(app, runtime)
            is_copy = "template" in made.booted_from
            await destroy(app, made)
            if is_copy:
                return
            await asyncio.sleep(1)


async def create(app: App, runtime: RuntimeName) -> Environment:
    """Create an environment without a network."""
    request = CreateRequest(runtime=runtime, network=NO_NETWORK)
    return await app.environments.create(request, owner=OWNER)


async def destroy(app: App, environment: Environment) -> None:
    """Destroy an environment."""
    await app.environments.destroy(environment.id, owner=OWNER)


async def run_in(app: App, environment: Environment, command: Command) -> None:
    """Run a command in an environment. Raises RuntimeError if it fails."""
    async with app.environments.using(environment.id, owner=OWNER) as (_, guest):
        done = await guest.run(command)
    if done.exit_code != 0:
        raise RuntimeError(f"{command.argv} failed: {done}")


async def timed(app: App, make: Callable[[], Awaitable[Environment]]) -> float:
    """Return the seconds until an environment is made, and destroy it."""
    began = time.perf_counter()
    made = await make()
    took = time.perf_counter() - began
    await destroy(app, made)
    return took


async def _pause(app: App, options: Options) -> Result:
    """Compare a resume from disk with a new copy of the template, both until `true` has run."""
    await until_made(app, RuntimeName.SHELL)
    sleeper = await create(app, RuntimeName.SHELL)

    async def resumed() -> float:
        await app.environments.pause(sleeper.id, owner=OWNER, to_disk=True)
        began = time.perf_counter()
        await app.environments.resume(sleeper.id, owner=OWNER)
        await run_in(app, sleeper, TRUE)
        return time.perf_counter() - began

    async def created() -> Environment:
        made = await create(app, RuntimeName.SHELL)
        await run_in(app, made, TRUE)
        return made

    seconds = await interleave(
        {"resumed": resumed, "created": partial(timed, app, created)},
        rounds=options.rounds or PAUSE_ROUNDS,
        tick=options.tick,
    )
    await destroy(app, sleeper)
    return ratio("pause", compare(seconds["resumed"], seconds["created"]))


async def _fork(app: App, options: Options) -> Result:
    """Compare a fork that has run `true` with a new environment with the same heap."""
    await until_made(app, RuntimeName.PYTHON)
    origin = await filled(app)

    async def forked() -> Environment:
        (fork,) = await app.services.snapshots.fork(origin.id, 1, owner=OWNER)
        await run_in(app, fork, TRUE)
        return fork

    seconds = await interleave(
        {
            "forked": partial(timed, app, forked),
            "refilled": partial(timed, app, partial(filled, app)),
        },
        rounds=options.rounds or FORK_ROUNDS,
        tick=options.tick,
    )
    await destroy(app, origin)
    return ratio("fork", compare(seconds["forked"], seconds["refilled"]))


async def filled(app: App) -> Environment:
    """Create an environment in which a process holds the heap."""
    made = await create(app, RuntimeName.PYTHON)
    start = 'nohup python3 -c "$0" >/dev/null 2>&1 &'
    await run_in(app, made, Command(("sh", "-c", start, FILL), 60, 1000))
    await run_in(app, made, FILLED)
    return made


async def _density(app: App, options: Options) -> Result:
    """Measure the private memory of copies that are all alive and have run `true`."""
    await until_made(app, RuntimeName.SHELL)
    made: list[Environment] = []
    try:
        for number in range(CLONES):
            options.tick(f"copy {number + 1} of {CLONES}")
            made.append(await create(app, RuntimeName.SHELL))
            await run_in(app, made[-1], TRUE)
        pids = [environment.machine.pid for environment in made if environment.machine is not None]
        guests = [guest_bytes(pid) for pid in pids]
        own = [own_bytes(pid, CLONE_MIB << 20) for pid in pids]
    finally:
        for environment in made:
            await destroy(app, environment)
    most = max(private for private, _ in guests)
    share = statistics.median(share for _, share in guests)
    return Result(
        "density",
        most / MEGABYTE,
        f"{most / MEGABYTE:.2f} MB",
        "",
        f"the largest of {len(guests)}; median PSS {share / MEGABYTE:.0f} MB; the VMM's own "
        f"private memory {statistics.median(own) / MEGABYTE:.0f} MB, of which most is translated "
        "code",
    )
