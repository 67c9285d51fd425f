# SPDX-License-Identifier: Apache-2.0
"""The life of one environment: destroys that run beside creates and each other, or fail."""

from collections.abc import MutableMapping

import pytest
from tests.service.slots import assert_free
from tests.service.world import OWNER, Broken, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import (
    GuestLost,
    MaxEnvironments,
    NotFound,
    NotRunning,
    TimedOut,
)

pytestmark = pytest.mark.anyio


class Torn(BaseException):
    """A cancellation that no shield holds back."""


# Destroy against create


@pytest.mark.parametrize("place", ["save creating", "create", "save running"])
async def test_destroy_cancels_a_create_at_any_place(place: str) -> None:
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


async def test_destroy_waits_for_a_create_that_ignores_cancellation() -> None:
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


async def test_a_create_that_ends_as_it_is_cancelled_is_undone() -> None:
    async with world() as here:
        here.gates.closed = {"save running"}
        creating = here.create()
        environment_id = (await here.gates.reached("save running")).environment
        destroying = here.destroy(environment_id)
        here.gates.open("save running")  # saved as the destroy begins, unknown to the create
        assert (await destroying.result()).state is State.DESTROYED
        with pytest.raises(NotFound, match="destroyed while it was created"):
            await creating.result()
        assert here.host.only.freed == 1
        assert here.store.states(environment_id)[-1] is State.DESTROYED


async def test_destroy_waits_while_a_create_is_being_undone() -> None:
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


async def test_an_environment_is_not_usable_before_it_is_recorded_as_running() -> None:
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


async def test_two_concurrent_destroys_destroy_once_and_both_succeed() -> None:
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


async def test_a_failed_destroy_keeps_the_environment_in_error_and_its_slot() -> None:
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


async def test_details_hidden_from_the_client_are_logged(
    logged: list[MutableMapping[str, object]],
) -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.errors["destroy"] = Broken("/root/hidden is busy")
        with pytest.raises(Broken):
            await here.service.destroy(environment.id, owner=OWNER)
        assert "hidden" not in str(here.get(environment.id))
        (entry,) = [line for line in logged if line["event"] == "environment_destroy_failed"]
        assert entry["environment"] == environment.id
        assert entry["exc_info"]
        here.gates.errors.clear()


async def test_a_destroy_interrupted_by_a_task_cancellation_can_be_repeated() -> None:
    """Cancelling an asyncio task breaks through an anyio shield."""
    async with world(capacity=1) as here:
        environment = await here.created()
        here.gates.errors["destroy"] = Torn("torn")
        with pytest.raises(Torn):
            await here.service.destroy(environment.id, owner=OWNER)
        assert here.get(environment.id).state is State.ERROR
        assert here.get(environment.id).error == "Destroy failed: cancelled"
        here.gates.errors.clear()
        assert (await here.service.destroy(environment.id, owner=OWNER)).state is State.DESTROYED


async def test_a_store_failure_does_not_bring_back_a_destroyed_machine() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        here.store.broken = {State.DESTROYED}
        assert (await here.service.destroy(environment.id, owner=OWNER)).state is State.DESTROYED
        assert here.service.all() == []
        (unfinished,) = await here.store.unfinished()
        assert unfinished.id == environment.id, "the next start of the server clears it"
        await assert_free(here, 1)


async def test_a_machine_that_is_late_to_die_at_the_end_of_the_server_is_ended_again() -> None:
    async with world() as here:
        environment = await here.created()
        here.gates.closed.add("destroy")
        closing = here.start(here.service.aclose())
        first = await here.gates.reached("destroy")
        here.gates.errors["destroy"] = TimedOut("Process 7 did not die within 10 s of SIGKILL.")
        first.go.set()
        again = await here.gates.reached("destroy")
        assert again is not first
        assert here.get(environment.id).state is State.DESTROYING
        del here.gates.errors["destroy"]
        here.gates.open_all()
        await closing.result()
        assert here.service.all() == []
        assert here.host.machines == 0
