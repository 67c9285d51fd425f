# SPDX-License-Identifier: Apache-2.0
"""A full disk or memory of the host: environments stay, and resume when there is room."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import nullcontext
from typing import cast

import pytest
import structlog.testing
from tests.service.pausing import PAUSING, paused, reaper, use
from tests.service.world import IDLE, OWNER, Broken, settle, world
from tests.support.in_turn import frozen_of

from waggle.domain.environment import State
from waggle.domain.errors import (
    DiskFull,
    GuestLost,
)
from waggle.domain.host import NoMemory
from waggle.service.environments.pausing import TRY_AGAIN, TRY_AGAIN_AT_MOST

pytestmark = pytest.mark.anyio


async def test_an_idle_environment_is_paused_in_memory_while_it_cannot_be_written() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["pause_to_disk"] = OSError(28, "No space left on device")
        assert await reaper(here).sweep() == []
        kept = here.get(environment.id)
        assert (kept.state, kept.is_on_disk) == (State.PAUSED, False)
        assert "No space left on device" in str(kept.notice)
        assert here.host.only.obeyed[-1] == "pause"
        here.gates.errors.clear()
        assert await reaper(here).sweep() == [], "it is not tried at every sweep"
        here.clock.now += TRY_AGAIN
        assert await reaper(here).sweep() == [environment.id]
        on_disk = here.get(environment.id)
        assert (on_disk.is_on_disk, on_disk.notice) == (True, None)
        await use(here, environment)


async def test_an_environment_that_cannot_be_paused_in_memory_continues() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.host.only.pause_error = GuestLost("it does not obey")
        for _ in range(3):
            assert await reaper(here).sweep() == []
            assert here.get(environment.id).state is State.RUNNING
            here.clock.now += TRY_AGAIN
        here.host.only.pause_error = None
        assert await reaper(here).sweep() == [environment.id]


async def test_without_memory_to_freeze_it_a_paused_environment_stays_as_it_is() -> None:
    """Each try would wake it, for as long as memory is short."""
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        announced = list[str | None]()
        here.service.events.when_changed(lambda changed: announced.append(changed.notice))
        with structlog.testing.capture_logs() as logs:
            for free in range(3):
                here.gates.errors["turn"] = NoMemory(f"{free} MiB are available.")
                assert await reaper(here).sweep() == []
                kept = here.get(environment.id)
                assert (kept.state, kept.is_on_disk) == (State.PAUSED, False)
                assert f"{free} MiB are available" in str(kept.notice)
                assert here.host.only.obeyed == ["pause"]
                here.clock.now += TRY_AGAIN
            here.gates.errors["turn"] = FULL
            assert await reaper(here).sweep() == []
        first, full = announced
        assert "0 MiB are available" in str(first), "another number is not announced"
        assert full == here.get(environment.id).notice
        assert [line["event"] for line in logs] == ["environment_paused", "idle_kept_in_memory"]
        here.clock.now += TRY_AGAIN
        here.gates.errors.clear()
        assert await reaper(here).sweep() == [environment.id]
        await use(here, environment)


async def test_without_memory_to_freeze_it_a_running_environment_runs_on_untouched() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["turn"] = NoMemory("0 MiB are available.")
        with pytest.raises(NoMemory, match="0 MiB"):
            await paused(here, environment)
        assert here.get(environment.id).state is State.RUNNING
        assert here.host.only.obeyed == []
        await use(here, environment)


FULL = DiskFull("The server's disk is full: there is no room in the data directory.")


async def test_an_idle_environment_is_kept_while_the_disk_is_full_and_retried() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["pause_to_disk"] = FULL
        for _ in range(3):  # each try costs the machine time, so not every sweep tries
            assert await reaper(here).sweep() == []
        assert here.host.only.obeyed.count("unpause") == 1
        here.clock.now += TRY_AGAIN
        assert await reaper(here).sweep() == []
        assert here.host.only.obeyed.count("unpause") == 2
        kept = here.get(environment.id)
        assert (kept.state, kept.is_on_disk) == (State.PAUSED, False)
        assert "The server's disk is full" in str(kept.notice)
        here.gates.errors.clear()
        here.clock.now += 2 * TRY_AGAIN
        assert await reaper(here).sweep() == [environment.id]
        assert here.get(environment.id).is_on_disk
        assert here.get(environment.id).notice is None


async def test_an_environment_that_is_paused_in_memory_is_woken_ever_less_often() -> None:
    """Every try that fails wakes it, for as long as the disk is full."""
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["pause_to_disk"] = FULL
        for _ in range(8 * 60 // 2):  # eight hours
            assert await reaper(here).sweep() == []
            assert here.get(environment.id).state is State.PAUSED
            assert "The server's disk is full" in str(here.get(environment.id).notice)
            here.clock.now += TRY_AGAIN
        assert here.host.only.obeyed.count("unpause") == 12
        here.gates.errors.clear()
        here.clock.now += TRY_AGAIN_AT_MOST
        assert await reaper(here).sweep() == [environment.id]


async def test_one_that_is_used_and_idle_again_is_paused_in_memory_until_the_next_try() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["pause_to_disk"] = FULL
        for _ in range(32):  # tries after 0, 2, 6, 14, 30 and 62 minutes
            await reaper(here).sweep()
            here.clock.now += TRY_AGAIN
        await use(here, environment)
        tries = here.host.only.obeyed.count("unpause")
        here.clock.now += IDLE
        assert await reaper(here).sweep() == []
        kept = here.get(environment.id)
        assert (kept.state, kept.is_on_disk) == (State.PAUSED, False)
        assert "The server's disk is full" in str(kept.notice)
        assert here.host.only.obeyed.count("unpause") == tries


async def test_below_the_reserve_nothing_is_written() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.host.disk_error = FULL
        assert await reaper(here).sweep() == []
        with pytest.raises(DiskFull):
            await paused(here, environment)
        assert here.host.only.obeyed == ["pause"]
        assert here.host.on_disk == set()
        await use(here, environment)
        assert here.get(environment.id).notice is None


async def test_an_environment_paused_to_disk_can_be_paused_and_resumed_below_the_reserve() -> None:
    async with world() as here:
        environment = await here.created()
        await paused(here, environment)
        here.host.disk_error = FULL
        assert (await paused(here, environment)).is_on_disk
        await use(here, environment)


async def test_a_pause_that_cannot_be_recorded_still_counts() -> None:
    """The state on the disk counts, and the next start looks there."""
    async with world() as here:
        environment = await here.created()
        here.store.broken = {State.PAUSED, State.RUNNING}
        assert (await paused(here, environment)).is_on_disk
        assert here.store.records[environment.id].state is State.RUNNING
        assert await here.service.recover() == 0
        assert here.get(environment.id).is_on_disk
        await use(here, environment)


async def test_a_full_disk_at_the_start_loses_no_paused_environment() -> None:
    """The attack of issue 13: a record could not be saved, so the files were swept as unknown."""
    async with world() as here:
        recorded = await here.created()
        unrecorded = await here.created()
        await paused(here, recorded)
        on_record = here.store.records[recorded.id]
        here.store.broken = {State.PAUSED}
        await paused(here, unrecorded)
        saves = len(here.store.history)
        async with world() as later:
            later.host.on_disk |= {recorded.id, unrecorded.id}
            later.store.records = dict(here.store.records)
            later.store.broken = set(State)
            assert await later.service.recover() == 0
            assert {live.id for live in later.service.all()} == {recorded.id, unrecorded.id}
            known = {record.id for record in await later.store.unfinished()}
            assert known == {recorded.id, unrecorded.id}
            assert later.store.records[recorded.id] == on_record
            assert (len(here.store.history), later.host.discarded) == (saves, [])
            later.store.broken = set()
            await use(later, recorded)
            await use(later, unrecorded)


async def test_an_environment_that_cannot_be_recovered_stays_on_record() -> None:
    async with world() as here:
        environment = await here.created()
        await here.destroy(environment.id).result()
        here.store.records[environment.id] = environment
        here.host.discard_errors[environment.id] = Broken("the process cannot be killed")
        assert await here.service.recover() == 0
        assert here.service.all() == []
        assert [record.id for record in await here.store.unfinished()] == [environment.id]
        here.store.records.clear()


class TestMachineThatStandsStill:
    """Its own disk is full, so QEMU stopped it."""

    async def test_calls_report_the_cause_and_it_resumes_without_help(self) -> None:
        async with world(pausing=PAUSING) as here:
            environment = await here.created()
            here.host.only.stall(DiskFull("The server's disk is full."))
            assert here.get(environment.id).notice == "The server's disk is full."
            with pytest.raises(DiskFull, match=r"The server's disk is full\."):
                await use(here, environment)
            here.clock.now += IDLE * 2
            assert await reaper(here).sweep() == []
            here.host.only.stall(None)
            assert here.get(environment.id).notice is None
            assert await reaper(here).sweep() == [], "nobody could use it meanwhile"
            await use(here, environment)

    @pytest.mark.parametrize("idle", [False, True])
    async def test_one_that_stops_while_it_waits_to_be_paused_is_not_even_paused(
        self, idle: bool
    ) -> None:
        """To let it go on again would cost its owner half a minute: it does not answer."""
        async with world(pausing=PAUSING) as here:
            environment = await here.created()
            here.gates.closed = {"turn"}
            here.clock.now += IDLE
            work = reaper(here).sweep() if idle else paused(here, environment)
            pausing = here.start(cast("Coroutine[object, object, object]", work))
            await here.gates.reached("turn")
            here.host.only.stall(DiskFull("The server's disk is full."))
            here.gates.open_all()
            with nullcontext() if idle else pytest.raises(DiskFull, match="disk is full"):
                assert await pausing.result() == []
            assert here.host.only.obeyed == []
            assert here.get(environment.id).state is State.RUNNING
            here.host.only.stall(None)
            await use(here, environment)

    async def test_a_stopped_machine_can_be_destroyed(self) -> None:
        async with world() as here:
            environment = await here.created()
            guest = here.host.only
            guest.stall(DiskFull("The server's disk is full."))
            await here.destroy(environment.id).result()
            guest.stall(None)
            assert here.service.all() == []

    async def test_a_stopped_machine_that_dies_is_reaped(self) -> None:
        async with world() as here:
            await here.created()
            here.host.only.stall(DiskFull("The server's disk is full."))
            here.host.only.die()
            await settle()
            here.clock.now += IDLE
            await reaper(here).sweep()
            assert here.service.all() == []


async def test_a_rollback_below_the_reserve_is_refused_and_the_machine_continues() -> None:
    async with world() as here:
        environment = await here.created()
        async with frozen_of(here.host.only) as frozen:
            here.host.disk_error = FULL
            with pytest.raises(DiskFull):
                await here.service.roll_back(environment.id, frozen, owner=OWNER)
        await use(here, environment)
