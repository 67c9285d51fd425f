# SPDX-License-Identifier: Apache-2.0
"""What comes in the middle of a restart: ends overtake it, the rest waits for it or is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest
from tests.service.lasting import start
from tests.service.pausing import PAUSING, paused, reaper, use
from tests.service.snapshotting import snapshots
from tests.service.world import IDLE, OWNER, Job, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import BootFailed, GuestLost, NotFound, NotRunning, TimedOut
from waggle.domain.programs.job import JobState
from waggle.service.environments.creating import CopyRequest
from waggle.service.environments.restarting import Restarted
from waggle.service.environments.restarts import Restarts

pytestmark = pytest.mark.anyio
PLACES = ["end", "create"]
"""Where a restart may be: its old machine ends, or its new one boots."""


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world(pausing=PAUSING, capacity=1) as made:
        yield made


async def restarting(here: World, environment: Environment, place: str) -> Job[Restarted]:
    """Return a restart that waits at a place, which stays closed."""
    here.gates.closed.add(place)
    job = here.start(Restarts(here.service).restart(environment.id, owner=OWNER))
    await here.gates.reached(place)
    return job


def destroy(here: World, environment: Environment, grace: float) -> Job[Environment]:
    return here.start(here.service.destroy(environment.id, owner=OWNER, grace=grace))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("grace", [0.0, 30.0])
async def test_a_destroy_does_not_wait_for_a_restart(here: World, place: str, grace: float) -> None:
    environment, jobs = await here.created(), here.jobs()
    program = await start(jobs, environment.id)
    restart = await restarting(here, environment, place)
    call = here.start(use(here, environment))
    await settle()
    ended = await destroy(here, environment, grace).result()
    assert ended.state is State.DESTROYED
    assert here.gates.parked == []
    assert here.host.machines == 0
    with pytest.raises(NotFound, match="was destroyed before its restart"):
        await restart.result()
    with pytest.raises(NotRunning, match="is destroyed"):
        await call.result()
    await settle()
    assert program.view().state is JobState.LOST
    assert here.store.states(environment.id)[-1] is State.DESTROYED
    assert State.ERROR not in here.store.states(environment.id)
    here.gates.closed.clear()
    await here.created()  # in the only slot


@pytest.mark.parametrize("place", PLACES)
async def test_a_destroy_that_finds_a_machine_which_does_not_die_says_so(
    here: World, place: str
) -> None:
    environment = await here.created()
    guest = here.host.guests[environment.id]
    guest.destroy_error = TimedOut("It does not die.")
    restart = await restarting(here, environment, place)
    with pytest.raises(TimedOut):
        await destroy(here, environment, 0).result()
    await restart.wait()
    now = here.get(environment.id)
    assert (now.state, now.error) == (State.ERROR, "Destroy failed: It does not die.")
    guest.destroy_error = None
    assert await here.service.retire(environment.id) is State.DESTROYED


async def test_a_destroy_at_once_cuts_short_the_time_that_another_gives_programs(
    here: World,
) -> None:
    environment = await here.created()
    guest = here.host.guests[environment.id]
    here.gates.closed.add("end")
    patient: list[Job[Environment]] = []
    for _ in range(2):
        patient.append(destroy(here, environment, 30))
        await settle()
    assert not any(call.is_done for call in patient)
    assert (await destroy(here, environment, 0).result()).state is State.DESTROYED
    assert guest.ends == [0.0]
    for call in patient:
        assert (await call.result()).state is State.DESTROYED


async def test_no_restart_begins_before_a_destroy_that_waits(here: World) -> None:
    environment = await here.created()
    guest = here.host.guests[environment.id]
    here.gates.closed.add("save running")
    extend = here.start(here.service.extend(environment.id, 5, owner=OWNER))
    await here.gates.reached("save running")
    restart = here.start(Restarts(here.service).restart(environment.id, owner=OWNER))
    await settle()
    end = destroy(here, environment, 0)
    await settle()
    here.gates.open("save running")
    await extend.result()
    assert (await end.result()).state is State.DESTROYED
    with pytest.raises(NotFound, match="was destroyed before its restart"):
        await restart.result()
    assert guest.ends == []


@pytest.mark.parametrize("place", PLACES)
async def test_the_end_of_the_server_does_not_wait_for_a_restart(here: World, place: str) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, place)
    await here.service.aclose()
    assert here.service.all() == []
    assert here.host.machines == 0
    with pytest.raises(NotFound):
        await restart.result()


@pytest.mark.parametrize("place", PLACES)
async def test_the_reaper_leaves_a_restart_alone_however_long_it_takes(
    here: World, place: str
) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, place)
    here.clock.advance(seconds=IDLE.total_seconds() * 100)
    assert await reaper(here).sweep() == []
    assert await here.service.retire(environment.id) is None
    here.gates.open(place)
    await restart.result()
    assert await reaper(here).sweep() == []  # its idle time began anew
    here.clock.advance(seconds=IDLE.total_seconds())
    assert await reaper(here).sweep() == [environment.id]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_pause_comes_after_a_restart(here: World, place: str, to_disk: bool) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, place)
    pause = here.start(paused(here, environment, to_disk=to_disk))
    await settle()
    assert not pause.is_done
    here.gates.open(place)
    assert (await restart.result()).environment.state is State.RUNNING
    assert (await pause.result()).is_on_disk is to_disk
    await use(here, environment)


@pytest.mark.parametrize("place", PLACES)
async def test_copies_are_made_of_the_restarted_machine(place: str) -> None:
    async with snapshots() as around:
        here = around.world
        environment = await here.created()
        here.host.guests[environment.id].freeze_error = GuestLost("It is the broken one.")
        restart = await restarting(here, environment, place)
        take = here.start(around.service.take(environment.id, owner=OWNER))
        fork = here.start(around.service.fork(environment.id, 1, owner=OWNER))
        await settle()
        assert not take.is_done
        assert not fork.is_done
        here.gates.open(place)
        await restart.result()
        (made,) = await fork.result()
        kept = await around.service.create((await take.result()).id, CopyRequest(), owner=OWNER)
        assert [made.state, kept.state] == [State.RUNNING] * 2


async def test_what_waits_for_a_restart_that_fails_gets_its_cause(here: World) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, "create")
    here.host.create_error = BootFailed("It panicked.")
    again = here.start(Restarts(here.service).restart(environment.id, owner=OWNER))
    waiting = [
        here.start(use(here, environment)),
        here.start(paused(here, environment)),
        again,
    ]
    await settle()
    here.gates.open("create")
    with pytest.raises(BootFailed):
        await restart.result()
    for call in waiting:
        with pytest.raises(NotRunning, match=r"Restart failed: It panicked\."):
            await call.result()
    here.host.create_error = None


async def test_a_cancelled_destroy_still_ends_the_restart(here: World) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, "create")
    with anyio.CancelScope() as gone:
        gone.cancel()
        await here.service.destroy(environment.id, owner=OWNER)
    await restart.wait()
    assert here.service.all() == []


async def test_a_call_that_waits_for_a_restart_can_be_given_up(here: World) -> None:
    environment = await here.created()
    restart = await restarting(here, environment, "create")
    call = here.start(use(here, environment))
    await settle()
    call.cancel()
    await call.wait()
    assert call.was_cancelled
    here.gates.open("create")
    assert (await restart.result()).environment.active_calls == 0
