# SPDX-License-Identifier: Apache-2.0
"""A fork takes the place of its original: which others end, and which forks may be kept."""

from __future__ import annotations

import pytest
from tests.service.pausing import paused
from tests.service.snapshotting import Here, snapshots
from tests.service.world import OWNER, World, settle, world

from waggle.domain.environment import Environment
from waggle.domain.errors import Busy, InvalidArgument, NotFound, NotRunning, WaggleError
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.store.environments import from_row, to_row
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.keeping import Keeper, Kept

pytestmark = pytest.mark.anyio

BEST = CreateRequest(RuntimeName.PYTHON, name="best")


async def keep(here: World, fork: Environment, owner: str = OWNER) -> Kept:
    return await Keeper(here.service).keep(fork.id, owner=owner)


async def forks(here: Here, origin: Environment, count: int = 2) -> list[Environment]:
    return await here.service.fork(origin.id, count, owner=OWNER)


async def refused(here: World, fork: Environment, owner: str = OWNER) -> WaggleError:
    """Return why a fork is not kept, which must change nothing."""
    before = here.service.all()
    with pytest.raises(WaggleError) as error:
        await keep(here, fork, owner)
    assert here.service.all() == before
    return error.value


def ids(*environments: Environment) -> set[str]:
    return {environment.id for environment in environments}


def restarted(here: World, later: World) -> None:
    """Give a later server the records and frozen machines of an earlier one."""
    for environment in here.service.all():
        row = to_row(here.store.records[environment.id])
        later.store.records[environment.id] = from_row(row)
        later.host.on_disk.add(environment.id)


async def test_forks_of_another_call_and_forks_of_a_fork_stay() -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        earlier = await forks(here, origin)
        one, two = await forks(here, origin)
        (of_two,) = await forks(here, two, 1)
        kept = await keep(here.world, one)
        assert kept.environment.name == "best"
        assert ids(*kept.destroyed) == ids(origin, two)
        assert ids(*here.world.service.all()) == ids(one, of_two, *earlier)


@pytest.mark.parametrize("with_origin", [False, True])
async def test_a_fork_can_be_kept_after_a_restart_of_the_server(with_origin: bool) -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        (other,) = await forks(here, origin, 1)
        one, two = await forks(here, origin)
        for environment in (other, one, two, *([origin] if with_origin else [])):
            await paused(here.world, environment)
        await here.world.service.aclose()
        async with world() as later:
            restarted(here.world, later)
            assert await later.service.recover() == 0
            kept = await keep(later, one)
            assert (kept.environment.name, kept.environment.is_on_disk) == ("best", True)
            assert ids(*kept.destroyed) == ids(two, *([origin] if with_origin else []))
            assert ids(*later.service.all()) == ids(one, other)
            assert later.store.records[one.id].name == "best"


async def test_the_kept_fork_has_the_name_that_its_original_has_by_now() -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        (one,) = await forks(here, origin, 1)
        (inner,) = await forks(here, one, 1)
        await keep(here.world, one)
        for destroyed in (ids(one), set[str]()):
            kept = await keep(here.world, inner)
            assert kept.environment.name == "best"
            assert ids(*kept.destroyed) == destroyed


async def test_a_fork_whose_original_is_gone_takes_its_name_unless_another_has_it() -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        (one,) = await forks(here, origin, 1)
        two, three = await forks(here, origin)
        await here.world.destroy(origin.id).result()
        assert ids(*(await keep(here.world, two)).destroyed) == ids(three)
        error = await refused(here.world, one)
        assert isinstance(error, InvalidArgument)
        assert two.id in error.message
        await here.world.destroy(two.id).result()
        kept = await keep(here.world, one)
        assert (kept.environment.name, kept.destroyed) == ("best", ())


async def test_no_fork_of_another_owner_a_failed_one_and_one_that_is_no_fork_is_kept() -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        one, _ = await forks(here, origin)
        assert isinstance(await refused(here.world, origin), InvalidArgument)
        assert isinstance(await refused(here.world, one, "mallory"), NotFound)
        here.world.host.guests[one.id].die("crash")
        await settle()
        assert isinstance(await refused(here.world, one), NotRunning)


async def test_no_fork_is_kept_while_its_call_makes_others() -> None:
    async with snapshots(capacity=8) as here:
        origin = await here.world.created(BEST)
        here.world.gates.closed.add("create")
        forking = here.world.start(forks(here, origin))
        await here.world.gates.reached("create")
        here.world.gates.parked[0].go.set()
        await settle()
        (made,) = (one for one in here.world.service.all() if one.fork_of and one.machine)
        assert isinstance(await refused(here.world, made), Busy)
        here.world.gates.open_all()
        assert len(await forking.result()) == 2
