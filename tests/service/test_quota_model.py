# SPDX-License-Identifier: Apache-2.0
"""Random histories of three owners, each of whom may do anything at any time.

Two promises are checked after every step: no owner ever holds more than their share, and nothing
that an owner does lowers what another may have. For the second, the model counts for each owner
alone, and the service must refuse or do exactly what it predicts; the shared pool is large enough
for all shares. Pauses are slow: many are under way while others are requested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import TypeVar

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.service.world import IDLE, PYTHON, Job, World, build, settle

from waggle.domain.environment import Environment, State
from waggle.domain.errors import QuotaExceeded
from waggle.service.environments.creating import Pausing
from waggle.service.environments.pausing import Reaper

T = TypeVar("T")
OWNERS: tuple[str, ...] = ("ann", "bob", "eve")
SHARE, CAPACITY, MAX_ON_DISK = 2, 6, 2
"""Slots of one owner, slots of all owners, and places on the disk of one owner."""
owners = st.sampled_from(OWNERS)


class QuotaMachine(RuleBasedStateMachine):
    """A model in which an owner's limits depend on that owner's environments alone."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stop = anyio.Event()
        self.made = dict.fromkeys(OWNERS, 0)
        self.ended = dict.fromkeys(OWNERS, 0)
        self.pausing: list[tuple[str, Job[Environment]]] = []
        self.here = self.loop(self._open())

    def loop(self, work: Coroutine[object, object, T]) -> T:
        async def turn() -> T:
            result = await work
            await settle()
            return result

        return self.runner.run(asyncio.wait_for(turn(), 10))

    async def _open(self) -> World:
        built: asyncio.Future[World] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            async with anyio.create_task_group() as tasks:
                pausing = Pausing(when_idle=True, keep=timedelta(days=100), max_on_disk=MAX_ON_DISK)
                built.set_result(build(tasks, capacity=CAPACITY, pausing=pausing, per_owner=SHARE))
                await self.stop.wait()
                tasks.cancel_scope.cancel()

        self.running = asyncio.create_task(run())
        return await built

    def owned(self, owner: str) -> list[Environment]:
        return self.here.service.list(owner=owner)

    def slots(self, owner: str) -> int:
        return sum(environment.holds_capacity for environment in self.owned(owner))

    def places(self, owner: str) -> int:
        """Count the places on the disk, including those of pauses under way."""
        pausing = sum(its_owner == owner and not job.is_done for its_owner, job in self.pausing)
        return pausing + sum(environment.is_on_disk for environment in self.owned(owner))

    @rule(owner=owners)
    def create(self, owner: str) -> None:
        fits = self.slots(owner) < SHARE
        job = self.loop(self._started(self.here.service.create(PYTHON, owner=owner)))
        self._as_expected(job, fits)
        self.made[owner] += fits

    @precondition(lambda self: self.here.service.all())
    @rule(owner=owners, which=st.integers(0, 9))
    def pause(self, owner: str, which: int) -> None:
        """Request a pause to disk; it ends in `pauses_end`."""
        running = [
            environment for environment in self.owned(owner) if environment.state is State.RUNNING
        ]
        if not running:
            return
        chosen = running[which % len(running)]
        fits = self.places(owner) < MAX_ON_DISK
        self.here.gates.closed.add("pause_to_disk")
        pausing = self.here.service.pause(chosen.id, owner=owner, to_disk=True)
        job = self.loop(self._started(pausing))
        if fits:
            assert not job.is_done
            self.pausing.append((owner, job))
        else:
            self._as_expected(job, fits)

    @precondition(lambda self: self.pausing)
    @rule(fails=st.booleans())
    def pauses_end(self, fails: bool) -> None:
        """End all pauses that are under way; if they fail, they give their places back."""
        if fails:
            self.here.gates.errors["pause_to_disk"] = OSError(28, "No space left on device")

        async def go() -> None:
            self.here.gates.open("pause_to_disk")
            await settle()

        self.loop(go())
        self.here.gates.errors.clear()
        for _, job in self.pausing:
            assert isinstance(job.error, OSError) if fails else job.error is None
        self.pausing.clear()

    @rule(owner=owners, which=st.integers(0, 9))
    def resume(self, owner: str, which: int) -> None:
        on_disk = [environment for environment in self.owned(owner) if environment.is_on_disk]
        if not on_disk:
            return
        fits = self.slots(owner) < SHARE
        chosen = on_disk[which % len(on_disk)]
        job = self.loop(self._started(self.here.service.resume(chosen.id, owner=owner)))
        self._as_expected(job, fits)

    @rule(owner=owners, which=st.integers(0, 9))
    def destroy(self, owner: str, which: int) -> None:
        own = self.owned(owner)
        if own and not self.pausing:
            self.loop(self.here.service.destroy(own[which % len(own)].id, owner=owner))
            self.ended[owner] += 1

    @rule()
    def time_passes_and_the_reaper_comes(self) -> None:
        """Let everything become idle: paused to disk where there is a place, else in memory."""
        if self.pausing:
            return
        expected = {owner: min(MAX_ON_DISK, len(self.owned(owner))) for owner in OWNERS}
        self.here.gates.closed.discard("pause_to_disk")
        self.here.clock.now += IDLE
        reaper = Reaper(self.here.service, interval=1, clock=self.here.clock, sleep=anyio.sleep)
        self.loop(reaper.sweep())
        for owner in OWNERS:
            assert self.places(owner) == expected[owner]
            for environment in self.owned(owner):
                assert environment.is_on_disk or f"Owner {owner} has {MAX_ON_DISK} of" in str(
                    environment.notice
                )

    async def _started(self, call: Coroutine[object, object, T]) -> Job[T]:
        job = self.here.start(call)
        await settle()
        return job

    def _as_expected(self, job: Job[Environment], fits: bool) -> None:
        assert job.is_done
        assert fits == (job.error is None), (fits, job.error)
        if job.error is not None:
            assert isinstance(job.error, QuotaExceeded), job.error

    @invariant()
    def no_owner_exceeds_the_share(self) -> None:
        for owner in OWNERS:
            assert self.slots(owner) <= SHARE
            assert self.places(owner) <= MAX_ON_DISK

    @invariant()
    def no_owner_loses_an_environment_without_ending_it(self) -> None:
        for owner in OWNERS:
            assert len(self.owned(owner)) == self.made[owner] - self.ended[owner]

    def teardown(self) -> None:
        self.here.gates.errors.clear()
        self.loop(self.here.close())
        self.stop.set()
        self.loop(asyncio.wait_for(self.running, 10))
        self.runner.close()


TestQuotas = QuotaMachine.TestCase
TestQuotas.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
