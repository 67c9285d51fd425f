# SPDX-License-Identifier: Apache-2.0
"""The share of the host's disk that one owner may take, in bytes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.world import IDLE, Gates, Host, Job, World, settle, world
from tests.support.fakes import FakeFile, MemoryShelf

from waggle.domain.access import share_of
from waggle.domain.environment import Environment
from waggle.domain.errors import QuotaExceeded
from waggle.domain.programs import HOME, Command
from waggle.domain.programs.job import JobKind
from waggle.infra.shared.spool import Spool
from waggle.service.environments.creating import CopyRequest, Pausing
from waggle.service.environments.pausing import Reaper
from waggle.service.environments.registry import DiskShares, Registry
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService
from waggle.service.files.trees import TreeService
from waggle.service.programs import What

pytestmark = pytest.mark.anyio

MIB = 1 << 20
GREEDY, OTHER = "ann", "bob"
PAUSING = Pausing(when_idle=True, keep=timedelta(hours=24), max_on_disk=20)


def pause(here: World, environment: Environment) -> Job[Environment]:
    return here.start(here.service.pause(environment.id, owner=environment.owner, to_disk=True))


def snapshots(here: World) -> SnapshotService:
    return SnapshotService(
        here.service,
        MemoryShelf(),
        SnapshotLimits(per_owner=9),
        clock=here.clock,
        new_id=lambda: "5eed0000-0000-4000-8000-000000000001",
    )


async def test_a_pause_or_snapshot_over_the_disk_share_is_refused() -> None:
    async with world(capacity=6, disk_mib=1000, several_owners=True) as here:
        first = await here.created(owner=GREEDY)
        here.host.used[first.id] = 489 * MIB
        with pytest.raises(QuotaExceeded) as refused:
            await pause(here, first).result()
        assert refused.value.message == (
            "Owner ann has 489 of the 1000 MiB of disk that one owner may have. "
            "512 more do not fit."
        )
        assert "WAGGLE_MAX_DISK_MB_PER_OWNER" in refused.value.hint
        with pytest.raises(QuotaExceeded):
            await snapshots(here).take(first.id, owner=GREEDY)
        with pytest.raises(QuotaExceeded):
            await snapshots(here).fork(first.id, 2, owner=GREEDY)
        here.host.used[first.id] = 488 * MIB
        assert (await pause(here, first).result()).is_on_disk
        here.host.used[first.id] = 1000 * MIB
        with pytest.raises(QuotaExceeded):
            await here.created(owner=GREEDY)
        other = await here.created(owner=OTHER)
        assert (await pause(here, other).result()).is_on_disk


async def test_snapshots_and_copies_of_them_count_towards_the_share() -> None:
    async with world(capacity=6, disk_mib=513, several_owners=True) as here:
        service = snapshots(here)
        origin = await here.created(owner=GREEDY)
        kept = await service.take(origin.id, owner=GREEDY)
        assert kept.size == 1000
        here.host.used[origin.id] = 2 * MIB
        with pytest.raises(QuotaExceeded, match="ann has 3 of the 513 MiB"):
            await service.take(origin.id, owner=GREEDY)
        here.host.used[origin.id] = 513 * MIB - 1000
        with pytest.raises(QuotaExceeded):
            await service.create(kept.id, CopyRequest(), owner=GREEDY)


async def test_a_copy_needs_room_for_the_disk_and_not_for_memory_that_was_resumed_from() -> None:
    async with world(capacity=6, disk_mib=1130, several_owners=True) as here:
        origin = await here.created(owner=GREEDY)
        here.host.used[origin.id], here.host.disks[origin.id] = 612 * MIB, 7 * MIB
        with pytest.raises(QuotaExceeded, match=r"519 more do not fit\."):
            await snapshots(here).take(origin.id, owner=GREEDY)
        here.host.disks[origin.id] = 6 * MIB
        await snapshots(here).take(origin.id, owner=GREEDY)


async def test_job_output_and_archives_count_towards_the_share() -> None:
    async with world(capacity=6, disk_mib=512, several_owners=True) as here:
        jobs = here.jobs()
        trees = TreeService(here.service, record=lambda: Spool(Path("/tmp"), keep=MIB, view=0))
        origin = await here.created(owner=GREEDY)
        program = Command(("python3", "{file}"), timeout=60, output_limit=1_000, code=b"print(1)")
        job = await jobs.start(origin.id, program, What(JobKind.EXECUTE, "a test"), owner=GREEDY)
        await settle()
        assert job.kept_bytes > 0
        with pytest.raises(QuotaExceeded, match="ann has 1 of the 512 MiB"):
            await pause(here, origin).result()
        await here.service.destroy(origin.id, owner=GREEDY)
        origin = await here.created(owner=GREEDY)
        here.host.guests[origin.id].files[f"{HOME}/f"] = FakeFile(b"x", 0o644)
        await trees.download(origin.id, HOME, owner=GREEDY)
        with pytest.raises(QuotaExceeded, match="ann has 1 of the 512 MiB"):
            await pause(here, origin).result()


async def test_space_is_reserved_while_bytes_are_written() -> None:
    async with world(capacity=6, disk_mib=1000, several_owners=True) as here:
        first, second = [await here.created(owner=GREEDY) for _ in range(2)]
        here.gates.closed = {"pause_to_disk", "disk"}
        pauses = [pause(here, first), pause(here, second)]
        await settle()
        here.gates.open("disk")
        await settle()
        refused = [type(paused.error) for paused in pauses if paused.is_done]
        assert refused == [QuotaExceeded]
        here.gates.errors["pause_to_disk"] = OSError(28, "No space left on device")
        here.gates.open("pause_to_disk")
        await settle()
        here.gates.errors.clear()
        assert (await pause(here, second).result()).is_on_disk, "what failed holds nothing"


async def test_an_idle_environment_without_disk_space_is_paused_in_memory_with_a_notice() -> None:
    async with world(capacity=6, disk_mib=600, several_owners=True, pausing=PAUSING) as here:
        greedy, other = await here.created(owner=GREEDY), await here.created(owner=OTHER)
        here.host.used[greedy.id] = 600 * MIB
        here.clock.now += IDLE
        reaper = Reaper(here.service, interval=60, clock=here.clock, sleep=anyio.sleep)
        assert await reaper.sweep() == [other.id]
        notice = here.service.get(greedy.id, owner=GREEDY).notice
        assert "Owner ann has 600 of the 600 MiB of disk" in str(notice)
        here.host.used[greedy.id] = 0
        assert await reaper.sweep() == [greedy.id]


async def test_the_disk_of_a_sole_owner_is_not_measured() -> None:
    async with world() as here:
        here.host.free = 0
        here.gates.closed = {"disk"}
        assert (await pause(here, await here.created()).result()).is_on_disk


async def test_without_a_configured_share_each_of_several_owners_gets_half() -> None:
    async with world(capacity=6, several_owners=True) as here:
        mine = await here.created(owner=GREEDY)
        here.host.free, here.host.used[mine.id] = 600 * MIB, 700 * MIB
        with pytest.raises(QuotaExceeded, match="ann has 700 of the 650 MiB"):
            await here.created(owner=GREEDY)
        other = await here.created(owner=OTHER)
        assert (await pause(here, other).result()).is_on_disk


@given(
    whole=st.integers(2, 10**4),
    wants=st.lists(st.tuples(st.sampled_from([GREEDY, OTHER]), st.integers(1, 10**4))),
)
def test_one_of_two_owners_cannot_reduce_the_share_of_the_other(
    whole: int, wants: list[tuple[str, int]]
) -> None:
    """`whole` and `wants` are MiB. Each owner gets half, in whatever order the two take it."""
    held = {GREEDY: 0, OTHER: 0}
    host = Host(Gates())
    shares = DiskShares(host, Registry(1), 0, lambda: True)
    shares.count(lambda: {owner: mib * MIB for owner, mib in held.items()})
    half = share_of(whole, several=True)

    async def take(owner: str, mib: int) -> None:
        host.free = (whole - sum(held.values())) * MIB
        fits = held[owner] + mib <= half
        try:
            async with shares.room(owner, mib * MIB):
                held[owner] += mib
        except QuotaExceeded:
            assert not fits
        else:
            assert fits

    async def take_all() -> None:
        for owner, mib in wants:
            if free := whole - sum(held.values()):
                await take(owner, min(mib, free))
            assert max(held.values()) <= half

    asyncio.run(take_all())
