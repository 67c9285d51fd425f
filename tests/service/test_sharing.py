# SPDX-License-Identifier: Apache-2.0
"""Shared work outlives its callers for a limited time and is not stopped for other callers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import anyio
import pytest
from tests.support.waiting import cancelled, until

from waggle.domain.errors import ImageMissing, ImageUnavailable
from waggle.domain.host import Progress, no_progress
from waggle.service.sharing import MAX_UNCLAIMED, Sharing

pytestmark = pytest.mark.anyio
LONG = 60.0


@dataclass
class Work:
    """Work that counts its runs in `count` and waits for `go`."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0
    error: Exception | None = None

    async def __call__(self, progress: Progress) -> int:
        self.count += 1
        self.begun.set()
        try:
            await progress(0.5, "half")
            await self.go.wait()
        finally:
            self.ended.set()
        if self.error is not None:
            raise self.error
        return self.count


async def given_up(sharing: Sharing[int], work: Work, key: str = "a") -> None:
    call = asyncio.ensure_future(sharing.get(key, work, no_progress))
    await work.begun.wait()
    await cancelled(call)


async def test_a_caller_that_returns_finds_its_work_further_on() -> None:
    sharing, work = Sharing[int](LONG), Work()
    await given_up(sharing, work)
    again = asyncio.ensure_future(sharing.get("a", work, no_progress))
    await asyncio.sleep(0)
    work.go.set()
    assert await again == 1
    assert await sharing.get("a", work, no_progress) == 2  # ended work is not kept


async def test_a_caller_that_leaves_does_not_stop_the_others() -> None:
    sharing, work, reports = Sharing[int](0.0), Work(), list[tuple[float, str]]()

    async def hear(share: float, message: str) -> None:
        reports.append((share, message))

    stays = asyncio.ensure_future(sharing.get("a", work, hear))
    await given_up(sharing, work)
    await until(lambda: bool(reports))
    work.go.set()
    assert await stays == 1
    assert reports == [(0.5, "half")]


async def test_abandoned_work_ends_in_time() -> None:
    sharing, work = Sharing[int](0.01), Work()
    await given_up(sharing, work)
    with anyio.fail_after(5):
        await work.ended.wait()


async def test_the_amount_of_abandoned_work_is_limited() -> None:
    sharing = Sharing[int](LONG)
    works = [Work() for _ in range(MAX_UNCLAIMED + 1)]
    for number, work in enumerate(works):
        await given_up(sharing, work, str(number))
    with anyio.fail_after(5):
        await works[0].ended.wait()
    assert not any(work.ended.is_set() for work in works[1:])
    await sharing.aclose()
    assert all(work.ended.is_set() for work in works)


async def test_a_failure_reaches_all_callers_and_is_not_kept() -> None:
    sharing, work = Sharing[int](LONG), Work(error=ImageMissing("none"))
    calls = [asyncio.ensure_future(sharing.get("a", work, no_progress)) for _ in range(3)]
    await work.begun.wait()
    work.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in results] == [ImageMissing] * 3
    work.error = None
    assert await sharing.get("a", work, no_progress) == 2


async def test_a_waiting_caller_gets_an_error_when_the_server_ends() -> None:
    sharing, work = Sharing[int](LONG), Work()
    call = asyncio.ensure_future(sharing.get("a", work, no_progress))
    await work.begun.wait()
    await sharing.aclose()
    with pytest.raises(ImageUnavailable, match="gave this up"):
        await call
