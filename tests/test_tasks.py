# SPDX-License-Identifier: Apache-2.0
"""Clean-up that finishes although its caller is cancelled, and tasks that really end."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from tests.support.waiting import cancelled

from waggle.tasks import end, finish, holding

pytestmark = pytest.mark.anyio


class Work:
    """Work that takes a few turns of the loop."""

    def __init__(self) -> None:
        self.done = False
        self.go = asyncio.Event()

    async def run(self) -> str:
        await self.go.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        self.done = True
        return "result"


async def test_finish_returns_and_raises_what_the_work_does() -> None:
    work = Work()
    work.go.set()
    assert await finish(work.run()) == "result"

    async def failing() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await finish(failing())


async def test_a_cancel_scope_does_not_stop_the_work() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_soon(work.go.set)
        await finish(work.run())
        await anyio.lowlevel.checkpoint()
        raise AssertionError("the scope was cancelled")
    assert work.done
    assert scope.cancelled_caught


async def test_repeated_cancellation_does_not_stop_the_work() -> None:
    work = Work()
    task = asyncio.create_task(finish(work.run()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.done


async def test_a_timeout_is_raised_after_the_work() -> None:
    work = Work()
    asyncio.get_running_loop().call_later(0.05, work.go.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await finish(work.run())
    assert work.done


async def test_a_cancellation_replaces_a_failure_of_the_work() -> None:
    work = Work()

    async def failing() -> None:
        await work.go.wait()
        raise ValueError("x")

    task = asyncio.create_task(finish(failing()))
    await asyncio.sleep(0)
    task.cancel()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_end_waits_for_tasks_that_resist_fail_or_are_done() -> None:
    log: list[str] = []

    async def resisting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("resisted")

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("x")

    async def quick() -> None: ...

    tasks = [asyncio.create_task(work()) for work in (resisting, failing, quick)]
    await asyncio.sleep(0)
    await end(*tasks)
    assert all(task.done() for task in tasks)
    assert log == ["resisted"]
    await end(*tasks)
    await end()


async def test_end_ends_all_tasks_although_its_caller_is_cancelled() -> None:
    async def resisting() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(resisting()) for _ in range(3)]
    await asyncio.sleep(0)
    ending = asyncio.create_task(end(*tasks))
    await asyncio.sleep(0)
    await cancelled(ending)
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize("kind", [asyncio.Lock, anyio.Lock])
async def test_a_lock_that_others_have_too_long_is_refused(
    kind: type[asyncio.Lock | anyio.Lock],
) -> None:
    lock, refusal = kind(), ValueError("It is in use.")
    async with holding(lock, 10, refusal):
        gone, waiting = (asyncio.create_task(_held(lock, None)) for _ in range(2))
        with pytest.raises(ValueError, match="in use"):
            await asyncio.create_task(_held(lock, 0))
        await anyio.wait_all_tasks_blocked()
        await cancelled(gone)
        assert not waiting.done()
    await waiting
    assert not lock.locked()


async def _held(lock: asyncio.Lock | anyio.Lock, within: float | None) -> None:
    async with holding(lock, within, ValueError("It is in use.")):
        """It is free."""
