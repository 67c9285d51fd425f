# SPDX-License-Identifier: Apache-2.0
"""The life of one environment: creates that succeed, fail and are cancelled."""

import anyio
import pytest
from tests.service.slots import assert_free
from tests.service.world import LONG, Broken, build, world

from waggle.domain.environment import State
from waggle.domain.errors import (
    BootFailed,
    MaxEnvironments,
)

pytestmark = pytest.mark.anyio


async def test_a_booted_environment_shows_its_machine_port_and_image() -> None:
    async with world() as here:
        environment = await here.created()
        guest = here.host.only
        assert environment.state is State.RUNNING
        assert (environment.ssh_port, environment.machine) == (guest.ssh_port, guest.machine)
        assert environment.booted_from == {"image": "sha256:fake"}
        assert here.store.records[environment.id] == environment


# Creates that fail


async def test_a_failed_boot_frees_the_slot_and_records_the_cause() -> None:
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


async def test_an_internal_error_is_recorded_without_its_text() -> None:
    async with world() as here:
        here.host.create_error = Broken("/root/secret is missing")
        with pytest.raises(Broken):
            await here.created()
        (record,) = here.store.records.values()
        assert record.error == "Create failed: internal error (Broken)"


@pytest.mark.parametrize("broken", [State.CREATING, State.RUNNING])
async def test_a_store_failure_fails_the_create_and_frees_everything(broken: State) -> None:
    async with world() as here:
        here.store.broken = {broken}
        with pytest.raises(Broken):
            await here.created()
        assert here.host.machines == 0
        assert here.service.all() == []
        here.store.broken = set()
        await assert_free(here, 2)


async def test_a_store_that_always_fails_still_frees_the_slot() -> None:
    async with world() as here:
        here.store.broken = set(State)
        for _ in range(3):  # more than there are slots
            with pytest.raises(Broken):
                await here.created()
        assert here.host.machines == 0


@pytest.mark.parametrize("place", ["save creating", "create", "save running"])
async def test_a_create_cancelled_at_any_place_leaves_nothing(place: str) -> None:
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


async def test_a_machine_that_a_failed_create_cannot_free_stays_and_holds_its_slot() -> None:
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
        assert await here.service.retire(environment.id)
        assert guest.freed == 1


async def test_a_watcher_that_cannot_be_started_fails_the_create() -> None:
    with anyio.fail_after(LONG):
        tasks = anyio.create_task_group()
        here = build(tasks)
        async with tasks:
            pass  # the group ends, as when the server shuts down
        with pytest.raises(RuntimeError):
            await here.created()
        await here.close()
