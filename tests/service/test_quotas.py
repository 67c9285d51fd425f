# SPDX-License-Identifier: Apache-2.0
"""One owner who takes as much as possible, and another who must not notice."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from tests.service.world import IDLE, PYTHON, World, world

from waggle.domain.environment import State
from waggle.domain.errors import MaxEnvironments, QuotaExceeded, TooManyJobs
from waggle.domain.programs import Command
from waggle.domain.programs.job import JobKind
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.creating import CreateRequest, Pausing
from waggle.service.environments.pausing import Reaper
from waggle.service.programs import What
from waggle.service.programs.starting import MAX_RUNNING

pytestmark = pytest.mark.anyio

GREEDY, OTHER = "ann", "bob"
PAUSING = Pausing(when_idle=True, keep=timedelta(hours=24), max_on_disk=20)
LARGE = CreateRequest(RuntimeName.PYTHON, memory_mb=1024)


async def sweep(here: World) -> list[str]:
    return await Reaper(here.service, interval=60, clock=here.clock, sleep=anyio.sleep).sweep()


async def fill(here: World, owner: str, to_disk: int) -> None:
    """Pause `to_disk` environments of `owner` to disk."""
    for _ in range(to_disk):
        environment = await here.created(owner=owner)
        await here.service.pause(environment.id, owner=owner, to_disk=True)


async def test_an_owner_who_fills_their_disk_places_costs_no_other_owner_anything() -> None:
    """Once, the other owner's pause was refused and their idle environment lost with its files."""
    async with world(capacity=4, pausing=PAUSING, several_owners=True) as here:
        idle = await here.created(owner=OTHER)
        paused = await here.created(owner=OTHER)
        await fill(here, GREEDY, 20)
        one_more = await here.created(owner=GREEDY)
        with pytest.raises(QuotaExceeded, match="Owner ann has 20 of the 20 environments paused"):
            await here.service.pause(one_more.id, owner=GREEDY, to_disk=True)

        found = await here.service.pause(paused.id, owner=OTHER, to_disk=True)
        assert found.is_on_disk
        here.clock.now += IDLE
        assert idle.id in await sweep(here)
        assert here.service.get(idle.id, owner=OTHER).is_on_disk
        assert here.host.discarded == []
        async with here.service.using(idle.id, owner=OTHER) as (held, _):
            assert held.state is State.RUNNING


async def test_an_idle_environment_keeps_its_files_when_its_owner_has_no_place_left() -> None:
    async with world(
        capacity=4, pausing=Pausing(when_idle=True, max_on_disk=1), several_owners=True
    ) as here:
        await fill(here, OTHER, 1)
        idle = await here.created(owner=OTHER)
        guest = here.host.guests[idle.id]
        await guest.write_file("/home/sandbox/kept", b"for hours")
        here.clock.now += IDLE
        for _ in range(3):
            assert await sweep(here) == []
        async with here.service.using(idle.id, owner=OTHER) as (_, same):
            assert same is guest
            found = await same.read_file("/home/sandbox/kept", offset=0, length=99, limit=99)
        assert found.data == b"for hours"


async def test_one_of_several_owners_holds_at_most_half_of_the_slots() -> None:
    async with world(capacity=4, several_owners=True) as here:
        for _ in range(2):
            await here.created(owner=GREEDY)
        with pytest.raises(QuotaExceeded, match="ann has 2 of the 2 environments in memory"):
            await here.created(owner=GREEDY)
        for _ in range(2):
            await here.created(owner=OTHER)
        with pytest.raises(MaxEnvironments):
            await here.created(owner="eve")


async def test_the_jobs_of_an_owner_are_limited_by_their_environments() -> None:
    """Each environment runs 16 jobs and an owner has half of the environments: half of all jobs."""
    hang = Command(("python3", "{file}"), timeout=60, output_limit=1_000, code=b"hang")
    what = What(JobKind.EXECUTE, "a test")
    async with world(capacity=4, several_owners=True) as here:
        jobs = here.jobs()
        his = await here.created(owner=OTHER)
        for _ in range(2):
            hers = await here.created(owner=GREEDY)
            for _ in range(MAX_RUNNING):
                await jobs.start(hers.id, hang, what, owner=GREEDY)
            with pytest.raises(TooManyJobs):
                await jobs.start(hers.id, hang, what, owner=GREEDY)
        with pytest.raises(QuotaExceeded):
            await here.created(owner=GREEDY)
        assert (await jobs.start(his.id, hang, what, owner=OTHER)).is_running


async def test_a_large_environment_counts_as_several() -> None:
    async with world(capacity=4, several_owners=True) as here:
        await here.created(PYTHON, owner=GREEDY)
        with pytest.raises(QuotaExceeded, match=r"has 1 of the 2 .* 2 more do not fit"):
            await here.created(LARGE, owner=GREEDY)
        await here.created(LARGE, owner=OTHER)


async def test_a_sole_owner_may_use_everything() -> None:
    async with world(capacity=4) as here:
        for _ in range(4):
            await here.created()
        with pytest.raises(MaxEnvironments):
            await here.created()
