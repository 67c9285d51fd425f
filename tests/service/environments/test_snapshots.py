# SPDX-License-Identifier: Apache-2.0
"""Snapshots, forks and rollbacks: ownership, limits, and the state after a failure."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from tests.service.snapshotting import KEEP, snapshots
from tests.service.world import OWNER, settle

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    BootFailed,
    FrozenMachineUnusable,
    InvalidArgument,
    MaxEnvironments,
    NotFound,
    QuotaExceeded,
    SnapshotFailed,
    Unsupported,
)
from waggle.domain.network import NO_NETWORK
from waggle.service.environments.creating import CopyRequest
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.snapshots import MAX_FORKS

pytestmark = pytest.mark.anyio

MALLORY = "mallory"
AS_THERE = CopyRequest()


def ids(environments: list[Environment]) -> list[str]:
    return [environment.id for environment in environments]


async def test_environments_are_created_from_a_kept_snapshot() -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER, name="before")
        assert (kept.name, kept.origin, kept.size) == ("before", origin.id, 1000)
        assert kept.expires_at - kept.created_at == KEEP
        assert here.service.list(owner=OWNER) == [kept]
        assert here.world.get(origin.id).active_calls == 0
        await here.world.destroy(origin.id).result()
        made = await here.service.create(kept.id, CopyRequest("other", 5, NO_NETWORK), owner=OWNER)
        assert (made.name, made.state, made.network) == (
            "other",
            State.RUNNING,
            NO_NETWORK,
        )
        assert made.idle_timeout == timedelta(minutes=5)
        again = await here.service.create(kept.id, AS_THERE, owner=OWNER)
        assert (again.runtime, again.network) == (origin.runtime, origin.network)
        assert len({origin.id, made.id, again.id}) == 3


async def test_another_owner_cannot_see_use_or_delete_a_snapshot() -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        assert here.service.list(owner=MALLORY) == []
        for attempt in (
            here.service.create(kept.id, AS_THERE, owner=MALLORY),
            here.service.roll_back(origin.id, kept.id, owner=MALLORY),
            here.service.delete(kept.id, owner=MALLORY),
            here.service.take(origin.id, owner=MALLORY),
            here.service.fork(origin.id, 1, owner=MALLORY),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert here.service.list(owner=OWNER) == [kept]


async def test_the_number_of_snapshots_of_an_owner_is_limited() -> None:
    async with snapshots(per_owner=1) as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        with pytest.raises(QuotaExceeded, match="alice has 1 of the 1 snapshots"):
            await here.service.take(origin.id, owner=OWNER)
        await here.service.delete(kept.id, owner=OWNER)
        await here.service.take(origin.id, owner=OWNER)


async def test_a_full_disk_is_reported_and_keeps_no_snapshot() -> None:
    async with snapshots(per_owner=1) as here:
        origin = await here.world.created()
        here.shelf.error = OSError(28, "No space left on device")
        with pytest.raises(SnapshotFailed, match="No space left on device"):
            await here.service.take(origin.id, owner=OWNER)
        here.shelf.error = None
        assert here.service.list(owner=OWNER) == []
        await here.service.take(origin.id, owner=OWNER)


async def test_an_unusable_snapshot_is_reported_and_holds_no_slot() -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        here.shelf.unusable = True
        with pytest.raises(FrozenMachineUnusable, match="ram is corrupt"):
            await here.service.create(kept.id, AS_THERE, owner=OWNER)
        with pytest.raises(FrozenMachineUnusable):
            await here.service.roll_back(origin.id, kept.id, owner=OWNER)
        assert ids(here.world.service.all()) == [origin.id]
        assert here.world.get(origin.id).state is State.RUNNING


async def test_a_fork_makes_all_copies_or_none() -> None:
    async with snapshots(capacity=4) as here:
        origin = await here.world.created()
        forks = await here.service.fork(origin.id, 2, owner=OWNER)
        assert [fork.state for fork in forks] == [State.RUNNING] * 2
        assert len({environment.name for environment in (origin, *forks)}) == 3
        with pytest.raises(MaxEnvironments, match="2 more do not fit: 1 of 4 are free"):
            await here.service.fork(origin.id, 2, owner=OWNER)
        here.world.host.create_error = BootFailed("no")
        with pytest.raises(BootFailed):
            await here.service.fork(origin.id, 1, owner=OWNER)
        assert ids(here.world.service.all()) == ids([origin, *forks])
        here.world.host.create_error = None


async def test_a_partly_failed_fork_leaves_nothing() -> None:
    async with snapshots(capacity=4) as here:
        origin = await here.world.created()
        here.world.gates.closed.add("create")
        forking = here.world.start(here.service.fork(origin.id, 2, owner=OWNER))
        first = await here.world.gates.reached("create")
        first.go.set()
        while here.world.host.machines < 3:
            await here.world.gates.reached("create")
        here.world.host.create_error = BootFailed("no")
        here.world.gates.open("create")
        await forking.wait()
        assert isinstance(forking.error, BootFailed)
        assert ids(here.world.service.all()) == [origin.id]
        here.world.host.create_error = None


@pytest.mark.parametrize("count", [0, -1, MAX_FORKS + 1])
async def test_a_bad_number_of_forks_is_refused(count: int) -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        with pytest.raises(InvalidArgument, match="count must be 1 to"):
            await here.service.fork(origin.id, count, owner=OWNER)


async def test_an_environment_rolls_back_only_to_its_own_snapshot() -> None:
    async with snapshots() as here:
        origin, other = await here.world.created(), await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        with pytest.raises(InvalidArgument, match="is not of environment"):
            await here.service.roll_back(other.id, kept.id, owner=OWNER)
        back = await here.service.roll_back(origin.id, kept.id, owner=OWNER)
        assert (back.id, back.state) == (origin.id, State.RUNNING)


async def test_a_snapshot_that_another_hypervisor_froze_does_not_cost_the_environment() -> None:
    """The file of an imported snapshot may say that it is of any environment."""
    async with snapshots() as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        _, frozen = here.shelf.kept[kept.id]
        here.shelf.kept[kept.id] = replace(kept, hypervisor="another"), frozen
        with pytest.raises(FrozenMachineUnusable, match="the environment's hypervisor"):
            await here.service.roll_back(origin.id, kept.id, owner=OWNER)
        assert here.world.service.get(origin.id, owner=OWNER).state is State.RUNNING


async def test_snapshots_expire() -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        kept = await here.service.take(origin.id, owner=OWNER)
        here.world.clock.now = kept.expires_at - timedelta(microseconds=1)
        assert await here.service.expire() == []
        here.world.clock.now = kept.expires_at
        assert await here.service.expire() == [kept.id]
        assert here.service.all() == []


async def test_a_hypervisor_that_cannot_freeze_is_reported() -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        here.world.host.only.freeze_error = Unsupported("It cannot freeze machines.")
        with pytest.raises(Unsupported, match=r"cannot freeze machines.*WAGGLE_HYPERVISOR"):
            await here.service.take(origin.id, owner=OWNER)
        assert here.service.list(owner=OWNER) == []
        assert await here.service.expire() == []


@pytest.mark.parametrize("fork", [False, True])
async def test_a_client_that_reads_no_progress_holds_no_turn(fork: bool) -> None:
    """Others could not freeze theirs."""
    async with snapshots() as here:
        environment = await here.world.created()
        here.world.gates.closed = {"turn"}
        reads = anyio.Event()

        async def progress(_share: float, _message: str) -> None:
            await reads.wait()

        work: Coroutine[object, object, object] = (
            here.service.fork(environment.id, 1, owner=OWNER, progress=progress)
            if fork
            else here.service.take(environment.id, owner=OWNER, progress=progress)
        )
        taking = here.world.start(work)
        await settle()
        assert not here.world.gates.parked
        reads.set()
        await here.world.gates.reached("turn")
        here.world.gates.open_all()
        await taking.result()


@pytest.mark.parametrize("fork", [False, True])
async def test_a_copy_has_the_network_that_was_set_while_it_waited_for_its_turn(fork: bool) -> None:
    async with snapshots() as here:
        origin = await here.world.created()
        assert origin.network != NO_NETWORK
        here.world.gates.closed = {"turn"}
        forking = here.world.start(here.service.fork(origin.id, 1, owner=OWNER)) if fork else None
        taking = None if fork else here.world.start(here.service.take(origin.id, owner=OWNER))
        await here.world.gates.reached("turn")
        networks = NetworkService(here.world.service)
        await networks.set_network(origin.id, owner=OWNER, network=NO_NETWORK)
        here.world.gates.open_all()
        made = [
            *(await forking.result() if forking else ()),
            *([await taking.result()] if taking else ()),
        ]
        assert [copy.network for copy in made] == [NO_NETWORK]


@pytest.mark.parametrize("how", ["snapshot", "fork", "pause"])
async def test_a_guest_that_is_slow_with_what_was_started_holds_no_turn(how: str) -> None:
    """It is waited for before; in the turn for what was started since then, but not for long."""
    async with snapshots() as here:
        origin = await here.world.created()
        first, asked, silent = anyio.Event(), list[str](), anyio.Event()

        async def slow(environment_id: str) -> None:
            asked.append(environment_id)
            await (silent if first.is_set() else first).wait()

        here.world.service.events.when_frozen(slow)
        here.world.gates.closed = {"turn"}
        calls: dict[str, Callable[[], Coroutine[object, object, object]]] = {
            "snapshot": lambda: here.service.take(origin.id, owner=OWNER),
            "fork": lambda: here.service.fork(origin.id, 1, owner=OWNER),
            "pause": lambda: here.world.service.pause(origin.id, owner=OWNER, to_disk=True),
        }
        call = here.world.start(calls[how]())
        await settle()
        assert asked
        assert not here.world.gates.parked
        first.set()
        await here.world.gates.reached("turn")
        here.world.gates.open_all()
        with anyio.fail_after(10):
            await call.result()
        assert asked == [origin.id] * 2
