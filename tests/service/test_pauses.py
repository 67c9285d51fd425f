# SPDX-License-Identifier: Apache-2.0
"""Paused environments: what they free, what wakes them, and what becomes of them in the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
import structlog.testing
from tests.service.world import IDLE, OWNER, Broken, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    Busy,
    DiskFull,
    GuestLost,
    MaxEnvironments,
    NotRunning,
    QuotaExceeded,
)
from waggle.service.pauses import TRY_AGAIN
from waggle.service.ports import PortService
from waggle.service.reaper import Reaper
from waggle.service.request import Pausing

pytestmark = pytest.mark.anyio

KEEP = timedelta(hours=24)
SLEEPY = Pausing(when_idle=True, keep=KEEP, max_asleep=2)


async def paused(here: World, environment: Environment, *, to_disk: bool = True) -> Environment:
    return await here.service.pause(environment.id, owner=OWNER, to_disk=to_disk)


def reaper(here: World) -> Reaper:
    return Reaper(here.service, interval=60, clock=here.clock, sleep=anyio.sleep)


async def use(here: World, environment: Environment) -> None:
    async with here.service.using(environment.id, owner=OWNER) as (held, _):
        assert held.state is State.RUNNING


@pytest.mark.parametrize("to_disk", [False, True])
async def test_any_call_has_a_paused_one_go_on(to_disk: bool) -> None:
    async with world() as here:
        environment = await here.created()
        for _ in range(2):
            now = await paused(here, environment, to_disk=to_disk)
            assert (now.state, now.is_asleep) == (State.PAUSED, to_disk)
            again = await paused(here, environment, to_disk=to_disk)  # idempotent
            assert again.state is State.PAUSED
            await use(here, environment)
            assert here.get(environment.id).paused_until is None
        await use(here, environment)


async def test_one_that_sleeps_frees_its_slot_and_needs_one_to_go_on() -> None:
    async with world(capacity=1) as here:
        first = await here.created()
        await paused(here, first)
        second = await here.created()
        with pytest.raises(MaxEnvironments):
            await use(here, first)
        assert here.get(first.id).is_asleep
        await here.destroy(second.id).result()
        await use(here, first)


async def test_one_that_stands_still_in_memory_keeps_its_slot() -> None:
    async with world(capacity=1) as here:
        await paused(here, await here.created(), to_disk=False)
        with pytest.raises(MaxEnvironments):
            await here.created()


async def test_from_standing_still_to_sleep() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment, to_disk=False)
        assert (await paused(here, environment)).is_asleep
        assert (await paused(here, environment, to_disk=False)).is_asleep


async def test_a_busy_one_is_not_paused() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            with pytest.raises(Busy, match="1 calls or jobs"):
                await paused(here, environment)
        assert here.get(environment.id).state is State.RUNNING


async def test_only_so_many_sleep() -> None:
    async with world(pausing=Pausing(max_asleep=1)) as here:
        first, second = await here.created(), await here.created()
        await paused(here, first)
        await paused(here, first)
        with pytest.raises(QuotaExceeded, match="alice has 1 of the 1 environments paused to disk"):
            await paused(here, second)
        assert here.get(second.id).state is State.RUNNING


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), GuestLost("no answer")])
async def test_a_pause_that_fails_leaves_it_running(error: Exception) -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["hibernate"] = error
        with pytest.raises(type(error)):
            await paused(here, environment)
        assert here.host.only.obeyed[-1] == "unpause"
        here.gates.errors.clear()
        await use(here, environment)


async def test_a_wake_that_fails_leaves_it_asleep_and_the_next_call_tries_again() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.host.create_error = GuestLost("its disk is slow")
        with pytest.raises(GuestLost):
            await use(here, environment)
        assert here.get(environment.id).is_asleep
        here.host.create_error = None
        await use(here, environment)


async def test_calls_at_once_wake_it_once() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.gates.closed.add("create")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use, here, environment)
            await here.gates.reached("create")
            assert here.get(environment.id).state is State.RESUMING
            assert len(here.gates.parked) == 1
            here.gates.open("create")


async def test_a_cancelled_call_does_not_stop_the_wake() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.gates.closed.add("create")
        job = here.start(here.service.resume(environment.id, owner=OWNER))
        await here.gates.reached("create")
        job.cancel()
        await settle()
        here.gates.open("create")
        await job.wait()
        assert here.get(environment.id).state is State.RUNNING


async def test_a_sleeping_one_is_destroyed_with_its_state() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        ended = await here.destroy(environment.id).result()
        assert ended.state is State.DESTROYED
        assert here.host.discarded == [environment.id]


async def test_the_machine_of_one_that_stands_still_may_die() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment, to_disk=False)
        here.host.only.die()
        await settle()
        assert here.get(environment.id).state is State.ERROR
        with pytest.raises(NotRunning):
            await use(here, environment)


async def test_an_idle_one_sleeps_first_and_is_destroyed_when_that_is_over() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        here.clock.now += IDLE
        assert await reaper(here).sweep() == [environment.id]
        assert here.get(environment.id).is_asleep
        here.clock.now += KEEP - timedelta(microseconds=1)
        assert await reaper(here).sweep() == []
        here.clock.now += timedelta(microseconds=1)
        assert await reaper(here).sweep() == [environment.id]
        assert here.service.all() == []
        assert here.host.discarded == [environment.id]


async def test_an_idle_one_whose_state_cannot_be_written_stands_still_until_it_can() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["hibernate"] = OSError(28, "No space left on device")
        assert await reaper(here).sweep() == []
        kept = here.get(environment.id)
        assert (kept.state, kept.is_asleep) == (State.PAUSED, False)
        assert "No space left on device" in str(kept.notice)
        assert here.host.only.obeyed[-1] == "pause"
        here.gates.errors.clear()
        assert await reaper(here).sweep() == [], "it is not tried at every sweep"
        here.clock.now += TRY_AGAIN
        assert await reaper(here).sweep() == [environment.id]
        asleep = here.get(environment.id)
        assert (asleep.is_asleep, asleep.notice) == (True, None)
        await use(here, environment)


async def test_one_that_does_not_even_stand_still_runs_on() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.host.only.pause_error = GuestLost("it does not obey")
        for _ in range(3):
            assert await reaper(here).sweep() == []
            assert here.get(environment.id).state is State.RUNNING
            here.clock.now += TRY_AGAIN
        here.host.only.pause_error = None
        assert await reaper(here).sweep() == [environment.id]


FULL = DiskFull("The server's disk is full: there is no room in the data directory.")


async def test_an_idle_one_for_which_the_disk_is_full_is_kept_and_tried_again() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["hibernate"] = FULL
        for _ in range(3):  # each try costs the machine time, so not each sweep is one
            assert await reaper(here).sweep() == []
        assert here.host.only.obeyed.count("unpause") == 1
        here.clock.now += TRY_AGAIN
        assert await reaper(here).sweep() == []
        assert here.host.only.obeyed.count("unpause") == 2
        kept = here.get(environment.id)
        assert (kept.state, kept.is_asleep) == (State.PAUSED, False)
        assert "The server's disk is full" in str(kept.notice)
        here.gates.errors.clear()
        here.clock.now += TRY_AGAIN
        assert await reaper(here).sweep() == [environment.id]
        assert here.get(environment.id).is_asleep
        assert here.get(environment.id).notice is None


async def test_below_the_reserve_nothing_is_written_to_find_out() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.host.disk_error = FULL
        assert await reaper(here).sweep() == []
        with pytest.raises(DiskFull):
            await paused(here, environment)
        assert here.host.only.obeyed == ["pause"]
        assert here.host.asleep == set()
        await use(here, environment)
        assert here.get(environment.id).notice is None


async def test_one_that_sleeps_may_be_paused_again_and_go_on_below_the_reserve() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.host.disk_error = FULL
        assert (await paused(here, environment)).is_asleep
        await use(here, environment)


async def test_a_pause_that_cannot_be_recorded_is_one() -> None:
    """What is on the disk counts, and the next start looks there."""
    async with world() as here:
        environment = await here.created()
        here.store.broken = {State.PAUSED, State.RUNNING}
        assert (await paused(here, environment)).is_asleep
        assert here.store.records[environment.id].state is State.RUNNING
        assert await here.service.recover() == 0
        assert here.get(environment.id).is_asleep
        await use(here, environment)


async def test_a_full_disk_at_the_start_loses_no_sleeper() -> None:
    """The attack of issue 13: it could not be saved, was not known, and its files were swept."""
    async with world() as here:
        sleeper = await here.created()
        fallen = await here.created()
        await paused(here, sleeper)
        on_record = here.store.records[sleeper.id]
        here.store.broken = {State.PAUSED}
        await paused(here, fallen)
        saves = len(here.store.history)
        async with world() as later:
            later.host.asleep |= {sleeper.id, fallen.id}
            later.store.records = dict(here.store.records)
            later.store.broken = set(State)
            assert await later.service.recover() == 0
            assert {each.id for each in later.service.all()} == {sleeper.id, fallen.id}
            assert {each.id for each in await later.store.unfinished()} == {sleeper.id, fallen.id}
            assert later.store.records[sleeper.id] == on_record
            assert (len(here.store.history), later.host.discarded) == (saves, [])
            later.store.broken = set()
            await use(later, sleeper)
            await use(later, fallen)


async def test_what_cannot_be_recovered_is_still_named() -> None:
    async with world() as here:
        environment = await here.created()
        await here.destroy(environment.id).result()
        here.store.records[environment.id] = environment
        here.host.discard_errors[environment.id] = Broken("the process cannot be killed")
        assert await here.service.recover() == 0
        assert here.service.all() == []
        assert [each.id for each in await here.store.unfinished()] == [environment.id]
        here.store.records.clear()


class TestMachineThatStandsStill:
    """Its own disk is full: QEMU stopped it."""

    async def test_calls_are_told_why_and_it_goes_on_by_itself(self) -> None:
        async with world(pausing=SLEEPY) as here:
            environment = await here.created()
            here.host.only.stall("The server's disk is full.")
            assert here.get(environment.id).notice == "The server's disk is full."
            with pytest.raises(DiskFull, match=r"The server's disk is full\."):
                await use(here, environment)
            here.clock.now += IDLE * 2
            assert await reaper(here).sweep() == []
            here.host.only.stall(None)
            assert here.get(environment.id).notice is None
            assert await reaper(here).sweep() == [], "nobody could use it meanwhile"
            await use(here, environment)

    async def test_it_can_be_destroyed_and_is_gone(self) -> None:
        async with world() as here:
            environment = await here.created()
            guest = here.host.only
            guest.stall("The server's disk is full.")
            await here.destroy(environment.id).result()
            guest.stall(None)
            assert here.service.all() == []

    async def test_one_that_dies_then_is_reaped_like_any(self) -> None:
        async with world() as here:
            await here.created()
            here.host.only.stall("The server's disk is full.")
            here.host.only.die()
            await settle()
            here.clock.now += IDLE
            await reaper(here).sweep()
            assert here.service.all() == []


async def test_a_rollback_below_the_reserve_gives_up_nothing() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.host.only.moment() as moment:
            here.host.disk_error = FULL
            with pytest.raises(DiskFull):
                await here.service.roll_back(environment.id, moment, owner=OWNER)
        await use(here, environment)


async def test_idle_ones_beyond_the_number_that_may_sleep_stand_still() -> None:
    async with world(pausing=SLEEPY, capacity=3) as here:
        for _ in range(3):
            await here.created()
        here.clock.now += IDLE
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await reaper(here).sweep()
        first, second, third = here.service.all()
        assert [first.is_asleep, second.is_asleep, third.is_asleep] == [True, True, False]
        assert third.state is State.PAUSED
        assert third.notice == (
            "It is idle, and stands still in memory until it can be paused to disk: "
            "Owner alice has 2 of the 2 environments paused to disk that one owner may have."
        )
        said = [line for line in logs if line["event"] == "idle_kept_in_memory"]
        assert [line["environment"] for line in said] == [third.id], "once, not at every sweep"
        await here.destroy(first.id).result()
        assert await reaper(here).sweep() == [third.id]
        assert here.get(third.id).is_asleep


async def test_one_that_stands_still_goes_on_when_it_is_used() -> None:
    async with world(pausing=Pausing(when_idle=True, max_asleep=1), capacity=3) as here:
        await paused(here, await here.created())
        idle = await here.created()
        here.clock.now += IDLE
        await reaper(here).sweep()
        assert here.get(idle.id).notice is not None
        await use(here, idle)
        assert here.get(idle.id).notice is None
        assert await reaper(here).sweep() == []


async def test_one_that_stands_still_is_kept_as_long_as_it_would_have_slept() -> None:
    async with world(pausing=replace(SLEEPY, max_asleep=1), capacity=3) as here:
        sleeper = await here.created()
        idle = await here.created()
        here.clock.now += IDLE
        await reaper(here).sweep()
        assert here.get(sleeper.id).is_asleep
        here.clock.now += KEEP - timedelta(microseconds=1)
        async with here.service.using(sleeper.id, owner=OWNER):
            pass
        await paused(here, sleeper)  # so its place stays taken
        assert await reaper(here).sweep() == []
        here.clock.now += timedelta(microseconds=1)
        assert await reaper(here).sweep() == [idle.id]
        assert [each.id for each in here.service.all()] == [sleeper.id]


async def test_pauses_at_once_hold_their_places() -> None:
    async with world(pausing=Pausing(max_asleep=1)) as here:
        first, second = await here.created(), await here.created()
        here.gates.closed.add("hibernate")
        falling = here.start(paused(here, first))
        again = here.start(paused(here, first))
        await here.gates.reached("hibernate")
        with pytest.raises(QuotaExceeded):
            await paused(here, second)
        here.gates.open_all()
        assert (await falling.result()).is_asleep
        assert (await again.result()).is_asleep


async def test_sleepers_outlive_the_server() -> None:
    async with world(pausing=SLEEPY) as here:
        sleeper, other = await here.created(), await here.created()
        await paused(here, sleeper)
        await here.service.aclose()
        assert [each.id for each in here.service.all()] == [sleeper.id]
        assert here.host.guests[other.id].freed == 1
        async with world(pausing=SLEEPY) as later:
            later.host.asleep.add(sleeper.id)
            later.store.records = dict(here.store.records)
            assert await later.service.recover() == 0
            assert later.get(sleeper.id).is_asleep
            await use(later, sleeper)
        await here.destroy(sleeper.id).result()


@pytest.mark.parametrize("state", [State.RUNNING, State.RESUMING, State.PAUSED])
@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_server_that_was_killed_in_between(state: State, is_whole: bool) -> None:
    """What counts is whether the state on the disk is whole, not what was on record."""
    async with world() as here:
        environment = await here.created()
        await here.destroy(environment.id).result()
        here.store.records[environment.id] = replace(environment, state=state)
        if is_whole:
            here.host.asleep.add(environment.id)
        assert await here.service.recover() == (0 if is_whole else 1)
        assert [each.is_asleep for each in here.service.all()] == [True] * is_whole
        if is_whole:
            await here.destroy(environment.id).result()


async def test_a_rollback_goes_on_from_the_moment_under_the_same_id() -> None:
    async with world() as here:
        environment = await here.created()
        first = here.host.only
        async with first.moment() as moment:
            back = await here.service.roll_back(environment.id, moment, owner=OWNER)
        assert (back.id, back.state) == (environment.id, State.RUNNING)
        assert first.freed == 1
        assert here.host.only is not first
        await use(here, environment)


async def test_a_rollback_that_fails_says_so_and_holds_nothing() -> None:
    async with world() as here:
        environment = await here.created()
        here.host.create_error = Broken("no")
        async with here.host.only.moment() as moment:
            with pytest.raises(Broken):
                await here.service.roll_back(environment.id, moment, owner=OWNER)
        failed = here.get(environment.id)
        assert (failed.state, failed.holds_capacity) == (State.ERROR, False)
        assert "Rollback failed" in str(failed.error)
        await here.destroy(environment.id).result()


async def test_a_rollback_of_a_busy_one_is_refused() -> None:
    async with world() as here:
        environment = await here.created()
        async with (
            here.host.only.moment() as moment,
            here.service.using(environment.id, owner=OWNER),
        ):
            with pytest.raises(Busy):
                await here.service.roll_back(environment.id, moment, owner=OWNER)


@pytest.mark.parametrize("to_disk", [False, True])
async def test_exposed_ports_come_back_at_the_same_place(to_disk: bool) -> None:
    async with world() as here:
        environment = await here.created()
        ports = PortService(here.service)
        first, _ = await ports.expose(environment.id, 8000, owner=OWNER)
        second, _ = await ports.expose(environment.id, 8001, owner=OWNER)
        for _ in range(2):
            await paused(here, environment, to_disk=to_disk)
            inspected = await here.service.inspect(environment.id, owner=OWNER)
            assert inspected.ports == ()
            await use(here, environment)
            inspected = await here.service.inspect(environment.id, owner=OWNER)
            assert inspected.ports == (first, second)
        await ports.unexpose(environment.id, 8000, owner=OWNER)
        await paused(here, environment, to_disk=to_disk)
        await use(here, environment)
        inspected = await here.service.inspect(environment.id, owner=OWNER)
        assert inspected.ports == (second,)


async def test_who_is_visited_is_in_use_and_a_paused_one_is_not_woken() -> None:
    async with world(pausing=SLEEPY) as here:
        environment = await here.created()
        visit = here.host.only.visit
        here.clock.advance(seconds=IDLE.total_seconds() - 1)
        visit()
        here.clock.advance(seconds=IDLE.total_seconds() - 1)
        assert await reaper(here).sweep() == []
        here.clock.advance(seconds=2)
        assert await reaper(here).sweep() == [environment.id]
        visit()  # as a connection that is just ending
        assert here.get(environment.id).is_asleep
