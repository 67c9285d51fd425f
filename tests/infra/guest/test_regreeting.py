# SPDX-License-Identifier: Apache-2.0
"""How often an agent is asked anew: once for all that was heard, and not before its turn."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.waiting import until

from waggle.infra.guest.regreeting import PACE_SECONDS, Regreeting

pytestmark = pytest.mark.anyio


class Rig:
    """Questions that are answered when the test says so, and a pause that ends then, too."""

    def __init__(self) -> None:
        self.asked = self.given_up = 0
        self.answered = asyncio.Event()
        self.pauses: list[float] = []
        self.passed = asyncio.Semaphore(0)
        self.regreeting = Regreeting(self._ask, self._sleep)

    async def _ask(self) -> None:
        self.asked += 1
        try:
            await self.answered.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.passed.acquire()


async def turns() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_it_asks_at_once_and_only_once() -> None:
    rig = Rig()
    rig.regreeting.hear()
    rig.answered.set()
    await until(lambda: rig.asked == 1)
    rig.passed.release()
    await turns()
    assert (rig.asked, rig.given_up, rig.pauses) == (1, 0, [PACE_SECONDS])
    rig.regreeting.hear()
    await until(lambda: rig.asked == 2)
    await rig.regreeting.close()


async def test_whatever_is_heard_within_a_pause_is_one_question_after_it() -> None:
    rig = Rig()
    rig.answered.set()
    for _ in range(1_000):
        rig.regreeting.hear()
        await asyncio.sleep(0)
    assert rig.asked == 1
    rig.passed.release()
    await until(lambda: rig.asked == 2)
    rig.passed.release()
    await turns()
    assert rig.asked == 2
    await rig.regreeting.close()


async def test_a_question_without_an_answer_is_given_up_for_the_next_one_alone() -> None:
    rig = Rig()
    rig.regreeting.hear()
    rig.passed.release()
    await turns()
    assert (rig.asked, rig.given_up) == (1, 0)
    rig.regreeting.hear()
    await until(lambda: rig.asked == 2)
    assert rig.given_up == 1
    await rig.regreeting.close()
    assert rig.given_up == 2


async def test_closed_it_asks_no_more_until_it_hears_again() -> None:
    rig = Rig()
    await rig.regreeting.close()
    rig.regreeting.hear()
    rig.regreeting.hear()
    await rig.regreeting.close()
    await rig.regreeting.close()
    asked = rig.asked
    rig.regreeting.hear()
    await until(lambda: rig.asked == asked + 1)
    await rig.regreeting.close()
