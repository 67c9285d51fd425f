# SPDX-License-Identifier: Apache-2.0
"""One environment's life: what happens when two things happen at once, and when they fail."""

from collections.abc import MutableMapping

import anyio
import pytest
from tests.service.world import LONG, OWNER, Broken, World, build, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import (
    BootFailed,
    GuestLost,
    MaxEnvironments,
    NotFound,
    NotRunning,
    WaggleError,
)

pytestmark = pytest.mark.anyio


class Torn(BaseException):
    """Stands for a cancellation that no shield holds back."""


async def assert_free(here: World, slots: int) -> None:
    """Exactly `slots` more environments fit."""
    for _ in range(slots):
        await here.created()
    with pytest.raises(MaxEnvironments):
        await here.created()


async def test_a_booted_environment_shows_what_it_runs_on() -> None:
    async with world() as here:
        environment = await here.created()
        guest = here.host.only
        assert environment.state is State.RUNNING
        assert (environment.ssh_port, environment.machine) == (guest.ssh_port, guest.machine)
        assert environment.booted_from == {"image": "sha256:fake"}
        assert here.store.records[environment.id] == environment


# Creates that fail


async def test_a_failed_boot_frees_the_slot_and_leaves_a_record_of_why() -> None:
    async with world() as here:
        here.host.create_error = BootFailed("The kernel panicked.")
        with pytest.raises(BootFailed):
            await here.created()
        assert here.service.all() == []
        (record,) = here.store.records.values()
        assert record.state is State.DESTROYED
        assert record.error == "Create failed: The kernel panicked."
        here.host.create_error = None
        await assert_free(here, 2)


async def test_a_failure_inside_waggle_is_recorded_without_its_text() -> None:
    async with world() as here:
        here.host.create_error = Broken("/root/secret is missing")
        with pytest.raises(Broken):
            await here.created()
        (record,) = here.store.records.values()
        assert record.error == "Create failed: internal error (Broken)"


@pytest.mark.parametrize("broken", [State.CREATING, State.RUNNING])
async def test_a_store_that_fails_fails_the_create_and_frees_everything(broken: State) -> None:
    async with world() as here:
        here.store.broken = {broken}
        with pytest.raises(Broken):
            await here.created()
        assert here.host.machines == 0
        assert here.service.all() == []
        here.store.broken = set()
        await assert_free(here, 2)


async def test_a_store_that_is_gone_altogether_still_frees_the_slot() -> None:
    async with world() as here:
        here.store.broken = set(State)
        for _ in range(3):  # more than there are slots
            with pytest.raises(Broken):
                await here.created()
        assert here.host.machines == 0


@pytest.mark.parametrize("place", ["save creating", "create", "save running"])
async def test_a_create_cancelled_anywhere_leaves_nothing(place: str) -> None:
    async with world() as here:
        here.gates.closed = {place}
        creating = here.create()
        await here.gates.reached(place)
        assert here.states() == [State.CREATING]
        creating.cancel()
        await creating.wait()
        assert creating.was_cancelled
        assert here.host.machines == 0
        assert here.service.all() == []
        (record,) = here.store.records.values()
        assert (record.state, record.error) == (State.DESTROYED, "Create failed: cancelled")
        here.gates.open_all()
        await assert_free(here, 2)


async def test_a_cancelled_create_holds_its_slot_until_its_machine_is_gone() -> None:
    async with world(capacity=1) as here:
        here.gates.closed = {"save running", "destroy"}
        creating = here.create()
        await here.gates.reached("save running")
        creating.cancel()
        await here.gates.reached("destroy")
        with pytest.raises(MaxEnvironments):
            await here.created()
        assert here.states() == [State.DESTROYING]
        here.gates.open_all()
        await creating.wait()
        await assert_free(here, 1)


async def test_a_machine_that_a_failed_create_cannot_free_stays_and_counts() -> None:
    async with world(capacity=1) as here:
        here.gates.closed = {"save running"}
        creating = here.create()
        await here.gates.reached("save running")
        guest = here.host.only
        guest.destroy_error = Broken("busy")
        creating.cancel()
        await creating.wait()
        assert creating.was_cancelled, "the first failure is the one to tell"
        (environment,) = here.service.all()
        assert environment.state is State.ERROR
        assert environment.error == "Destroy failed: internal error (Broken)"
        with pytest.raises(MaxEnvironments):
            await here.created()
        guest.destroy_error = None
        assert await here.service.destroy_expired(environment.id)
        assert guest.freed == 1


async def test_a_watcher_that_cannot_be_started_fails_the_create() -> None:
    with anyio.fail_after(LONG):
        tasks = anyio.create_task_group()
        here = build(tasks)
        async with tasks:
            pass  # the group ends: the server is going down
        with pytest.raises(RuntimeError):
            await here.created()
        await here.close()


# Destroy against create


@pytest.mark.parametrize("place", ["save creating", "create", "save running"])
async def test_destroy_cancels_a_create_wherever_it_is(place: str) -> None:
    async with world() as here:
        here.gates.closed = {place}
        creating = here.create()
        environment_id = (await here.gates.reached(place)).environment
        destroyed = await here.service.destroy(environment_id, owner=OWNER)
        assert destroyed.state is State.DESTROYED
        with pytest.raises(NotFound, match="destroyed while it was created"):
            await creating.result()
        assert here.host.machines == 0
        assert here.store.records[environment_id].state is State.DESTROYED


async def test_destroy_waits_for_a_create_that_is_deaf_to_cancellation() -> None:
    async with world() as here:
        here.host.late = True
        here.gates.closed = {"create"}
        creating = here.create()
        environment_id = (await here.gates.reached("create")).environment
        destroying = here.destroy(environment_id)
        await settle()
        assert not destroying.is_done
        here.gates.open("create")
        assert (await destroying.result()).state is State.DESTROYED
        with pytest.raises(NotFound):
            await creating.result()
        assert here.store.states(environment_id)[-1] is State.DESTROYED


async def test_a_slot_stays_taken_while_the_host_undoes_a_create() -> None:
    async with world(capacity=1) as here:
        here.gates.closed = {"create", "undo"}
        here.create()
        environment_id = (await here.gates.reached("create")).environment
        destroying = here.destroy(environment_id)
        await here.gates.reached("undo")
        with pytest.raises(MaxEnvironments):
            await here.created()
        here.gates.open_all()
        assert (await destroying.result()).state is State.DESTROYED
        await here.created()


async def test_a_create_that_ends_in_the_very_moment_of_its_cancellation_is_undone() -> None:
    async with world() as here:
        here.gates.closed = {"save running"}
        creating = here.create()
        environment_id = (await here.gates.reached("save running")).environment
        destroying = here.destroy(environment_id)
        here.gates.open("save running")  # it is saved when the destroy begins, but does not know
        assert (await destroying.result()).state is State.DESTROYED
        with pytest.raises(NotFound, match="destroyed while it was created"):
            await creating.result()
        assert here.host.only.freed == 1
        assert here.store.states(environment_id)[-1] is State.DESTROYED


async def test_destroy_during_the_undoing_of_a_create_waits_for_it() -> None:
    async with world() as here:
        here.gates.closed = {"save running", "destroy"}
        creating = here.create()
        environment_id = (await here.gates.reached("save running")).environment
        creating.cancel()
        await here.gates.reached("destroy")
        destroying = here.destroy(environment_id)
        await settle()
        assert not destroying.is_done
        here.gates.open_all()
        assert (await destroying.result()).state is State.DESTROYED
        assert here.host.only.destroys == 1


async def test_an_environment_is_not_usable_before_it_is_on_record_as_running() -> None:
    async with world() as here:
        here.gates.closed = {"save running"}
        creating = here.create()
        environment_id = (await here.gates.reached("save running")).environment
        with pytest.raises(NotRunning, match="is creating"):
            async with here.service.using(environment_id, owner=OWNER):
                pytest.fail("a creating environment was used")
        here.gates.open_all()
        await creating.result()


# Destroy


async def test_two_destroys_at_once_destroy_once_and_both_succeed() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        first, second = here.destroy(environment.id), here.destroy(environment.id)
        await here.gates.reached("destroy")
        await settle()
        assert here.states() == [State.DESTROYING]
        here.gates.open_all()
        assert {(await job.result()).state for job in (first, second)} == {State.DESTROYED}
        assert here.host.only.destroys == 1


async def test_a_destroy_while_the_end_is_being_recorded_succeeds() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"save destroyed"}
        first = here.destroy(environment.id)
        await here.gates.reached("save destroyed")
        second = here.destroy(environment.id)
        await settle()
        here.gates.open_all()
        assert {(await job.result()).state for job in (first, second)} == {State.DESTROYED}


async def test_a_cancelled_destroy_is_finished() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        destroying = here.destroy(environment.id)
        await here.gates.reached("destroy")
        destroying.cancel()
        await settle()
        assert not destroying.is_done
        here.gates.open_all()
        await destroying.wait()
        assert here.service.all() == []
        assert here.store.records[environment.id].state is State.DESTROYED


async def test_a_failed_destroy_keeps_the_environment_in_error_with_its_slot() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        guest = here.host.only
        guest.destroy_error = GuestLost("The process is stuck.")
        with pytest.raises(GuestLost):
            await here.service.destroy(environment.id, owner=OWNER)
        failed = here.get(environment.id)
        assert failed.state is State.ERROR
        assert failed.error == "Destroy failed: The process is stuck."
        assert failed.machine == guest.machine
        with pytest.raises(MaxEnvironments):
            await here.created()
        with pytest.raises(NotRunning, match="The process is stuck"):
            async with here.service.using(environment.id, owner=OWNER):
                pytest.fail("a failed environment was used")
        guest.destroy_error = None
        assert (await here.service.destroy(environment.id, owner=OWNER)).state is State.DESTROYED
        await assert_free(here, 1)


async def test_what_a_client_may_not_read_is_in_the_log(
    logged: list[MutableMapping[str, object]],
) -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["destroy"] = Broken("/root/secret is busy")
        with pytest.raises(Broken):
            await here.service.destroy(environment.id, owner=OWNER)
        assert "secret" not in str(here.get(environment.id))
        (entry,) = [each for each in logged if each["event"] == "environment_destroy_failed"]
        assert entry["environment"] == environment.id
        assert entry["exc_info"]
        here.gates.errors.clear()


async def test_a_destroy_torn_apart_by_a_task_cancellation_can_be_repeated() -> None:
    """Cancelling an asyncio task goes through an anyio shield."""
    async with world(capacity=1) as here:
        environment = await here.created()
        here.gates.errors["destroy"] = Torn("torn")
        with pytest.raises(Torn):
            await here.service.destroy(environment.id, owner=OWNER)
        assert here.get(environment.id).state is State.ERROR
        assert here.get(environment.id).error == "Destroy failed: cancelled"
        here.gates.errors.clear()
        assert (await here.service.destroy(environment.id, owner=OWNER)).state is State.DESTROYED


async def test_a_store_that_fails_does_not_bring_back_a_destroyed_machine() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        here.store.broken = {State.DESTROYED}
        assert (await here.service.destroy(environment.id, owner=OWNER)).state is State.DESTROYED
        assert here.service.all() == []
        (unfinished,) = await here.store.unfinished()
        assert unfinished.id == environment.id, "the next start of the server clears it"
        await assert_free(here, 1)


# Calls


async def test_a_call_that_outlives_its_environment_ends_without_a_trace() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            await here.service.destroy(environment.id, owner=OWNER)
        assert here.service.all() == []
        with pytest.raises(NotFound):
            here.get(environment.id)


async def test_a_call_counts_until_its_end_however_it_ends() -> None:
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


async def test_calls_at_once_are_counted_each() -> None:
    async with world() as here:
        environment = await here.created()
        async with here.service.using(environment.id, owner=OWNER):
            async with here.service.using(environment.id, owner=OWNER):
                assert here.get(environment.id).active_calls == 2
            assert here.get(environment.id).active_calls == 1
        assert here.get(environment.id).active_calls == 0


# Death


async def test_a_machine_that_dies_is_freed_and_its_cause_shown() -> None:
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


async def test_a_machine_that_dies_during_a_call_leaves_the_call_to_tell() -> None:
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


async def test_a_destroy_that_meets_a_death_waits_for_the_watcher_and_frees_once() -> None:
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


async def test_a_death_during_a_destroy_is_part_of_it() -> None:
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


async def test_a_dead_machine_that_cannot_be_freed_is_retried_at_once() -> None:
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
            await here.service.destroy_expired(environment.id)
        guest.destroy_error = None
        assert await here.service.destroy_expired(environment.id)
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


async def test_a_store_that_fails_when_a_machine_dies_harms_nobody_else() -> None:
    async with world() as here:
        here.store.broken = {State.ERROR}
        environment, other = await here.created(), await here.created()
        here.host.guests[environment.id].die()
        await settle()
        assert here.get(environment.id).state is State.ERROR
        assert here.get(other.id).state is State.RUNNING
