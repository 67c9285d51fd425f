# SPDX-License-Identifier: Apache-2.0
"""The life of one environment: calls that begin and end, and machines that die."""

import pytest
from tests.service.slots import assert_free
from tests.service.world import OWNER, Broken, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import (
    GuestLost,
    GuestMisbehaves,
    MaxEnvironments,
    NotFound,
    NotRunning,
    WaggleError,
)

pytestmark = pytest.mark.anyio


# Calls


async def test_a_call_that_outlives_its_environment_leaves_nothing() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            await here.service.destroy(environment.id, owner=OWNER)
        assert here.service.all() == []
        with pytest.raises(NotFound):
            here.get(environment.id)


async def test_a_call_counts_as_active_until_it_ends_or_fails() -> None:
    async with world() as here:
        environment = await here.created()

        async def call() -> None:
            async with here.service.using(environment.id, owner=OWNER) as (used, guest):
                assert used.active_calls == here.get(environment.id).active_calls == 1
                assert guest is here.host.only
                here.clock.advance(minutes=5)
                raise Broken

        with pytest.raises(Broken):
            await call()
        after = here.get(environment.id)
        assert (after.active_calls, after.last_used_at) == (0, here.clock.now)


async def test_concurrent_calls_are_counted_separately() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            async with here.service.using(environment.id, owner=OWNER):
                assert here.get(environment.id).active_calls == 2
            assert here.get(environment.id).active_calls == 1
        assert here.get(environment.id).active_calls == 0


# Death


async def test_a_dead_machine_is_freed_and_its_cause_is_shown() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        here.host.only.die("out of memory")
        await settle()
        failed = here.get(environment.id)
        assert (failed.state, failed.error) == (State.ERROR, "The machine died: out of memory")
        assert (failed.machine, failed.ssh_port) == (None, None)
        assert here.host.only.freed == 1
        assert here.store.records[environment.id] == failed
        await here.created()  # the dead one does not count
        assert (await here.service.destroy(environment.id, owner=OWNER)).error == failed.error


async def test_a_dead_machine_counts_until_it_is_freed() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        here.host.only.die()
        await here.gates.reached("destroy")
        with pytest.raises(MaxEnvironments):
            await here.created()
        with pytest.raises(NotRunning, match="killed by signal 9"):
            async with here.service.using(environment.id, owner=OWNER):
                pytest.fail("a dead environment was used")
        here.gates.open_all()
        await settle()
        await here.created()


async def test_a_call_reports_its_own_error_when_its_machine_dies() -> None:
    async with world() as here:
        environment = await here.created()

        async def call() -> None:
            async with here.service.using(environment.id, owner=OWNER):
                here.host.only.die()
                await settle()
                raise GuestLost("The connection was lost.")

        with pytest.raises(GuestLost):
            await call()
        failed = here.get(environment.id)
        assert (failed.state, failed.active_calls) == (State.ERROR, 0)


async def test_a_destroy_during_a_death_waits_for_the_watcher_and_frees_once() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        here.host.only.die()
        await here.gates.reached("destroy")
        destroying = here.destroy(environment.id)
        await settle()
        here.gates.open_all()
        assert (await destroying.result()).state is State.DESTROYED
        assert here.host.only.destroys == 1
        assert here.store.states(environment.id)[-1] is State.DESTROYED


async def test_a_machine_that_dies_during_a_destroy_is_no_error() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        destroying = here.destroy(environment.id)
        await here.gates.reached("destroy")
        here.host.only.die()
        await settle()
        here.gates.open_all()
        assert (await destroying.result()).error is None
        assert here.host.only.destroys == 1


async def test_a_dead_machine_that_cannot_be_freed_can_be_retried_at_once() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        guest = here.host.only
        guest.destroy_error = Broken("directory not empty")
        guest.die("out of memory")
        await settle()
        failed = here.get(environment.id)
        assert (failed.state, failed.error) == (State.ERROR, "The machine died: out of memory")
        assert here.store.records[environment.id].state is State.ERROR
        with pytest.raises(Broken):
            await here.service.retire(environment.id)
        guest.destroy_error = None
        assert await here.service.retire(environment.id)
        await assert_free(here, 1)


async def test_a_guest_that_cannot_be_watched_counts_as_dead() -> None:
    async with world() as here:
        environment = await here.created()
        here.host.only.watch_error = WaggleError("pidfd was closed")
        here.host.only.die()
        await settle()
        failed = here.get(environment.id)
        assert failed.state is State.ERROR
        assert failed.error is not None
        assert "pidfd was closed" in failed.error
        assert here.host.only.freed == 1


async def test_a_store_failure_when_a_machine_dies_affects_no_other_environment() -> None:
    async with world() as here:
        here.store.broken = {State.ERROR}
        environment, other = await here.created(), await here.created()
        here.host.guests[environment.id].die()
        await settle()
        assert here.get(environment.id).state is State.ERROR
        assert here.get(other.id).state is State.RUNNING


async def test_a_misbehaving_guest_shows_a_notice_until_it_is_destroyed() -> None:
    """The list of environments shows the notice too, so that a client sees which one to destroy."""
    async with world() as here:
        environment = await here.created()
        guest = here.host.only
        guest.misbehave(GuestMisbehaves("Its SSH server floods."))
        for _ in range(2):
            notice = here.get(environment.id).notice or ""
            assert notice.startswith("Its SSH server floods. ")
            assert "Destroy it" in notice
            async with here.service.using(environment.id, owner=OWNER):
                pass  # a call clears other notices
            guest.stall(None)
        await here.destroy(environment.id).result()
        guest.misbehave(GuestMisbehaves("Its last words."))
        assert here.service.all() == []
