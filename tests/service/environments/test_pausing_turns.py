# SPDX-License-Identifier: Apache-2.0
"""An environment that waits for its turn to be frozen is used or destroyed meanwhile."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from tests.service.pausing import PAUSING, paused, reaper, use
from tests.service.world import IDLE, OWNER, Broken, Job, World, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import Busy, NotRunning
from waggle.domain.host import NoTurn
from waggle.service.environments.pausing import AT_ONCE

pytestmark = pytest.mark.anyio
LATE = NoTurn("The server freezes other machines.")


async def waiting(here: World, environment: Environment) -> Job[Environment]:
    """Pause an environment to disk, and return once that waits for its turn."""
    here.gates.closed = {"turn"}
    pausing = here.start(paused(here, environment))
    await here.gates.reached("turn")
    return pausing


@pytest.mark.parametrize("in_memory", [False, True])
async def test_calls_use_an_environment_whose_pause_waits_for_its_turn(in_memory: bool) -> None:
    async with world() as here:
        environment = await here.created()
        if in_memory:
            await paused(here, environment, to_disk=False)
        pausing = await waiting(here, environment)
        before = State.PAUSED if in_memory else State.RUNNING
        assert here.get(environment.id).state is before
        await use(here, environment)
        assert here.get(environment.id).state is State.RUNNING
        here.gates.open_all()
        assert (await pausing.result()).is_on_disk


async def test_who_pauses_an_environment_that_has_no_turn_for_long_hears_of_it() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["turn"] = LATE
        with pytest.raises(Busy, match="freezes other machines"):
            await paused(here, environment)
        assert here.get(environment.id).state is State.RUNNING
        assert here.host.only.obeyed == []


async def test_a_busy_environment_does_not_wait_for_a_turn() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"turn"}
        async with here.service.using(environment.id, owner=OWNER):
            with pytest.raises(Busy, match="1 calls in progress"):
                await paused(here, environment)


async def test_an_environment_that_became_busy_meanwhile_is_not_paused() -> None:
    async with world() as here:
        environment = await here.created()
        pausing = await waiting(here, environment)
        async with here.service.using(environment.id, owner=OWNER):
            here.gates.open_all()
            with pytest.raises(Busy, match="1 calls in progress"):
                await pausing.result()
            assert here.get(environment.id).state is State.RUNNING


async def test_a_pause_that_waits_for_its_turn_can_be_cancelled() -> None:
    async with world() as here:
        environment = await here.created()
        pausing = await waiting(here, environment)
        pausing.cancel()
        await pausing.wait()
        assert pausing.was_cancelled
        assert here.get(environment.id).state is State.RUNNING
        assert here.host.only.obeyed == []


async def test_an_environment_that_waits_for_its_turn_is_destroyed_at_once() -> None:
    async with world() as here:
        environment = await here.created()
        pausing = await waiting(here, environment)
        assert (await here.destroy(environment.id).result()).state is State.DESTROYED
        here.gates.open_all()
        with pytest.raises(NotRunning, match="destroyed"):
            await pausing.result()


async def test_an_idle_environment_that_is_used_before_its_turn_is_not_paused() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.closed = {"turn"}
        sweeping = here.start(reaper(here).sweep())
        await here.gates.reached("turn")
        await use(here, environment)
        here.gates.open_all()
        assert await sweeping.result() == []
        assert here.get(environment.id).state is State.RUNNING
        assert here.host.only.obeyed == []


async def test_an_idle_environment_without_a_turn_is_paused_in_memory() -> None:
    async with world(pausing=PAUSING) as here:
        environment = await here.created()
        here.clock.now += IDLE
        here.gates.errors["turn"] = LATE
        assert await reaper(here).sweep() == []
        kept = here.get(environment.id)
        assert (kept.state, kept.is_on_disk) == (State.PAUSED, False)
        assert "freezes other machines" in str(kept.notice)
        assert here.host.only.obeyed == ["pause"]


async def test_idle_environments_of_one_owner_leave_a_turn_to_those_of_others() -> None:
    async with world(pausing=replace(PAUSING, max_on_disk=9), capacity=AT_ONCE + 2) as here:
        own = [await here.created() for _ in range(AT_ONCE + 1)]
        other = await here.created(owner="bob")
        here.clock.now += IDLE
        here.gates.closed = {"turn"}
        sweeping = here.start(reaper(here).sweep())
        await settle()
        assert {waiting.environment for waiting in here.gates.parked} == {own[0].id, other.id}
        here.gates.open_all()
        assert {*await sweeping.result()} == {other.id, *(one.id for one in own)}


async def test_two_pauses_of_one_environment_share_the_result() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"turn"}
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(paused, here, environment)
            await settle()
            here.gates.open_all()
        assert here.get(environment.id).is_on_disk
        assert here.host.only.obeyed == ["pause_to_disk"]


async def test_a_turn_that_fails_leaves_the_environment_running() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["turn"] = Broken("no")
        with pytest.raises(Broken):
            await paused(here, environment)
        assert here.get(environment.id).state is State.RUNNING
