# SPDX-License-Identifier: Apache-2.0
"""Whose answer is whose: a renewal's port has no ids, so questions and answers take turns."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.support.waiting import cancelled, until

from waggle.domain.errors import GuestLost
from waggle.infra.guest.channel import over
from waggle.infra.guest.renewal import Renewal

pytestmark = pytest.mark.anyio


@dataclass
class Held:
    """A guest whose answers the test gives; it counts the lists of records."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    asked: int = 0

    async def hear(self) -> None:
        """Read lists of records until the channel ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                sizes = struct.unpack("<II", await self.reader.readexactly(8))
                self.asked += sizes == (0, 0)
                await self.reader.readexactly(sum(sizes))

    def answer(self, good: int) -> None:
        self.writer.write(struct.pack("<Bq", good, 1))


@asynccontextmanager
async def held() -> AsyncGenerator[tuple[Renewal, Held]]:
    ours, theirs = socket.socketpair()
    guest = Held(*await asyncio.open_connection(sock=theirs))
    hearing = asyncio.create_task(guest.hear())
    mine = await asyncio.open_connection(sock=ours)
    try:
        yield Renewal(over(*mine), now=lambda: 1), guest
    finally:
        hearing.cancel()
        for end in (guest.writer, mine[1]):
            end.close()


@pytest.mark.parametrize("late,own", [(0, 1), (1, 0), (0, 0), (1, 1)])
async def test_the_answer_of_a_caller_that_gave_up_is_not_the_next_ones(
    late: int, own: int
) -> None:
    async with held() as (renewal, guest):
        for number in (1, 2):  # both give up
            first = asyncio.create_task(renewal.renew({"restart-agent": b""}))
            await until(lambda number=number: guest.asked == number)
            await cancelled(first)
        second = asyncio.create_task(renewal.renew({"hang-up": b""}))
        await until(lambda: guest.asked == 3)
        for good in (late, late, own):
            assert not second.done()
            guest.answer(good)
        if own:
            await second
        else:
            with pytest.raises(GuestLost, match="refused"):
                await second


async def test_a_late_answer_in_two_pieces_is_dropped_whole() -> None:
    async with held() as (renewal, guest):
        first = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 1)
        late = struct.pack("<Bq", 0, 1)
        guest.writer.write(late[:4])
        await guest.writer.drain()
        await cancelled(first)
        second = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 2)
        guest.writer.write(late[4:])
        guest.answer(1)
        await second


async def test_two_callers_at_once_are_asked_in_turn() -> None:
    async with held() as (renewal, guest):
        both = [asyncio.create_task(renewal.renew({})) for _ in range(2)]
        await until(lambda: guest.asked == 1)
        guest.answer(1)
        await until(lambda: guest.asked == 2)
        assert [task.done() for task in both] == [True, False]
        guest.answer(0)
        with pytest.raises(GuestLost, match="refused"):
            await both[1]


async def test_a_caller_that_gives_up_while_it_waits_for_its_turn_asks_nothing() -> None:
    async with held() as (renewal, guest):
        first = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 1)
        with pytest.raises(GuestLost, match=r"within 0\.01 s"):
            await renewal.renew({}, deadline=0.01)
        guest.answer(1)
        await first
        third = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 2)
        guest.answer(1)
        await third


async def test_nothing_is_asked_and_nothing_is_due_while_a_machine_is_copied() -> None:
    async with held() as (renewal, guest):
        left = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 1)
        await cancelled(left)
        begun = asyncio.Event()
        over = asyncio.Event()

        async def copy() -> None:
            async with renewal.quiet(20):
                begun.set()
                await over.wait()

        copying = asyncio.create_task(copy())
        await asyncio.sleep(0)
        assert not begun.is_set()
        guest.answer(1)
        await begun.wait()
        later = asyncio.create_task(renewal.renew({}))
        await asyncio.sleep(0)
        over.set()
        await copying
        await until(lambda: guest.asked == 2)
        guest.answer(1)
        await later


async def test_a_guest_that_owes_an_answer_is_not_copied() -> None:
    async with held() as (renewal, guest):
        left = asyncio.create_task(renewal.renew({}))
        await until(lambda: guest.asked == 1)
        await cancelled(left)
        with pytest.raises(GuestLost, match="does not answer what it was asked before"):
            async with renewal.quiet(0.01):
                pytest.fail("it was copied")
        guest.writer.close()
        with pytest.raises(GuestLost, match="its channel is closed"):
            async with renewal.quiet(20):
                pytest.fail("it was copied")
