# SPDX-License-Identifier: Apache-2.0
"""Turns to freeze machines: bounded waits that hold nothing. `test_frozen.py` has machines."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from waggle.domain.errors import Busy
from waggle.domain.host import NoMemory, NoTurn
from waggle.domain.machine import Resources
from waggle.infra.host.memory import Memory
from waggle.service.local.frozen.turns import FREEZING, MARGIN_MIB, Turns

pytestmark = pytest.mark.anyio
SIZE = Resources(1, 128, 1)


def plenty() -> Memory:
    return Memory(64 << 30, 64 << 30)


async def holding(turns: Turns, owner: str | None) -> asyncio.Task[None]:
    """Return a task that has a turn until it is cancelled."""
    has = anyio.Event()

    async def hold() -> None:
        try:
            async with turns.turn(SIZE, owner):
                has.set()
                await anyio.sleep_forever()
        finally:
            has.set()

    task = asyncio.create_task(hold())
    await has.wait()
    if task.done():
        await task
    return task


async def ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("owners", [("ann",), tuple(range(FREEZING))])
async def test_the_wait_for_a_turn_is_bounded_and_the_refusal_says_what_to_do(
    owners: tuple[str | int, ...],
) -> None:
    """Whether one's own machine has it, or those of others."""
    turns = Turns(plenty, patience=0)
    others = [await holding(turns, str(owner)) for owner in owners]
    with pytest.raises(NoTurn, match="freezes other machines") as refused:
        async with turns.turn(SIZE, "ann"):
            pytest.fail("it has no turn")
    assert isinstance(refused.value, Busy), "clients try again"
    assert refused.value.retryable
    await ended(*others)
    async with turns.turn(SIZE, "ann"):
        """Nothing that was refused holds a place."""


async def test_a_cancelled_wait_holds_no_place() -> None:
    turns = Turns(plenty)
    others = [await holding(turns, str(owner)) for owner in range(FREEZING)]
    waiting = [asyncio.create_task(_turn(turns, owner)) for owner in ("ann", "ann", "bob")]
    await anyio.wait_all_tasks_blocked()
    await ended(*waiting)
    await ended(*others)
    with anyio.fail_after(10):
        again = [await holding(turns, owner) for owner in ("ann", "bob")]
    await ended(*again)


async def _turn(turns: Turns, owner: str, size: Resources = SIZE) -> None:
    async with turns.turn(size, owner):
        pytest.fail("it has no turn")


async def test_the_next_has_its_turn_once_the_memory_is_copied() -> None:
    turns = Turns(plenty, patience=0)
    async with turns.turn(SIZE, "ann") as first:
        first.copied()
        first.copied()
        async with turns.turn(SIZE, "ann"):
            others = [await holding(turns, f"{other}") for other in range(FREEZING - 1)]
            with pytest.raises(NoTurn):
                await _turn(turns, "bob")
            await ended(*others)


async def test_what_is_promised_is_promised_once() -> None:
    """Of a turn that was refused or has ended, nothing counts any more."""
    turns = Turns(lambda: Memory(64 << 30, (SIZE.memory_mib + MARGIN_MIB) << 20))
    for _ in range(3):
        async with turns.turn(SIZE, "ann") as turn:
            turn.copied()
    turns.require(SIZE)


async def test_a_machine_waits_for_the_memory_of_a_copy_until_that_is_gone() -> None:
    """A copy that is written to a slow disk is in memory meanwhile, and was not waited for."""
    free = [2 * SIZE.memory_mib + MARGIN_MIB]
    turns = Turns(lambda: Memory(64 << 30, free[0] << 20))
    has = anyio.Event()

    async def second() -> None:
        async with turns.turn(SIZE, "bob"):
            has.set()

    async with anyio.create_task_group() as group:
        async with turns.turn(SIZE, "ann") as first:
            free[0] = SIZE.memory_mib  # its copy has taken the rest
            first.copied()
            group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            assert not has.is_set()
            free[0] += SIZE.memory_mib + MARGIN_MIB
        with anyio.fail_after(10):
            await has.wait()


async def test_what_a_copy_has_taken_counts_once() -> None:
    """A look at the memory shows it, so that nothing more is promised."""
    free = [2 * SIZE.memory_mib + MARGIN_MIB]
    turns = Turns(lambda: Memory(64 << 30, free[0] << 20))
    async with turns.turn(SIZE, "ann") as first:
        free[0] -= SIZE.memory_mib
        first.copied()
        with anyio.fail_after(10):
            async with turns.turn(SIZE, "bob"):
                """There is room for it beside the copy."""


async def test_what_was_promised_and_not_taken_is_given_to_who_waits_for_it() -> None:
    """A machine that is mostly empty takes less than it was promised: that is known once copied."""
    turns = Turns(lambda: Memory(64 << 30, (SIZE.memory_mib + MARGIN_MIB) << 20))
    async with turns.turn(SIZE, "ann") as first:
        second = asyncio.create_task(holding(turns, "bob"))
        await anyio.wait_all_tasks_blocked()
        assert not second.done()
        first.copied()
        with anyio.fail_after(10):
            await ended(await second)


async def test_who_waits_for_memory_keeps_no_place_from_machines_that_fit() -> None:
    free = 2 * SIZE.memory_mib + MARGIN_MIB
    turns = Turns(lambda: Memory(64 << 30, free << 20))
    large = Resources(1, 2 * SIZE.memory_mib, 1)
    first = await holding(turns, "ann")
    waiting = [asyncio.create_task(_turn(turns, f"{n}", large)) for n in range(FREEZING)]
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(10):
        small = await holding(turns, "bob")
    await ended(first, small, *waiting)
    turns.require(large)


async def test_memory_that_went_while_it_waited_for_a_place_is_waited_for_again() -> None:
    """A look before the wait says nothing about the time after it."""
    free = [64 * SIZE.memory_mib]
    turns = Turns(lambda: Memory(64 << 30, free[0] << 20))
    others = [await holding(turns, str(owner)) for owner in range(FREEZING)]
    waiting = asyncio.create_task(holding(turns, "ann"))
    await anyio.wait_all_tasks_blocked()
    free[0] = SIZE.memory_mib
    await ended(others[0])
    await anyio.wait_all_tasks_blocked()
    assert not waiting.done(), "another is there, which may release some"
    await ended(*others[1:])
    with pytest.raises(NoMemory):
        await waiting
