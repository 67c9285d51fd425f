# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of a server at random times of a workload, and the state the next server finds.

Agents create, write, run, pause, resume, snapshot, fork and destroy. Half of the kills come shortly
after the start of a call that changes the disk, the others at any time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from tests.support.recovered import hand_over, recover, report, strays
from tests.support.waggle_client import until
from tests.support.waggle_process import Waggle, small
from tests.support.workload import Ledger, Workload

pytestmark = [pytest.mark.anyio, pytest.mark.vm]
AGENTS = 3
LEAST_CALLS, MOST_CALLS, MOST_OF_FEW = 5, 90, 40
"""Calls of all agents before a kill, so that a slow host is not killed before it did anything.

In a run of all tests they are fewer, but enough that machines were made, paused and forked."""
DELICATE = (
    *("pause_environment", "resume_environment", "snapshot_environment", "fork_environment"),
    *("destroy_environment", "delete_snapshot"),
)
CALL_SECONDS = 1.5
"""Roughly the duration of one of these calls."""
END_SECONDS = 60.0
FEW = 2
"""Kills in a run of all tests."""
USED = 0.5
"""The share of paused environments used after a kill; the rest stay paused through the next one."""


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    settings = {**small(tmp_path), "max_environments": "24", "max_paused": "24"}
    server = Waggle(tmp_path, {**settings, "max_snapshots": "24"})
    yield server
    server.kill()


@pytest.mark.timeout(900)
async def test_a_few_kills_lose_nothing(server: Waggle, rng: random.Random) -> None:
    await _kills(server, rng, FEW, MOST_OF_FEW)


@pytest.mark.endurance
async def test_many_kills_lose_nothing(
    server: Waggle, rng: random.Random, pytestconfig: pytest.Config
) -> None:
    await _kills(server, rng, int(str(pytestconfig.getoption("kills"))), MOST_CALLS)


async def _kills(server: Waggle, rng: random.Random, count: int, most: int) -> None:
    ledger = Ledger()
    server.start()
    for number in range(1, count + 1):
        workload = Workload(server.mcp, AGENTS, rng, ledger)
        async with workload.http:
            await hand_over(workload.agents, ledger, rng, USED)
            killed = await _until_killed(server, workload, rng, most)
        assert server.complaints() == []
        await _all_ended(server)
        began = time.monotonic()
        server.start()
        started = time.monotonic() - began
        assert strays(server) == {}
        after = Workload(server.mcp, 0, rng, ledger)
        async with after.http:
            await recover(server, ledger, after.call)
        again = workload.call.again
        report(
            f"kill {number} of {count}, {killed}: up again after {started:.1f} s with "
            f"{len(ledger.environments)} paused to disk and {len(ledger.snapshots)} snapshots"
            f"{f'; called again: {again}' if again else ''}"
        )
    await _all_is_usable_and_goes(server, rng, ledger)


async def _all_ended(server: Waggle) -> None:
    """Check that machines, ports and mounts end with their server, without help of the next one."""
    try:
        await until(lambda: not strays(server), END_SECONDS)
    except pytest.fail.Exception:
        pytest.fail(f"still there after {END_SECONDS:g} s: {strays(server)}")


async def _until_killed(server: Waggle, workload: Workload, rng: random.Random, most: int) -> str:
    """Kill the server at a random time of the work; return a description of the time."""
    stage = ""

    async def strike() -> None:
        nonlocal stage
        began = time.monotonic()
        calls = rng.randrange(LEAST_CALLS, most)
        await workload.reaches(calls)
        if rng.random() < 0.5:
            tool = rng.choice(DELICATE)
            await workload.begins(tool)
            stage = f" and at {tool}"
        await anyio.sleep(rng.uniform(0, CALL_SECONDS))  # waits for nothing: any time will do
        server.kill()
        stage = f"after {calls} calls{stage}, {time.monotonic() - began:.1f} s"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workload.run, lambda: server.process.returncode is None)
        tasks.start_soon(strike)
    return stage


async def _all_is_usable_and_goes(server: Waggle, rng: random.Random, ledger: Ledger) -> None:
    workload = Workload(server.mcp, AGENTS, rng, ledger)
    async with workload.http:
        await hand_over(workload.agents, ledger, rng, share=1.0)
        for agent in workload.agents:
            for known in [*agent.kept]:
                await agent.forget(known)
            for known in [*agent.mine]:
                await agent.destroy(known)
    server.end()
    assert strays(server) == {}
    assert server.directories() == []
    assert server.complaints() == []
