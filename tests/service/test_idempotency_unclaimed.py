# SPDX-License-Identifier: Apache-2.0
"""Work that a caller gave up is kept for a while for the same call and blocks no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import anyio
import pytest
from tests.service.world import OWNER, world
from tests.support.waiting import cancelled, until

from waggle.domain.errors import MaxEnvironments, NotFound, QuotaExceeded
from waggle.domain.host import Progress, no_progress
from waggle.service.environments.provision import end_unless_used
from waggle.service.idempotency import Unclaimed

pytestmark = pytest.mark.anyio
FULL, QUOTA = MaxEnvironments("full"), QuotaExceeded("yours")


@dataclass
class Work:
    """Work that counts its runs and waits for `go`; `cancelled` and `undone` record its end."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0
    cancelled: int = 0
    undone: list[int] = field(default_factory=list[int])
    error: Exception | None = None

    async def __call__(self, progress: Progress) -> int:
        self.count += 1
        await progress(0.5, "half")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.count

    async def undo(self, result: int) -> None:
        self.undone.append(result)


@pytest.fixture
async def unclaimed() -> AsyncGenerator[Unclaimed]:
    made = Unclaimed()
    yield made
    await made.aclose()


def call(
    unclaimed: Unclaimed, work: Work, owner: str = "alice", wanted: str = "a"
) -> asyncio.Future[int]:
    taken = unclaimed.take_up(owner, wanted, work, no_progress, undo=work.undo)
    return asyncio.ensure_future(taken)


async def given_up(
    unclaimed: Unclaimed, work: Work, owner: str = "alice", wanted: str = "a"
) -> None:
    begun = work.count
    one = call(unclaimed, work, owner, wanted)
    await until(lambda: work.count > begun)
    await cancelled(one)


async def test_the_same_call_takes_up_abandoned_work(unclaimed: Unclaimed) -> None:
    work = Work()
    await given_up(unclaimed, work)
    reports: list[tuple[float, str]] = []

    async def hear(share: float, message: str) -> None:
        reports.append((share, message))

    again = asyncio.ensure_future(unclaimed.take_up("alice", "a", work, hear, undo=work.undo))
    await until(lambda: reports == [(0.5, "half")])
    work.go.set()
    assert await again == 1
    assert await call(unclaimed, work) == 2, "what was taken up is not there twice"
    assert (work.cancelled, work.undone) == (0, [])


async def test_abandoned_work_that_has_ended_is_taken_up_too(unclaimed: Unclaimed) -> None:
    work = Work()
    await given_up(unclaimed, work)
    work.go.set()
    await anyio.sleep(0.01)
    assert await call(unclaimed, work) == 1


async def test_concurrent_calls_share_nothing(unclaimed: Unclaimed) -> None:
    work = Work()
    one, other = call(unclaimed, work), call(unclaimed, work)
    await until(lambda: work.count == 2)
    work.go.set()
    assert {await one, await other} == {2}
    assert work.count == 2


@pytest.mark.parametrize("owner, wanted", [("bob", "a"), ("alice", "b")])
async def test_another_owner_or_call_begins_new_work(
    unclaimed: Unclaimed, owner: str, wanted: str
) -> None:
    work, other = Work(), Work()
    await given_up(unclaimed, work)
    other.go.set()
    assert await call(unclaimed, other, owner, wanted) == 1


async def test_failed_work_begins_again(unclaimed: Unclaimed) -> None:
    work = Work(error=ValueError("x"))
    await given_up(unclaimed, work)
    work.go.set()
    await anyio.sleep(0.01)
    work.error = None
    assert await call(unclaimed, work) == 2


async def test_only_the_latest_abandoned_work_of_an_owner_is_kept(unclaimed: Unclaimed) -> None:
    works = [Work() for _ in range(5)]
    for number, work in enumerate(works):
        await given_up(unclaimed, work, wanted=str(number))
    await until(lambda: [w.cancelled for w in works] == [1, 1, 1, 1, 0])


@pytest.mark.parametrize("is_done", [False, True])
async def test_abandoned_work_is_undone_after_its_time(is_done: bool) -> None:
    unclaimed, work = Unclaimed(linger=0.05), Work()
    await given_up(unclaimed, work)
    if is_done:
        work.go.set()
    await until(lambda: bool(work.cancelled or work.undone))
    assert (work.cancelled, work.undone) == ((0, [1]) if is_done else (1, []))
    work.go.set()
    assert await call(unclaimed, work) == 2


async def test_abandoned_work_ends_to_make_room(unclaimed: Unclaimed) -> None:
    alices, bobs = Work(), Work()
    await given_up(unclaimed, alices)
    await given_up(unclaimed, bobs, owner="bob")
    assert not await unclaimed.make_room("carol", QUOTA), "a quota is not another's matter"
    assert await unclaimed.make_room("alice", QUOTA)
    assert (alices.cancelled, bobs.cancelled) == (1, 0)
    assert await unclaimed.make_room("carol", FULL)
    assert bobs.cancelled == 1
    assert not await unclaimed.make_room("carol", FULL)


async def test_abandoned_work_ends_with_the_server() -> None:
    unclaimed, left, waiting, late = Unclaimed(), Work(), Work(), Work()
    await given_up(unclaimed, left)
    one = call(unclaimed, waiting, "bob")
    await unclaimed.aclose()
    assert left.cancelled == 1
    await until(lambda: waiting.count == 1)
    one.cancel()
    await until(lambda: waiting.cancelled == 1)
    late.go.set()
    assert await call(unclaimed, late) == 1


async def test_a_caller_gets_an_error_when_the_server_ends_its_work(
    unclaimed: Unclaimed,
) -> None:
    async def ends_itself(_progress: Progress) -> int:
        raise asyncio.CancelledError

    with pytest.raises(NotFound, match="ended"):
        await unclaimed.take_up("alice", "a", ends_itself, no_progress, undo=Work().undo)


async def test_an_environment_that_was_used_in_the_meantime_stays() -> None:
    async with world() as here:
        used, unused = await here.created(), await here.created()
        here.clock.advance(seconds=1)
        async with here.service.using(used.id, owner=OWNER):
            await end_unless_used(here.service, used)
        for environment in (used, unused, unused):
            await end_unless_used(here.service, environment)
        assert [environment.id for environment in here.service.all()] == [used.id]
