# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of a server while jobs and contexts run: all output is whole afterwards, or gone.

Environments that were paused to disk sleep through the kill with their programs. A machine that
runs dies with its server, and so do its programs: the next server says that there is no such
environment. One environment is at work when the server is killed, and may be either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx2
import pytest
from tests.support.living import COUNT, Living, Tally
from tests.support.recovered import recover, report, strays
from tests.support.server import NO_TLS
from tests.support.server_holding import leaks, memory_kb
from tests.support.waggle_client import until
from tests.support.waggle_process import Waggle, small
from tests.support.workload import ANSWER_SECONDS, Caller, Killed, Ledger, State

pytestmark = [pytest.mark.anyio, pytest.mark.vm]
FEW = 1
"""Kills in a run of all tests; all that sleeps through it is compared at the end."""
RUNTIMES = {"shell": {}, "python": {"memory_mb": 256}}
"""Each has two environments, one a fork of the other."""
END_SECONDS = 60.0
WORK_SECONDS, PAUSE_SECONDS = 6.0, 2.0
"""The longest that an environment works, or is being paused to disk, before the kill."""
USED = 0.5
"""The share of those on the disk that are used between two kills; the rest sleep on."""


@pytest.fixture
def server(tmp_path: Path) -> Generator[Waggle]:
    settings = {**small(tmp_path), "max_environments": "7", "output_keep_mb": "1"}
    server = Waggle(tmp_path, {**settings, "max_exec_timeout": "24h"})
    yield server
    server.kill()


@pytest.mark.timeout(900)
async def test_a_kill_loses_no_output(server: Waggle, rng: random.Random) -> None:
    await Kills(server, rng).run(FEW)


@pytest.mark.endurance
async def test_many_kills_lose_no_output(
    server: Waggle, rng: random.Random, pytestconfig: pytest.Config
) -> None:
    await Kills(server, rng).run(int(str(pytestconfig.getoption("kills"))))


@dataclass
class Kills:
    """A server, and the environments that live through its kills."""

    server: Waggle
    rng: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    tally: Tally = field(default_factory=Tally)
    alive: list[Living] = field(default_factory=list[Living])
    memory: list[int] = field(default_factory=list[int])
    killed_in: str = ""

    async def run(self, count: int) -> None:
        self.server.start()
        for number in range(1, count + 1):
            began = time.monotonic()
            async with self.client() as http:
                call = Caller(http, self.server.mcp)
                doomed = await self.prepare(call)
                self.memory.append(memory_kb(self.server))
                await self.work_until_killed(call, self.rng.choice(self.alive), doomed)
            assert self.server.complaints() == []
            await self.all_ended()
            self.server.start()
            assert strays(self.server) == {}
            async with self.client() as http:
                call = Caller(http, self.server.mcp)
                await recover(self.server, self.ledger, call)
                await self.tell(call, doomed)
            report(
                f"kill {number} of {count} {self.killed_in}, {time.monotonic() - began:.1f} s: "
                f"{len(self.alive)} live on, {len(self.tally.jobs)} jobs and "
                f"{self.tally.bytes:,} bytes compared, {self.memory[-1]} kB"
            )
        await self.close()

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=ANSWER_SECONDS, verify=NO_TLS)

    async def prepare(self, call: Caller) -> str:
        """Check some of what sleeps, put all to sleep in a flood; return one that shall die."""
        for runtime, how in RUNTIMES.items():
            twins = [living for living in self.alive if living.runtime == runtime]
            if not twins:
                twins = [await Living.begin(call, self.ledger, runtime, self.tally, **how)]
                self.alive += twins
            if len(twins) == 1:
                self.alive.append(await twins[0].fork(call, self.ledger))
        async with anyio.create_task_group() as group:
            for living in self.alive:
                if living.known.state is not State.ON_DISK or self.rng.random() < USED:
                    group.start_soon(self.use, call, living)
        made = await call("create_environment", runtime="shell")
        doomed = self.ledger.environment(made["environment_id"], set()).id
        await call("execute", environment_id=doomed, code=COUNT, background=True)
        await call("execute", environment_id=doomed, code="n=1", context="main")
        return doomed

    async def use(self, call: Caller, living: Living) -> None:
        await living.check(call)
        await living.flood(call)
        await living.sleep(call)

    async def work_until_killed(self, call: Caller, chosen: Living, doomed: str) -> None:
        """Kill the server while one environment works and a call waits for the doomed one.

        Every second time that is as the working one is paused to disk.
        """
        pausing = anyio.Event()

        async def work() -> None:
            try:
                while True:
                    self.killed_in = "in a check"
                    await chosen.check(call)
                    await chosen.flood(call)
                    self.killed_in = "in a pause"
                    pausing.set()
                    await chosen.sleep(call)
            except Killed:
                self.killed_in += f" of {chosen.runtime}"

        async def wait() -> None:
            with pytest.raises(Killed):
                await call("wait_job", environment_id=doomed, job_id=1, wait_seconds=300)

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(wait)
            if self.rng.random() < 0.5:
                await pausing.wait()
                await anyio.sleep(self.rng.uniform(0, PAUSE_SECONDS))
            else:
                await anyio.sleep(self.rng.uniform(0, WORK_SECONDS))  # any time will do
            self.server.kill()

    async def all_ended(self) -> None:
        """Check that machines, ports and mounts end with their server."""
        try:
            await until(lambda: not strays(self.server), END_SECONDS)
        except pytest.fail.Exception:
            pytest.fail(f"still there after {END_SECONDS:g} s: {strays(self.server)}")

    async def tell(self, call: Caller, doomed: str) -> None:
        """Check that the next server says which jobs are gone, and follow the others."""
        there = self.ledger.environments  # reduced to what the server has
        gone = [doomed, *(living.id for living in self.alive if living.id not in there)]
        for identity in gone:
            for tool in ("read_job", "wait_job"):
                assert await call.refused(tool, environment_id=identity, job_id=1) == "not_found"
        self.tally.deeds["died with the server"] += len(gone)
        self.alive = [living for living in self.alive if living.id in there]
        for living in self.alive:
            living.known.state = State.ON_DISK

    async def close(self) -> None:
        async with self.client() as http:
            call = Caller(http, self.server.mcp)
            async with anyio.create_task_group() as group:
                for living in self.alive:
                    group.start_soon(living.end, call)
        self.server.end()
        assert strays(self.server) == {}
        assert self.server.directories() == []
        assert self.server.complaints() == []
        assert not leaks(self.memory), self.memory
        report(
            f"{len(self.tally.jobs)} jobs, {self.tally.bytes:,} bytes, {dict(self.tally.deeds)}, "
            f"{min(self.memory)} to {max(self.memory)} kB"
        )
