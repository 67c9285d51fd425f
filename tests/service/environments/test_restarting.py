# SPDX-License-Identifier: Apache-2.0
"""The restart of an environment: what stays, what is gone, and whatever goes wrong in between."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace

import pytest
from tests.service.lasting import start
from tests.service.pausing import PAUSING, paused, use
from tests.service.world import OWNER, Broken, Job, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    BootFailed,
    DiskFull,
    GuestLost,
    MaxEnvironments,
    NotFound,
    NotRunning,
    TimedOut,
)
from waggle.domain.programs.job import JobState
from waggle.service.environments.restarting import Restarted
from waggle.service.environments.restarts import Restarts

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world(pausing=PAUSING, capacity=1) as made:
        yield made


def restarting(
    here: World, environment: Environment, *, force: bool = False
) -> Coroutine[object, object, Restarted]:
    return Restarts(here.service).restart(environment.id, owner=OWNER, force=force)


def restart(here: World, environment: Environment) -> Job[Restarted]:
    return here.start(restarting(here, environment))


async def test_a_restarted_environment_is_the_same_with_another_machine(here: World) -> None:
    environment = await here.created()
    first = here.host.guests[environment.id]
    await first.write_file("/a", b"kept")
    restarted = await restarting(here, environment)
    second = here.host.guests[environment.id]
    assert (restarted.gracefully, first.ends, second is first) == (True, [5.0], False)
    now = here.get(environment.id)
    assert now == restarted.environment
    assert now.machine == second.machine
    assert replace(now, machine=environment.machine) == environment
    assert (await second.read_file("/a", offset=0, length=9, limit=9)).data == b"kept"
    assert here.store.states(environment.id)[-1] is State.RUNNING
    assert here.store.records[environment.id].machine == second.machine
    await use(here, environment)


async def test_with_force_programs_have_no_time(here: World) -> None:
    environment = await here.created()
    first = here.host.guests[environment.id]
    first.ends_by_itself = False
    restarted = await restarting(here, environment, force=True)
    assert (restarted.gracefully, first.ends) == (False, [0.0])


async def test_the_death_of_the_machine_after_a_restart_is_noticed(here: World) -> None:
    environment = await here.created()
    await restarting(here, environment)
    here.host.guests[environment.id].die("power cut")
    await settle()
    now = here.get(environment.id)
    assert (now.state, now.error) == (State.ERROR, "The machine died: power cut")


async def test_jobs_that_run_are_lost_and_those_that_ended_can_be_read(here: World) -> None:
    environment, jobs = await here.created(), here.jobs()
    job = await start(jobs, environment.id, "echo early")
    assert job.view().state is JobState.EXITED
    await start(jobs, environment.id)
    first = here.host.guests[environment.id]
    restarted = await restarting(here, environment)
    await settle()
    early, lost = [await jobs.get(environment.id, number, owner=OWNER) for number in (1, 2)]
    assert early.view().stdout.text() == "early\n"
    view = lost.view()
    assert (view.state, view.stdout.text()) == (JobState.LOST, "one\n")
    assert view.error == "It was ended by a restart of the environment at 2026-01-01 00:00:00 UTC."
    assert first.cancelled == []  # nobody asked a broken machine to kill it
    assert here.host.guests[environment.id].attended == []  # nor does it run again
    assert here.get(environment.id).running_jobs == 0
    assert restarted.environment.state is State.RUNNING
    again = await start(jobs, environment.id, "echo again")
    assert again.number == 3


async def test_calls_wait_for_a_restart(here: World) -> None:
    environment = await here.created()
    here.gates.closed.add("end")
    job = restart(here, environment)
    await here.gates.reached("end")
    assert here.get(environment.id).state is State.RESUMING
    call = here.start(use(here, environment))
    await settle()
    assert not call.is_done
    here.gates.open("end")
    await call.result()
    assert (await job.result()).environment.state is State.RUNNING


async def test_a_restart_keeps_its_slot(here: World) -> None:
    environment = await here.created()
    for place in ("end", "create"):
        here.gates.closed = {place}
        job = restart(here, environment)
        await here.gates.reached(place)
        assert here.service.slots_held == 1
        with pytest.raises(MaxEnvironments):
            await here.created()
        here.gates.open(place)
        await job.result()


async def test_two_restarts_at_once_are_one(here: World) -> None:
    environment = await here.created()
    first = here.host.guests[environment.id]
    here.gates.closed.add("create")
    jobs = [restart(here, environment) for _ in range(3)]
    await here.gates.reached("create")
    here.gates.open("create")
    results = [await job.result() for job in jobs]
    second = here.host.guests[environment.id]
    assert {result.environment.machine for result in results} == {second.machine}
    assert (first.ends, second.ends) == ([5.0], [])
    await restarting(here, environment)
    assert second.ends == [5.0]


async def test_a_cancelled_restart_finishes(here: World) -> None:
    environment = await here.created()
    here.gates.closed.add("end")
    job = restart(here, environment)
    await here.gates.reached("end")
    job.cancel()
    here.gates.open("end")
    await job.wait()
    await settle()
    assert here.get(environment.id).state is State.RUNNING
    await use(here, environment)


@pytest.mark.parametrize("error", [BootFailed("It panicked."), Broken("a bug")])
async def test_a_machine_that_does_not_boot_again_is_an_error_with_the_cause(
    here: World, error: Exception
) -> None:
    environment, jobs = await here.created(), here.jobs()
    job = await start(jobs, environment.id)
    first = here.host.guests[environment.id]
    here.host.create_error = error
    with pytest.raises(type(error)):
        await restarting(here, environment)
    now = here.get(environment.id)
    assert (now.state, now.machine, first.freed) == (State.ERROR, None, 1)
    assert now.error is not None
    assert now.error.startswith("Restart failed: ")
    assert ("a bug" in now.error) is False
    assert here.store.records[environment.id] == now
    await settle()
    assert job.view().state is JobState.LOST
    with pytest.raises(NotRunning, match="Restart failed"):
        await restarting(here, environment)
    here.host.create_error = None
    await here.destroy(environment.id).result()


async def test_a_machine_that_does_not_die_is_an_error_that_is_tried_again(here: World) -> None:
    environment = await here.created()
    first = here.host.guests[environment.id]
    first.end_error = TimedOut("It does not die.")
    first.destroy_error = TimedOut("It does not die.")
    with pytest.raises(TimedOut):
        await restarting(here, environment)
    now = here.get(environment.id)
    assert (now.state, now.machine) == (State.ERROR, first.machine)
    first.destroy_error = None
    assert await here.service.retire(environment.id) is State.DESTROYED


async def test_a_record_that_cannot_be_saved_does_not_undo_a_restart(here: World) -> None:
    environment = await here.created()
    here.store.broken = {State.RUNNING}
    assert (await restarting(here, environment)).environment.state is State.RUNNING
    here.store.broken = set()


async def test_a_full_disk_keeps_the_machine(here: World) -> None:
    environment = await here.created()
    guest = here.host.guests[environment.id]
    here.host.disk_error = DiskFull("no room")
    with pytest.raises(DiskFull):
        await restarting(here, environment)
    here.host.disk_error = None
    guest.stall(DiskFull("a write was refused"))
    with pytest.raises(DiskFull, match="a write was refused"):
        await restarting(here, environment)
    guest.stall(None)
    assert guest.ends == []
    await use(here, environment)


async def test_an_environment_paused_in_memory_is_restarted(here: World) -> None:
    """Its machine may be the broken one, so it is not resumed first."""
    environment = await here.created()
    await paused(here, environment, to_disk=False)
    first = here.host.guests[environment.id]
    first.freeze_error = GuestLost("It cannot be resumed.")
    assert (await restarting(here, environment)).environment.state is State.RUNNING
    assert first.obeyed == ["pause"]
    await use(here, environment)


async def test_an_environment_on_the_disk_is_resumed_and_restarted(here: World) -> None:
    environment = await here.created()
    await paused(here, environment)
    assert (await restarting(here, environment)).environment.state is State.RUNNING
    assert here.get(environment.id).paused_until is None
    await paused(here, environment)
    await here.created()
    with pytest.raises(MaxEnvironments):
        await restarting(here, environment)
    assert here.get(environment.id).is_on_disk


async def test_calls_in_progress_do_not_keep_a_machine_from_a_restart(here: World) -> None:
    """They may wait for a machine that never answers."""
    environment = await here.created()
    async with here.service.using(environment.id, owner=OWNER) as (_, guest):
        await restarting(here, environment)
        assert here.get(environment.id).active_calls == 1
        assert here.host.guests[environment.id] is not guest
    assert here.get(environment.id).active_calls == 0


async def test_the_environments_of_others_cannot_be_restarted(here: World) -> None:
    environment = await here.created()
    with pytest.raises(NotFound):
        await Restarts(here.service).restart(environment.id, owner="bob")
    assert here.host.guests[environment.id].ends == []


async def test_an_owner_has_two_restarts_at_once_and_others_do_not_wait() -> None:
    """The host boots few machines at once: an owner who restarts in a loop takes only two turns."""
    async with world(capacity=5) as here:
        own = [await here.created() for _ in range(3)]
        other = await here.created(owner="bob")
        restarts = Restarts(here.service)
        here.gates.closed.add("create")
        jobs = [here.start(restarts.restart(one.id, owner=OWNER)) for one in own]
        await settle()
        assert len(here.gates.parked) == 2
        assert here.get(own[2].id).state is State.RUNNING
        bobs = here.start(restarts.restart(other.id, owner="bob"))
        await settle()
        assert [waiting.environment for waiting in here.gates.parked][-1] == other.id
        here.gates.open("create")
        for job in (*jobs, bobs):
            assert (await job.result()).environment.state is State.RUNNING
        assert here.service.slots_held == 4


async def test_a_restart_that_waits_for_its_turn_can_be_given_up() -> None:
    async with world(capacity=3) as here:
        own = [await here.created() for _ in range(3)]
        restarts = Restarts(here.service)
        here.gates.closed.add("end")
        jobs = [here.start(restarts.restart(one.id, owner=OWNER)) for one in own]
        await settle()
        jobs[2].cancel()
        await jobs[2].wait()
        here.gates.open("end")
        for job in jobs[:2]:
            await job.result()
        assert here.host.guests[own[2].id].ends == []


async def test_a_server_that_dies_in_the_middle_leaves_nothing(here: World) -> None:
    """Its record is of the machine before: the next start removes what is left, as elsewhere."""
    environment = await here.created()
    here.gates.closed.add("create")
    job = restart(here, environment)
    await here.gates.reached("create")
    assert here.store.records[environment.id].state is State.RUNNING
    assert not await here.host.recover(environment)
    here.gates.open("create")
    await job.result()
