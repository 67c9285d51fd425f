# SPDX-License-Identifier: Apache-2.0
"""Paused environments: the slots they free, the calls that resume them, and how they end."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
import structlog.testing
from tests.service.pausing import KEEP, PAUSING, paused, reaper, use
from tests.service.world import IDLE, OWNER, Broken, settle, world
from tests.support.in_turn import frozen_of

from waggle.domain.environment import State
from waggle.domain.errors import (
    Busy,
    GuestLost,
    MaxEnvironments,
    NotRunning,
    QuotaExceeded,
)
from waggle.domain.host import no_progress
from waggle.service.environments.creating import Pausing

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("to_disk", [False, True])
async def test_any_call_resumes_a_paused_environment(to_disk: bool) -> None:
    async with world() as here:
        environment = await here.created()
        for _ in range(2):
            now = await paused(here, environment, to_disk=to_disk)
            assert (now.state, now.is_on_disk) == (State.PAUSED, to_disk)
            again = await paused(here, environment, to_disk=to_disk)  # idempotent
            assert again.state is State.PAUSED
            await use(here, environment)
            assert here.get(environment.id).paused_until is None
        await use(here, environment)


async def test_pausing_to_disk_frees_the_slot_and_resuming_needs_one() -> None:
    async with world(capacity=1) as here:
        first = await here.created()
        await paused(here, first)
        second = await here.created()
        with pytest.raises(MaxEnvironments):
            await use(here, first)
        assert here.get(first.id).is_on_disk
        await here.destroy(second.id).result()
        await use(here, first)


async def test_a_pause_to_disk_stops_the_machine_once() -> None:
    async with world() as here:
        await paused(here, await here.created())
        assert here.host.only.obeyed == ["pause_to_disk"]


async def test_pausing_in_memory_keeps_the_slot() -> None:
    async with world(capacity=1) as here:
        await paused(here, await here.created(), to_disk=False)
        with pytest.raises(MaxEnvironments):
            await here.created()


async def test_an_environment_paused_in_memory_can_be_paused_to_disk() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment, to_disk=False)
        assert (await paused(here, environment)).is_on_disk
        assert (await paused(here, environment, to_disk=False)).is_on_disk


async def test_a_busy_environment_is_not_paused() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            with pytest.raises(Busy, match="1 calls in progress"):
                await paused(here, environment)
        assert here.get(environment.id).state is State.RUNNING


async def test_the_number_of_environments_paused_to_disk_is_limited() -> None:
    async with world(pausing=Pausing(max_on_disk=1)) as here:
        first, second = await here.created(), await here.created()
        await paused(here, first)
        await paused(here, first)
        with pytest.raises(QuotaExceeded, match="alice has 1 of the 1 environments paused to disk"):
            await paused(here, second)
        assert here.get(second.id).state is State.RUNNING


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), GuestLost("no answer")])
async def test_a_failed_pause_leaves_the_environment_running(error: Exception) -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["pause_to_disk"] = error
        with pytest.raises(type(error)):
            await paused(here, environment)
        assert here.host.only.obeyed == ["unpause"]
        here.gates.errors.clear()
        await use(here, environment)


async def test_a_failed_resume_leaves_it_paused_and_the_next_call_retries() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.host.create_error = GuestLost("its disk is slow")
        with pytest.raises(GuestLost):
            await use(here, environment)
        assert here.get(environment.id).is_on_disk
        here.host.create_error = None
        await use(here, environment)


async def test_concurrent_calls_resume_it_once() -> None:
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


async def test_a_cancelled_call_does_not_stop_the_resume() -> None:
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


async def test_destroying_an_environment_paused_to_disk_discards_its_state() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        ended = await here.destroy(environment.id).result()
        assert ended.state is State.DESTROYED
        assert here.host.discarded == [environment.id]


async def test_a_machine_paused_in_memory_may_die() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment, to_disk=False)
        here.host.only.die()
        await settle()
        assert here.get(environment.id).state is State.ERROR
        with pytest.raises(NotRunning):
            await use(here, environment)


async def test_an_idle_environment_is_paused_to_disk_and_later_destroyed() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        assert await reaper(here).sweep() == [environment.id]
        assert here.get(environment.id).is_on_disk
        here.clock.now += KEEP - timedelta(microseconds=1)
        assert await reaper(here).sweep() == []
        here.clock.now += timedelta(microseconds=1)
        assert await reaper(here).sweep() == [environment.id]
        assert here.service.all() == []
        assert here.host.discarded == [environment.id]


async def test_idle_environments_over_the_limit_are_paused_in_memory() -> None:
    async with world(pausing=PAUSING, capacity=3) as here:
        for _ in range(3):
            await here.created()
        here.clock.now += IDLE
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await reaper(here).sweep()
        first, second, third = here.service.all()
        assert [first.is_on_disk, second.is_on_disk, third.is_on_disk] == [True, True, False]
        assert third.state is State.PAUSED
        assert third.notice == (
            "It is idle, and paused in memory until it can be paused to disk: "
            "Owner alice has 2 of the 2 environments paused to disk that one owner may have."
        )
        warnings = [line for line in logs if line["event"] == "idle_kept_in_memory"]
        assert [line["environment"] for line in warnings] == [third.id], "once, not at every sweep"
        await here.destroy(first.id).result()
        assert await reaper(here).sweep() == [third.id]
        assert here.get(third.id).is_on_disk


async def test_an_idle_environment_paused_in_memory_resumes_when_used() -> None:
    async with world(pausing=Pausing(when_idle=True, max_on_disk=1), capacity=3) as here:
        await paused(here, await here.created())
        idle = await here.created()
        here.clock.now += IDLE
        await reaper(here).sweep()
        assert here.get(idle.id).notice is not None
        await use(here, idle)
        assert here.get(idle.id).notice is None
        assert await reaper(here).sweep() == []


async def test_an_environment_paused_in_memory_is_kept_as_long_as_one_on_disk() -> None:
    async with world(pausing=replace(PAUSING, max_on_disk=1), capacity=3) as here:
        first = await here.created()
        idle = await here.created()
        here.clock.now += IDLE
        await reaper(here).sweep()
        assert here.get(first.id).is_on_disk
        here.clock.now += KEEP - timedelta(microseconds=1)
        async with here.service.using(first.id, owner=OWNER):
            pass
        await paused(here, first)  # so that its place stays taken
        assert await reaper(here).sweep() == []
        here.clock.now += timedelta(microseconds=1)
        assert await reaper(here).sweep() == [idle.id]
        assert [environment.id for environment in here.service.all()] == [first.id]


async def test_concurrent_pauses_reserve_their_places() -> None:
    async with world(pausing=Pausing(max_on_disk=1)) as here:
        first, second = await here.created(), await here.created()
        here.gates.closed.add("pause_to_disk")
        pausing_first = here.start(paused(here, first))
        again = here.start(paused(here, first))
        await here.gates.reached("pause_to_disk")
        with pytest.raises(QuotaExceeded):
            await paused(here, second)
        here.gates.open_all()
        assert (await pausing_first.result()).is_on_disk
        assert (await again.result()).is_on_disk


async def test_environments_paused_to_disk_outlive_the_server() -> None:
    async with world(pausing=PAUSING) as here:
        first, other = await here.created(), await here.created()
        await paused(here, first)
        await here.service.aclose()
        assert [environment.id for environment in here.service.all()] == [first.id]
        assert here.host.guests[other.id].freed == 1
        async with world(pausing=PAUSING) as later:
            later.host.on_disk.add(first.id)
            later.store.records = dict(here.store.records)
            assert await later.service.recover() == 0
            assert later.get(first.id).is_on_disk
            await use(later, first)
        await here.destroy(first.id).result()


async def test_a_pause_to_disk_that_is_under_way_outlives_the_server() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.gates.closed.add("pause_to_disk")
        pausing = here.start(paused(here, environment))
        await here.gates.reached("pause_to_disk")
        closing = here.start(here.service.aclose())
        here.gates.open_all()
        assert (await pausing.result()).is_on_disk
        await closing.result()
        assert here.get(environment.id).is_on_disk
        await here.destroy(environment.id).result()


@pytest.mark.parametrize("state", [State.RUNNING, State.RESUMING, State.PAUSED])
@pytest.mark.parametrize("is_whole", [False, True])
async def test_recovery_after_a_killed_server(state: State, is_whole: bool) -> None:
    """The state on the disk decides: it counts if it is whole, whatever the record says."""
    async with world() as here:
        environment = await here.created()
        await here.destroy(environment.id).result()
        here.store.records[environment.id] = replace(environment, state=state)
        if is_whole:
            here.host.on_disk.add(environment.id)
        assert await here.service.recover() == (0 if is_whole else 1)
        assert [live.is_on_disk for live in here.service.all()] == [True] * is_whole
        if is_whole:
            await here.destroy(environment.id).result()


async def test_a_rollback_resumes_the_frozen_machine_under_the_same_id() -> None:
    async with world() as here:
        environment = await here.created()
        first = here.host.only
        async with frozen_of(first) as frozen:
            back = await here.service.roll_back(environment.id, frozen, owner=OWNER)
        assert (back.id, back.state) == (environment.id, State.RUNNING)
        assert first.freed == 1
        assert here.host.only is not first
        await use(here, environment)


async def test_a_failed_rollback_is_reported_and_holds_no_slot() -> None:
    async with world() as here:
        environment = await here.created()
        here.host.create_error = Broken("no")
        async with frozen_of(here.host.only) as frozen:
            with pytest.raises(Broken):
                await here.service.roll_back(environment.id, frozen, owner=OWNER)
        failed = here.get(environment.id)
        assert (failed.state, failed.holds_capacity) == (State.ERROR, False)
        assert "Rollback failed" in str(failed.error)
        await here.destroy(environment.id).result()


async def test_a_rollback_of_a_busy_environment_is_refused() -> None:
    async with world() as here:
        environment = await here.created()
        async with (
            frozen_of(here.host.only) as frozen,
            here.service.using(environment.id, owner=OWNER),
        ):
            with pytest.raises(Busy):
                await here.service.roll_back(environment.id, frozen, owner=OWNER)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_pause_that_has_its_turn_does_not_wait_for_a_restart(cut: bool) -> None:
    """Few have a turn at once: an owner could keep it for as long as a boot takes."""
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        life = here.service.life(environment.id)
        assert life is not None
        here.gates.closed |= {"end"}
        async with life.turn_to_freeze() as turn:
            turns = contextlib.nullcontext()
            restarting = here.start(life.restart(no_progress, grace=0.0, turn=turns))
            await here.gates.reached("end")
            if cut:
                with anyio.move_on_after(0) as scope:
                    await life.pause(keep_for=IDLE, turn=turn)
                assert scope.cancelled_caught
            else:
                with pytest.raises(Busy, match="Another call changes") as refused:
                    await life.pause(keep_for=IDLE, turn=turn)
                assert "Nothing was disturbed" in refused.value.hint
        here.gates.open_all()
        assert (await restarting.result()).environment.state is State.RUNNING
        assert (await paused(here, environment)).is_on_disk


async def test_what_was_resumed_before_a_pause_without_its_turn_goes_on() -> None:
    """The pause found it on the disk, where it needs no turn, and the resume was first."""
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.gates.closed.add(saving := f"save {State.PAUSED}")
        first = here.start(paused(here, environment))
        await here.gates.reached(saving)
        resuming = here.start(here.service.resume(environment.id, owner=OWNER))
        await settle()
        pausing = here.start(paused(here, environment))
        await settle()
        here.gates.open_all()
        await first.result()
        assert (await resuming.result()).state is State.RUNNING
        with pytest.raises(Busy, match="resumed meanwhile"):
            await pausing.result()
        assert here.get(environment.id).state is State.RUNNING
