# SPDX-License-Identifier: Apache-2.0
"""Turns in a lane, and its rate."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.lane import BURST_SECONDS, Lane

if TYPE_CHECKING:
    from tests.infra.net.lab import Turns

pytestmark = pytest.mark.anyio
RATE = 1_000_000


async def test_one_piece_passes_in_a_turn_of_the_loop() -> None:
    lane, passed = Lane(), list[int]()

    async def send(number: int) -> None:
        await lane.enter(1)
        passed.append(number)

    tasks = [asyncio.ensure_future(send(number)) for number in range(100)]
    counts = list[int]()
    for _ in range(102):
        await asyncio.sleep(0)
        counts.append(len(passed))
    assert passed == [*range(100)]
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) == 1
    await asyncio.gather(*tasks)


async def test_keys_take_turns_however_many_pieces_one_has(turns: Turns) -> None:
    lane, passed = Lane(), list[str]()

    async def send(key: str) -> None:
        await lane.enter(1, key)
        passed.append(key)

    tasks = [asyncio.ensure_future(send("many")) for _ in range(50)]
    await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(send("few")) for _ in range(5)]
    await turns()
    assert passed[2:12].count("few") == 5
    await asyncio.gather(*tasks)


async def test_a_rate_has_a_burst_and_then_holds() -> None:
    loop = asyncio.get_running_loop()
    lane, piece = Lane(RATE), 10_000
    began = loop.time()
    total = int(RATE * BURST_SECONDS) + RATE // 5
    await asyncio.gather(*(lane.enter(piece) for _ in range(total // piece)))
    took = loop.time() - began
    assert 0.15 < took < 10.0


async def test_pieces_that_are_given_up_are_forgotten(turns: Turns) -> None:
    now = [0.0]
    lane = Lane(RATE, now=lambda: now[0])
    await lane.enter(10 * RATE)  # the next one waits for ten seconds
    tasks = [asyncio.ensure_future(lane.enter(1, key)) for key in range(100) for _ in range(10)]
    await turns()
    assert len(lane._waiting) == 100
    for task in tasks:
        task.cancel()
    await turns()
    assert not lane._waiting


async def test_a_piece_given_up_as_its_turn_comes_does_not_stop_the_others(turns: Turns) -> None:
    lane = Lane()
    await lane.enter(1)
    tasks = [asyncio.ensure_future(lane.enter(1)) for _ in range(20)]
    for task in tasks[::2]:
        await asyncio.sleep(0)
        task.cancel()
    await turns()
    assert all(task.done() for task in tasks)
    assert not any(task.cancelled() for task in tasks[1::2])
