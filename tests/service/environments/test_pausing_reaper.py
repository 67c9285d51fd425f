# SPDX-License-Identifier: Apache-2.0
"""The reaper removes idle environments and never one that is in use."""

from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from tests.service.pausing import PAUSING
from tests.service.world import IDLE, OWNER, START, Broken, World, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import DiskFull
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.pausing import AT_ONCE, Reaper, expired
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio

SHORT = CreateRequest(RuntimeName.PYTHON, timeout_minutes=1)


class Ticks:
    """A sleep that ends when the test calls `tick`, and records the seconds asked for."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._go = anyio.Event()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self._go.wait()
        self._go = anyio.Event()

    def tick(self) -> None:
        self._go.set()


def reaper(here: World, ticks: Ticks | None = None) -> Reaper:
    return Reaper(here.service, interval=60, clock=here.clock, sleep=(ticks or Ticks()).sleep)


async def test_an_idle_environment_is_removed_exactly_at_its_timeout() -> None:
    async with world() as here:
        environment = await here.created()
        here.clock.now = START + IDLE - timedelta(microseconds=1)
        assert await reaper(here).sweep() == []
        here.clock.now = START + IDLE
        assert await reaper(here).sweep() == [environment.id]
        assert here.host.only.freed == 1


async def test_a_call_prevents_removal_and_its_end_restarts_the_idle_time() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            here.clock.advance(hours=10)
            assert await reaper(here).sweep() == []
        here.clock.advance(minutes=29)
        assert await reaper(here).sweep() == []
        here.clock.advance(minutes=1)
        assert await reaper(here).sweep() == [environment.id]


async def test_a_call_that_begins_while_the_reaper_decides_is_safe() -> None:
    """The call enters between the check of the idle time and the lock."""
    async with world() as here:
        environment = await here.created()
        here.clock.advance(hours=1)
        sweeping = here.start(reaper(here).sweep())
        entered, leave = anyio.Event(), anyio.Event()

        async def call() -> None:
            async with here.service.using(environment.id, owner=OWNER):
                entered.set()
                await leave.wait()

        calling = here.start(call())
        await entered.wait()
        assert await sweeping.result() == []
        assert here.get(environment.id).state is State.RUNNING
        leave.set()
        await calling.result()


async def test_an_environment_being_created_is_left_alone() -> None:
    async with world() as here:
        here.gates.closed = {"create"}
        creating = here.create(SHORT)
        await here.gates.reached("create")
        here.clock.advance(hours=1)
        assert await reaper(here).sweep() == []
        here.gates.open_all()
        assert (await creating.result()).state is State.RUNNING


async def test_an_environment_being_destroyed_is_left_alone() -> None:
    async with world() as here:
        environment = await here.created(SHORT)
        here.clock.advance(hours=1)
        here.gates.closed = {"destroy"}
        destroying = here.destroy(environment.id)
        await here.gates.reached("destroy")
        assert await reaper(here).sweep() == []
        here.gates.open_all()
        await destroying.result()


async def test_a_failed_environment_shows_its_cause_until_its_timeout() -> None:
    async with world() as here:
        environment = await here.created(SHORT)
        here.host.only.die("out of memory")
        await settle()
        assert await reaper(here).sweep() == []
        assert here.get(environment.id).error == "The machine died: out of memory"
        here.clock.advance(minutes=1)
        assert await reaper(here).sweep() == [environment.id]
        assert here.host.only.destroys == 1


async def test_the_reaper_leaves_a_failed_environment_to_its_watcher() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        here.host.only.die("out of memory")
        await here.gates.reached("destroy")
        sweeping = here.start(reaper(here).sweep())
        await settle()
        here.gates.open_all()
        assert await sweeping.result() == []
        assert here.get(environment.id).error == "The machine died: out of memory"
        assert here.host.only.destroys == 1


async def test_a_failed_destroy_is_repeated_at_the_next_sweep() -> None:
    async with world() as here:
        environment = await here.created()
        guest = here.host.only
        guest.destroy_error = Broken("busy")
        with pytest.raises(Broken):
            await here.service.destroy(environment.id, owner=OWNER)
        assert await reaper(here).sweep() == []
        assert here.get(environment.id).state is State.ERROR
        guest.destroy_error = None
        assert await reaper(here).sweep() == [environment.id]
        assert guest.destroys == 3


async def test_an_environment_that_cannot_be_removed_does_not_stop_the_others() -> None:
    async with world() as here:
        stuck, other = await here.created(SHORT), await here.created(SHORT)
        here.host.guests[stuck.id].destroy_error = Broken("stuck")
        here.clock.advance(minutes=1)
        assert await reaper(here).sweep() == [other.id]
        here.host.guests[stuck.id].destroy_error = None


async def test_a_pause_to_disk_that_hangs_holds_up_no_environment_of_others() -> None:
    async with world(pausing=replace(PAUSING, max_on_disk=1), capacity=4) as here:
        hanging, other = await here.created(SHORT), await here.created(SHORT, "bob")
        here.clock.advance(minutes=1)
        here.gates.closed = {"pause_to_disk"}
        ticks = Ticks()
        loop = here.start(reaper(here, ticks).run())
        await settle()
        ticks.tick()
        await settle()
        assert [parked.environment for parked in here.gates.parked] == [hanging.id, other.id]
        here.gates.parked[1].go.set()
        await settle()
        assert here.service.get(other.id, owner="bob").is_on_disk
        third = await here.created(SHORT, "bob")
        here.clock.advance(minutes=1)
        ticks.tick()
        await settle()
        assert [parked.environment for parked in here.gates.parked] == [hanging.id]
        notice = here.service.get(third.id, owner="bob").notice
        assert notice is not None, "the next sweep has looked at it"
        here.gates.open_all()
        await settle()
        assert here.get(hanging.id).is_on_disk
        loop.cancel()
        await loop.wait()


async def test_few_environments_are_paused_to_disk_at_once() -> None:
    async with world(pausing=replace(PAUSING, max_on_disk=9), capacity=AT_ONCE + 2) as here:
        idle = [await here.created(SHORT, f"owner-{at}") for at in range(AT_ONCE + 2)]
        here.clock.advance(minutes=1)
        here.gates.closed = {"pause_to_disk"}
        sweeping = here.start(reaper(here).sweep())
        await settle()
        assert len(here.gates.parked) == AT_ONCE
        async with here.service.using(idle[-1].id, owner=idle[-1].owner):
            pass  # it waits for its turn, and is not idle any more
        here.gates.open_all()
        assert {*await sweeping.result()} == {environment.id for environment in idle[:-1]}
        assert here.service.get(idle[-1].id, owner=idle[-1].owner).state is State.RUNNING


async def test_an_idle_environment_that_meets_a_full_disk_in_the_queue_is_left_alone() -> None:
    async with world(pausing=replace(PAUSING, max_on_disk=9), capacity=AT_ONCE + 1) as here:
        idle = [await here.created(SHORT, f"owner-{at}") for at in range(AT_ONCE + 1)]
        here.clock.advance(minutes=1)
        here.gates.closed = {"pause_to_disk"}
        sweeping = here.start(reaper(here).sweep())
        await settle()
        last = here.host.guests[idle[-1].id]
        last.stall(DiskFull("The server's disk is full."))
        here.gates.open_all()
        assert {*await sweeping.result()} == {environment.id for environment in idle[:-1]}
        assert here.service.get(idle[-1].id, owner=idle[-1].owner).state is State.RUNNING
        last.stall(None)


async def test_a_clock_that_steps_back_removes_nothing_early() -> None:
    async with world() as here:
        environment = await here.created()
        here.clock.advance(days=-1)
        async with here.service.using(environment.id, owner=OWNER):
            pass
        assert here.get(environment.id).last_used_at == START
        assert await reaper(here).sweep() == []
        here.clock.now = START + IDLE
        assert await reaper(here).sweep() == [environment.id]


async def test_retiring_an_unknown_environment_does_nothing() -> None:
    async with world() as here:
        assert not await here.service.retire("deadbeef-0000-4000-8000-000000000000")


async def test_the_loop_sleeps_and_sweeps_repeatedly() -> None:
    async with world() as here:
        ticks = Ticks()
        loop = here.start(reaper(here, ticks).run())
        await settle()
        environment = await here.created(SHORT)
        here.clock.advance(minutes=1)
        ticks.tick()
        await settle()
        assert here.service.all() == []
        assert here.store.records[environment.id].state is State.DESTROYED
        await here.created(SHORT)
        here.clock.advance(minutes=1)
        ticks.tick()
        await settle()
        assert here.service.all() == []
        assert ticks.pauses == [60, 60, 60]
        loop.cancel()
        await loop.wait()


async def test_expired_environments_are_listed_longest_expired_first() -> None:
    async with world(capacity=3) as here:
        first, second, third = [await here.created() for _ in range(3)]
        aged = [
            replace(first, last_used_at=START - timedelta(minutes=1)),
            replace(second, last_used_at=START - timedelta(minutes=2)),
            replace(third, last_used_at=START + timedelta(minutes=1)),
        ]
        assert expired(aged, START + IDLE) == [second.id, first.id]
