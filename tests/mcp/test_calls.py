# SPDX-License-Identifier: Apache-2.0
"""The calls in progress: counted, awaited and cut, without swallowing a caller's cancellation."""

from __future__ import annotations

import anyio
import pytest

from waggle.mcp.observed import Calls

pytestmark = pytest.mark.anyio


async def test_waiting_ends_with_the_last_call() -> None:
    calls, order = Calls(), list[str]()

    async def one(end: anyio.Event) -> None:
        with calls.one():
            await end.wait()

    async def wait() -> None:
        await calls.finished()
        order.append("finished")

    first, second = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(one, first)
        group.start_soon(one, second)
        await anyio.wait_all_tasks_blocked()
        assert len(calls) == 2
        group.start_soon(wait)
        for end in (first, second):
            await anyio.wait_all_tasks_blocked()
            assert not order
            end.set()
    assert order == ["finished"]


async def test_cut_calls_end_as_cancelled() -> None:
    calls, cut = Calls(), list[bool]()

    async def one() -> None:
        with calls.one() as scope:
            await anyio.sleep_forever()
        cut.append(scope.cancelled_caught)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        assert calls.cut() == 1
    assert cut == [True]
    assert calls.cut() == 0
    await calls.finished()


async def test_the_cancellation_of_a_caller_is_not_swallowed() -> None:
    calls = Calls()
    with anyio.CancelScope() as outer:
        with calls.one():
            outer.cancel()
            await anyio.sleep_forever()
        pytest.fail("the cancel was swallowed")
    assert outer.cancelled_caught
    assert len(calls) == 0
