# SPDX-License-Identifier: Apache-2.0
"""Calls in tasks of their own that nobody waits for any more, in what they finish nevertheless.

A restart that was broken off between two machines would have lost its disk.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import anyio
import pytest
from mcp_types import CallToolResult, InputRequiredResult
from tests.support.asking import Request
from tests.support.waiting import until

from waggle.mcp.held import Held
from waggle.service.environments.questions import Questions

pytestmark = pytest.mark.anyio


class Work:
    """Work that finishes a part of it when it is cancelled, once `go` is set, and then ends."""

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self.begun, self.go = anyio.Event(), anyio.Event()
        self.ends: list[str] = []

    async def __call__(self, _ctx: Any) -> CallToolResult:
        try:
            with anyio.CancelScope(shield=True):
                self.begun.set()
                await self.go.wait()
                self.ends.append("finished")
            await anyio.sleep_forever()
        finally:
            self.ends.append("ended")
        raise AssertionError("it goes on")

    async def asking(self, ctx: Any) -> CallToolResult:
        async with anyio.create_task_group() as group:
            group.start_soon(self.questions.serve, "here", ctx.asker.put)
            group.start_soon(self.questions.ask, "here", "a.example", 443)
            return await self(ctx)
        raise AssertionError("unreachable: the group swallows nothing")


@pytest.fixture
def work() -> Work:
    return Work(Questions())


@pytest.fixture
def held(work: Work) -> Held:
    return Held(work.questions, lambda question: question.environment_id)


async def test_a_client_that_hangs_up(held: Held, work: Work) -> None:
    calling = asyncio.ensure_future(held.run("ann", cast("Any", Request()), work))
    calling.add_done_callback(lambda _: work.ends.append("returned"))
    await work.begun.wait()
    calling.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert work.ends == ["finished", "ended", "returned"]
    assert len(held) == 0


async def test_a_server_that_stops(held: Held, work: Work) -> None:
    result = await held.run("ann", cast("Any", Request()), work.asking)
    assert isinstance(result, InputRequiredResult)
    held.close()
    for _ in range(5):
        await asyncio.sleep(0)
    work.go.set()
    await until(lambda: len(work.ends) == 2)
    assert work.ends == ["finished", "ended"]
    assert len(held) == 0
