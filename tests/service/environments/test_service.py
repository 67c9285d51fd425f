# SPDX-License-Identifier: Apache-2.0
"""Environments as a client sees them: presets, ownership, the cap, shutdown and restart."""

from collections.abc import Callable
from datetime import timedelta

import anyio
import pytest
from tests.service.world import IDLE, OWNER, RESOURCES, START, Broken, settle, world

from waggle.domain.environment import Environment, State
from waggle.domain.errors import InvalidArgument, MaxEnvironments, NotFound
from waggle.domain.machine import VmmProcess
from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio

MALLORY = "mallory"
UNKNOWN = "deadbeef-0000-4000-8000-000000000000"


def record(number: int, state: State, error: str | None = None) -> Environment:
    """Return a record that an earlier server left in the store."""
    return Environment(
        id=f"{number:08x}-1111-4000-8000-000000000000",
        name="old",
        runtime=RuntimeName.SHELL,
        image="waggle/shell",
        owner=OWNER,
        resources=RESOURCES,
        network=NO_NETWORK,
        idle_timeout=IDLE,
        created_at=START,
        last_used_at=START,
        state=state,
        ssh_port=10_007,
        machine=VmmProcess(pid=7, started=7, boot_id="before"),
        error=error,
        active_calls=1,
    )


# Create


async def test_a_bare_request_gets_the_presets() -> None:
    async with world() as here:
        environment = await here.created(CreateRequest(RuntimeName.NODE))
        assert environment.name == f"node-{environment.id[:8]}"
        assert environment.image == "waggle/node"
        assert environment.idle_timeout == IDLE
        assert environment.network == PUBLIC_NETWORK
        assert environment.resources == RESOURCES
        assert environment.created_at == START


async def test_a_request_overrides_the_presets() -> None:
    async with world() as here:
        request = CreateRequest(
            RuntimeName.SHELL, name="box", timeout_minutes=5, network=NO_NETWORK
        )
        environment = await here.created(request)
        assert (environment.name, environment.network) == ("box", NO_NETWORK)
        assert environment.idle_timeout == timedelta(minutes=5)


@pytest.mark.parametrize(
    "wanted",
    [
        CreateRequest(RuntimeName.PYTHON, name="a b"),
        CreateRequest(RuntimeName.PYTHON, timeout_minutes=0),
    ],
)
async def test_a_bad_request_takes_no_slot(wanted: CreateRequest) -> None:
    async with world() as here:
        with pytest.raises(InvalidArgument):
            await here.created(wanted)
        assert here.store.history == []
        assert here.service.all() == []


async def test_idle_time_counts_from_the_end_of_the_boot() -> None:
    async with world() as here:
        here.gates.closed = {"create"}
        creating = here.create()
        await here.gates.reached("create")
        here.clock.advance(minutes=3)
        here.gates.open_all()
        environment = await creating.result()
        assert environment.last_used_at == START + timedelta(minutes=3)
        assert environment.created_at == START


async def test_progress_reaches_the_caller_and_its_failure_fails_the_create() -> None:
    async with world() as here:
        seen: list[tuple[float, str]] = []

        async def progress(share: float, message: str) -> None:
            seen.append((share, message))
            if len(seen) > 1:
                raise Broken

        await here.service.create(CreateRequest(RuntimeName.PYTHON), owner=OWNER, progress=progress)
        assert seen == [(1.0, "ready")]
        with pytest.raises(Broken):
            await here.service.create(
                CreateRequest(RuntimeName.PYTHON), owner=OWNER, progress=progress
            )
        assert len(here.service.all()) == 1


# The cap


async def test_the_cap_is_exact_for_concurrent_creates() -> None:
    async with world(capacity=3) as here:
        here.gates.closed = {"create"}
        jobs = [here.create() for _ in range(10)]
        await settle()
        assert len(here.host.booting) == 3
        here.gates.open_all()
        for job in jobs:
            await job.wait()
        errors = [job.error for job in jobs if job.error]
        assert len(errors) == 7
        assert all(isinstance(error, MaxEnvironments) for error in errors)
        assert here.states() == [State.RUNNING] * 3


async def test_creates_boot_in_parallel() -> None:
    async with world(capacity=2) as here:
        here.gates.closed = {"create"}
        jobs = [here.create(), here.create()]
        await settle()
        assert len(here.host.booting) == 2
        here.gates.open_all()
        assert {(await job.result()).state for job in jobs} == {State.RUNNING}


async def test_a_slot_is_free_only_when_the_machine_is_gone() -> None:
    async with world(capacity=1) as here:
        environment = await here.created()
        here.gates.closed = {"destroy"}
        destroying = here.destroy(environment.id)
        await here.gates.reached("destroy")
        with pytest.raises(MaxEnvironments, match="All 1 environments"):
            await here.created()
        here.gates.open_all()
        await destroying.wait()
        await here.created()


async def test_readiness_names_a_shutdown_then_the_cap_then_the_host() -> None:
    async with world(capacity=1) as here:
        assert await here.service.not_ready() is None
        here.host.reason = "QEMU is missing."
        assert await here.service.not_ready() == "QEMU is missing."
        await here.created()
        assert await here.service.not_ready() == "All 1 environments are in use."
        await here.service.aclose()
        assert await here.service.not_ready() == "The server is shutting down."


# Owners and ids


async def test_an_owner_sees_and_touches_only_their_own_environments() -> None:
    async with world() as here:
        mine, theirs = await here.created(), await here.created(owner=MALLORY)
        assert here.service.list(owner=OWNER) == [mine]
        assert here.service.list(owner=MALLORY) == [theirs]
        assert here.service.all() == [mine, theirs]
        with pytest.raises(NotFound):
            here.service.get(theirs.id, owner=OWNER)
        with pytest.raises(NotFound):
            async with here.service.using(theirs.id, owner=OWNER):
                pass
        with pytest.raises(NotFound):
            await here.service.destroy(theirs.id, owner=OWNER)
        assert here.service.get(theirs.id, owner=MALLORY).state is State.RUNNING
        await here.service.destroy(theirs.id, owner=MALLORY)
        with pytest.raises(NotFound):  # also once it is destroyed
            await here.service.destroy(theirs.id, owner=OWNER)


async def test_another_owners_environment_looks_like_an_unknown_one() -> None:
    async with world() as here:
        theirs = await here.created(owner=MALLORY)
        with pytest.raises(NotFound) as foreign:
            here.service.get(theirs.id, owner=OWNER)
        with pytest.raises(NotFound) as unknown:
            here.service.get(UNKNOWN, owner=OWNER)
        assert str(foreign.value).replace(theirs.id, UNKNOWN) == str(unknown.value)


async def test_an_environment_is_found_by_id_name_or_id_prefix() -> None:
    async with world() as here:
        environment = await here.created(CreateRequest(RuntimeName.PYTHON, name="web"))
        for reference in (f" {environment.id.upper()}\n", "web", environment.id[:13]):
            assert here.service.get(reference, owner=OWNER) == environment
            async with here.service.using(reference, owner=OWNER) as (used, _):
                assert used.id == environment.id
            with pytest.raises(NotFound):
                here.service.get(reference, owner="mallory")
        for bad in ("", "../x"):
            with pytest.raises(InvalidArgument):
                here.service.get(bad, owner=OWNER)
            with pytest.raises(InvalidArgument):
                await here.service.destroy(bad, owner=OWNER)
        for unknown in (environment.id + "0", "we", environment.id[:5]):
            with pytest.raises(NotFound):
                await here.service.destroy(unknown, owner=OWNER)
        assert (await here.service.destroy("web", owner=OWNER)).id == environment.id


async def test_an_ambiguous_name_is_refused_with_both_ids() -> None:
    async with world(capacity=3) as here:
        request = CreateRequest(RuntimeName.PYTHON, name="web")
        first, second = await here.created(request), await here.created(request)
        with pytest.raises(InvalidArgument, match=first.id) as refused:
            await here.service.destroy("web", owner=OWNER)
        assert second.id in refused.value.message
        assert here.get(first.id).state is State.RUNNING


async def test_the_list_is_in_creation_order_and_holds_every_state() -> None:
    async with world(capacity=3) as here:
        first, second = await here.created(), await here.created()
        here.host.guests[first.id].die()
        here.gates.closed = {"create"}
        here.create()
        await settle()
        states = [environment.state for environment in here.service.list(owner=OWNER)]
        assert states == [State.ERROR, State.RUNNING, State.CREATING]
        assert here.service.list(owner=OWNER)[1] == second


# Destroy


async def test_destroying_twice_returns_the_same_record() -> None:
    async with world() as here:
        environment = await here.created()
        first = await here.service.destroy(environment.id, owner=OWNER)
        again = await here.service.destroy(environment.id, owner=OWNER)
        assert first == again
        assert (first.state, first.machine, first.ssh_port) == (State.DESTROYED, None, None)
        assert here.host.only.destroys == 1


async def test_destroying_an_unknown_environment_is_an_error() -> None:
    async with world() as here:
        with pytest.raises(NotFound):
            await here.service.destroy(UNKNOWN, owner=OWNER)


# Shutdown


async def test_closing_destroys_everything_in_parallel_and_refuses_creates() -> None:
    async with world(capacity=3) as here:
        await here.created()
        await here.created()
        here.gates.closed = {"create", "destroy"}
        creating = here.create()
        await here.gates.reached("create")
        closing = here.start(here.service.aclose())
        await settle()
        assert [parked.place for parked in here.gates.parked] == ["destroy", "destroy"]
        with pytest.raises(NotFound):  # the create was cancelled, not awaited
            await creating.result()
        with pytest.raises(MaxEnvironments, match="shutting down"):
            await here.created()
        here.gates.open_all()
        await closing.result()
        assert here.service.all() == []


@pytest.mark.parametrize("place", ["save creating", "create", "save running"])
async def test_closing_undoes_a_create_at_any_place(place: str) -> None:
    async with world() as here:
        here.gates.closed = {place}
        creating = here.create()
        await here.gates.reached(place)
        await here.service.aclose()
        with pytest.raises(NotFound):
            await creating.result()
        assert here.host.machines == 0


async def test_closing_continues_past_an_environment_that_cannot_be_destroyed() -> None:
    async with world() as here:
        stuck, other = await here.created(), await here.created()
        here.host.guests[stuck.id].destroy_error = Broken("stuck")
        await here.service.aclose()
        assert [environment.id for environment in here.service.all()] == [stuck.id]
        assert here.host.guests[other.id].freed == 1
        assert [record.id for record in await here.store.unfinished()] == [stuck.id]
        here.host.guests[stuck.id].destroy_error = None
        await here.service.aclose()
        assert here.service.all() == []


async def test_a_cancelled_close_still_destroys_everything() -> None:
    async with world() as here:
        await here.created()
        here.gates.closed = {"destroy"}
        with anyio.CancelScope() as scope:
            scope.cancel()
            here.tasks.start_soon(release_soon, here.gates.open_all)
            await here.service.aclose()
        assert here.service.all() == []


async def release_soon(release: Callable[[], None]) -> None:
    await settle()
    release()


# Restart


async def test_a_restart_clears_every_unfinished_record() -> None:
    async with world() as here:
        old = [record(i, state) for i, state in enumerate(State)]
        here.store.records = {environment.id: environment for environment in old}
        unfinished = [unended.id for unended in old if unended.state is not State.DESTROYED]
        assert await here.service.recover() == len(unfinished)
        assert here.host.discarded == unfinished
        for saved in here.store.records.values():
            assert saved.state is State.DESTROYED
        cleared = here.store.records[unfinished[0]]
        assert cleared.error == "The server was restarted."
        assert (cleared.machine, cleared.ssh_port, cleared.active_calls) == (None, None, 0)
        assert await here.service.recover() == 0


async def test_a_restart_keeps_the_cause_of_an_earlier_failure() -> None:
    async with world() as here:
        old = record(1, State.ERROR, "The machine died: out of memory")
        here.store.records = {old.id: old}
        await here.service.recover()
        assert here.store.records[old.id].error == old.error


async def test_a_record_that_cannot_be_cleared_stays_and_does_not_stop_the_others() -> None:
    async with world() as here:
        stuck, other = record(1, State.RUNNING), record(2, State.RUNNING)
        here.store.records = {stuck.id: stuck, other.id: other}
        here.host.discard_errors = {stuck.id: Broken("the process cannot be killed")}
        assert await here.service.recover() == 1
        assert here.store.records[stuck.id] == stuck
        assert here.store.records[other.id].state is State.DESTROYED


async def test_an_owner_can_destroy_an_environment_cleared_by_a_restart() -> None:
    async with world() as here:
        old = record(1, State.RUNNING)
        here.store.records = {old.id: old}
        await here.service.recover()
        assert (await here.service.destroy(old.id, owner=OWNER)).state is State.DESTROYED
