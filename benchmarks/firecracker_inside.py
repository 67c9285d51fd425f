# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.firecracker_inside RESULT PROGRAM ROUNDS`: comparisons, where KVM works.

Started by `benchmarks.firecracker`, in the lab or directly; PROGRAM is Firecracker's, with its
jailer beside it, or that of another hypervisor, whose name comes last. Compares the services behind
the tools, and for `restore` only the hypervisor. Writes the seconds and bytes of each side to the
file RESULT as JSON, after each comparison. Prints progress on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks.copies import (
    CLONES,
    OWNER,
    TRUE,
    create,
    destroy,
    opened_app,
    run_in,
    timed,
    until_made,
)
from benchmarks.firecracker_machines import REST_SECONDS, Machines
from benchmarks.interleave import interleave
from benchmarks.process import private_bytes
from waggle.app.root import App
from waggle.config import load
from waggle.domain.environment import Environment
from waggle.domain.programs.runtime import RuntimeName

ROUNDS = 5
MEMORY_MIB = 256
IDLE = 3
"""Copies alive at once whose memory is compared: what only one maps would count as private."""
OURS, QEMU, KRUN = "firecracker", "qemu", "krun"
Report = dict[str, dict[str, list[float]]]


def report(text: str) -> None:
    """Print a line at once, for people who watch from outside."""
    print(text, flush=True)


def settings(hypervisor: str, data: Path) -> dict[str, str]:
    """Return the variables of machines of one hypervisor, whose program is in `data`."""
    return {
        "WAGGLE_HYPERVISOR": hypervisor,
        "WAGGLE_DATA_DIR": str(data),
        "WAGGLE_DEFAULT_MEMORY_MB": str(MEMORY_MIB),
    }


async def add_program(data: Path, program: Path) -> None:
    """Give a data directory the program, as an operator does."""
    argv = (sys.executable, "-m", "waggle", "vmm", "add", str(program))
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, "WAGGLE_DATA_DIR": str(data)}
    )
    if await process.wait() != 0:
        raise RuntimeError(f"{argv} failed")


async def main(result: Path, program: Path, rounds: int, ours: str = OURS) -> None:
    """Measure everything and write the report."""
    with tempfile.TemporaryDirectory(prefix="waggle-firecracker-") as name:
        programs = Path(name, "programs")
        if ours != QEMU:
            await add_program(programs, program)
        found: Report = {}

        def keep(more: Report) -> None:
            found.update(more)
            result.write_text(json.dumps(found))
            report(json.dumps(more))

        async with AsyncExitStack() as stack:

            async def opened(hypervisor: str, templates: str) -> App:
                data = Path(tempfile.mkdtemp(dir=name), "data")
                if programs.exists():
                    shutil.copytree(programs, data)
                return await stack.enter_async_context(
                    opened_app({**settings(hypervisor, data), "WAGGLE_TEMPLATES": templates})
                )

            Path(name).chmod(0o711)  # every machine's process has its own user
            mine, qemu = await opened(ours, "on"), await opened(QEMU, "on")
            for app in (mine, qemu):
                await until_made(app, RuntimeName.SHELL)
            report("the templates are made")
            keep({"template": await _first_results(mine, qemu, rounds)})
            booting, krun = await opened(ours, "off"), await opened(KRUN, "off")
            keep({"cold": await _first_results(booting, krun, rounds)})
            environ = {**os.environ, **settings(ours, programs)}
            environ["WAGGLE_IMAGE_CACHE_DIR"] = str(load().image_cache_dir)
            machines = Machines(load(environ), Path(name, "machines"))
            keep({"restore": await machines.measure(rounds, report)})
            sizes = {"ours": await _idle_memory(mine), "theirs": await _idle_memory(qemu)}
            keep({"memory": sizes})
            keep(await _pauses(mine, rounds))
            keep({"lost": {"ours": [await _lost(mine)], "theirs": [float(CLONES)]}})


async def _rest() -> None:
    """Wait, outside of what counts, until nothing of the last machine takes the processor.

    So every machine finds a guard that waits, as machines do that are not started one right after
    the other.
    """
    await asyncio.sleep(REST_SECONDS)


async def _rested(app: App) -> float:
    """Return the seconds of a create and a first `true`."""
    await _rest()
    return await timed(app, partial(_used, app))


async def _used(app: App) -> Environment:
    """Return a new environment that has run `true`."""
    made = await create(app, RuntimeName.SHELL)
    await run_in(app, made, TRUE)
    return made


async def _first_results(ours: App, theirs: App, rounds: int) -> dict[str, list[float]]:
    """Compare a create and a first `true`."""
    return await interleave(
        {
            "ours": partial(_rested, ours),
            "theirs": partial(_rested, theirs),
        },
        rounds=rounds,
        tick=report,
    )


async def _alive(app: App, count: int, look: Callable[[list[int]], Awaitable[None]]) -> None:
    """Have so many used environments alive at once, and look at their VMMs."""
    made: list[Environment] = []
    try:
        for number in range(count):
            report(f"copy {number + 1} of {count}")
            made.append(await _used(app))
        await look([each.machine.pid for each in made if each.machine is not None])
    finally:
        for environment in made:
            await destroy(app, environment)


async def _idle_memory(app: App) -> list[float]:
    """Return the private memory of each of some idle copies, with their VMMs' own."""
    sizes: list[float] = []

    async def look(pids: list[int]) -> None:
        sizes.extend(float(sum(map(private_bytes, _with_guard(pid)))) for pid in pids)

    await _alive(app, IDLE, look)
    return sizes


def _with_guard(pid: int) -> list[int]:
    """Return a VMM's process and the guard between it and this one, if there is one."""
    status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    parent = int(status.rpartition(")")[2].split()[1])
    return [pid] if parent == os.getpid() else [pid, parent]


async def _lost(app: App) -> float:
    """Return how many of the copies are not alive once the last has answered."""
    lost = CLONES

    async def look(pids: list[int]) -> None:
        nonlocal lost
        lost -= sum(Path(f"/proc/{pid}/smaps_rollup").exists() for pid in pids)

    await _alive(app, CLONES, look)
    return float(lost)


async def _pauses(app: App, rounds: int) -> Report:
    """Compare a pause to disk, a resume and `true` with a copy of the template and `true`."""
    sleeper = await create(app, RuntimeName.SHELL)
    resumes: list[float] = []

    async def paused() -> float:
        await _rest()
        began = time.perf_counter()
        await app.environments.pause(sleeper.id, owner=OWNER, to_disk=True)
        resuming = time.perf_counter()
        await app.environments.resume(sleeper.id, owner=OWNER)
        await run_in(app, sleeper, TRUE)
        resumes.append(time.perf_counter() - resuming)
        return time.perf_counter() - began

    seconds = await interleave(
        {"ours": paused, "theirs": partial(_rested, app)},
        rounds=rounds,
        tick=report,
    )
    await destroy(app, sleeper)
    resume = {"ours": resumes[-rounds:], "theirs": seconds["theirs"]}
    return {"pause": seconds, "resume": resume}


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
