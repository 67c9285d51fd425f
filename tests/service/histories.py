# SPDX-License-Identifier: Apache-2.0
"""A host with environments and jobs, and the servers that follow each other on it.

The base of state machines, which have the rules and what holds; `Known` and `Place` are the model.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from tests.service import world
from tests.service.world import LONG, Guest, build, settle
from tests.support.fakes import MemoryShelf
from tests.support.kept_jobs import KeptJob

from waggle.domain.programs import Command, ExecutionResult, Output
from waggle.domain.programs.job import Recorded
from waggle.infra.shared.spool import Spool
from waggle.service.environments.creating import Pausing
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService
from waggle.service.programs import Job
from waggle.service.programs.jobs import JobService

T = TypeVar("T")
MOST, MOST_RUNNING, MOST_SNAPSHOTS = 4, 5, 3
"""Environments, running jobs of one of them, and snapshots."""
RUNNING, KILLED = "running", "SIGKILL"


@dataclass(slots=True)
class Known:
    """One job: its name in all copies, what it has printed, and how it ended."""

    key: str
    printed: bytes = b""
    end: str = RUNNING


@dataclass(slots=True)
class Place:
    """One environment. `is_told`: whether the server has asked its guest for jobs."""

    id: str
    jobs: dict[int, Known] = field(default_factory=dict[int, Known])
    last: int = 0
    paused: str = ""
    is_told: bool = True


class Histories(RuleBasedStateMachine):
    """One host and its servers. Everything asynchronous runs on one loop, which `loop` turns."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.places: dict[str, Place] = {}
        self.snapshots: dict[str, tuple[str, dict[int, Known]]] = {}
        self.counter = itertools.count(1)
        self.ends = Counter[Job]()
        self.waiting: list[tuple[Job, world.Job[None]]] = []
        self.to_end: dict[tuple[str, str], asyncio.Future[int]] = {}
        self.shelf = MemoryShelf()
        self.here: world.World | None = None
        self.loop(self._start())

    def loop(self, work: Coroutine[object, object, T]) -> T:
        async def turn() -> T:
            result = await work
            await settle()
            return result

        return self.runner.run(asyncio.wait_for(turn(), LONG))

    # The server and its guests

    async def _start(self) -> None:
        """Start a server over the host, records and snapshots of the one before."""
        built: asyncio.Future[world.World] = asyncio.get_running_loop().create_future()
        self.stop = anyio.Event()
        before = self.here

        async def run() -> None:
            async with anyio.create_task_group() as tasks:
                pausing = Pausing(when_idle=True, keep=timedelta(days=9), max_on_disk=MOST)
                made = build(tasks, capacity=MOST + 1, pausing=pausing)
                if before is not None:
                    made.host, made.store, made.clock = before.host, before.store, before.clock
                    made.service = EnvironmentService(
                        host=made.host,
                        store=made.store,
                        limits=made.service.limits,
                        clock=made.clock,
                        new_id=self._id,
                        tasks=tasks,
                    )
                built.set_result(made)
                await self.stop.wait()
                tasks.cancel_scope.cancel()

        self.owner = asyncio.create_task(run())
        self.here = here = await built
        here.host.prepare = self._prepare
        self.jobs = JobService(
            here.service,
            record=lambda: Spool(Path("/tmp"), keep=1 << 16, view=1 << 16),
            clock=here.clock,
            tasks=here.tasks,
        )
        self.jobs.when_changed(self._changed)
        limits = SnapshotLimits(MOST_SNAPSHOTS, timedelta(days=9))
        self.copies = SnapshotService(
            here.service, self.shelf, limits, clock=here.clock, new_id=self._id
        )
        await here.service.recover()

    def _id(self) -> str:
        return f"{next(self.counter):08x}-0000-4000-8000-0000000000aa"

    def _changed(self, job: Job, stream: Recorded | None) -> None:
        if stream is None and not job.is_running:
            self.ends[job] += 1

    def _prepare(self, guest: Guest) -> None:
        """Give a guest a program that prints when it is told to, and what is written to it."""

        async def program(command: Command, _into: object) -> ExecutionResult:
            ending = asyncio.get_running_loop().create_future()
            self.to_end[guest.environment.id, command.env["KEY"]] = ending
            code = await ending
            return ExecutionResult(
                Output(b""), Output(b""), code, None, timed_out=False, duration=1
            )

        guest.programs["program"] = program
        guest.typed = self._feed

    def _feed(self, kept: KeptJob, data: bytes) -> None:
        assert kept.streams is not None
        kept.streams.stdout.feed(data)

    def guest(self, place: Place) -> Guest:
        assert self.here is not None
        return self.here.host.guests[place.id]

    def kept(self, place: Place, job: Known) -> KeptJob:
        """Return a job as its guest has it."""
        found = self.guest(place).kept.values()
        return next(kept for kept in found if kept.command.env["KEY"] == job.key)

    # Choices

    def place(self, data: st.DataObject, *, running: bool = False) -> Place:
        places = [place for place in self.places.values() if not (running and place.paused)]
        return data.draw(st.sampled_from(places))

    def going(self, *, paused: bool) -> list[tuple[Place, int]]:
        return [
            (place, number)
            for place in self.places.values()
            for number, job in place.jobs.items()
            if job.end == RUNNING and (paused or not place.paused)
        ]

    def any_job(self) -> list[tuple[Place, int]]:
        return [(place, number) for place in self.places.values() for number in place.jobs]

    def teardown(self) -> None:
        try:
            self.loop(self._close())
        finally:
            self.runner.close()

    async def _close(self) -> None:
        assert self.here is not None
        await self.here.close()
        self.stop.set()
        await self.owner
