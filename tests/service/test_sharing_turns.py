# SPDX-License-Identifier: Apache-2.0
"""Turns of one owner, one at a time, and threads that end with their callers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import anyio
import pytest
from tests.support.garbage import Held, no_collection
from tests.support.waiting import until

from waggle.domain.errors import TooLarge
from waggle.domain.observer import release
from waggle.service.sharing import Turns, in_thread

pytestmark = pytest.mark.anyio


async def test_calls_of_one_owner_take_turns_and_others_do_not_wait() -> None:
    turns, order = Turns(), list[str]()
    first_is_in, first_may_go = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with turns.turn("a"):
            first_is_in.set()
            await first_may_go.wait()
            order.append("first")

    async def second() -> None:
        async with turns.turn("a"):
            order.append("second")

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await first_is_in.wait()
            group.start_soon(second)
            async with turns.turn("b"):
                order.append("other")
            first_may_go.set()
    assert order == ["other", "first", "second"]


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_the_thread_of_a_cancelled_call_ends_before_the_call_does(how: str) -> None:
    runs, ended = threading.Event(), threading.Event()

    def work(check: Callable[[], None]) -> None:
        runs.set()
        try:
            while True:
                check()
                time.sleep(0.001)  # give other threads a turn, as decoding does
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        calling = asyncio.ensure_future(in_thread(work)) if how == "task" else None
        if calling is None:
            group.start_soon(in_thread, work)
        assert await asyncio.to_thread(runs.wait, 60)
        (group.cancel_scope if calling is None else calling).cancel()
        if calling is not None:
            with pytest.raises(asyncio.CancelledError):
                await calling
    assert ended.is_set()


async def test_the_result_or_error_of_the_work_is_passed_on() -> None:
    assert await in_thread(lambda _check: 7) == 7

    def fails(_check: Callable[[], None]) -> None:
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        await in_thread(fails)


def _work(runs: threading.Event, *, fails: bool) -> tuple[Callable[[], bool], Callable[..., None]]:
    """Return a check of whether the object that the work uses still exists, and the work."""
    held = Held()

    def work(check: Callable[[], None]) -> None:
        runs.set()
        while not fails:
            check()
            time.sleep(0.001)
        raise TooLarge(f"{held} is too large.")

    return held.there, work


@pytest.mark.parametrize("fails", [True, False])
async def test_refused_or_cancelled_work_is_freed_at_once(fails: bool) -> None:
    runs = threading.Event()
    with no_collection():
        there, work = _work(runs, fails=fails)
        calling = asyncio.ensure_future(in_thread(work))
        assert await asyncio.to_thread(runs.wait, 60)
        if not fails:
            calling.cancel()
        try:
            await calling
        except (TooLarge, asyncio.CancelledError) as error:
            release(error)  # as the code that answers the call does
        del calling, work
        # Until they run again, the loop holds the futures and the thread holds the work.
        await until(lambda: not there(), 20)
