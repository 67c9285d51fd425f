# SPDX-License-Identifier: Apache-2.0
"""How busy all guests are: asked at most once in a while, bounded in time, and added up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.service.world import OWNER, World, world
from tests.support.guest import SAID
from tests.support.waiting import cancelled, until

from waggle.domain.errors import GuestLost
from waggle.domain.guest_agent import GuestLoad, GuestTotals
from waggle.service.environments.guest_loads import FRESH_SECONDS, GuestLoads

pytestmark = pytest.mark.anyio


@dataclass
class Live:
    """An environment whose guest answers `said`, raises it, or waits until `go`."""

    said: GuestLoad | BaseException | None = None
    go: asyncio.Event | None = None
    asked: int = 0
    asked_now: list[Live] = field(default_factory=list["Live"])

    async def load(self) -> GuestLoad | None:
        self.asked += 1
        self.asked_now.append(self)
        try:
            if self.go is not None:
                await self.go.wait()
            if isinstance(self.said, BaseException):
                raise self.said
            return self.said
        finally:
            self.asked_now.remove(self)


class Rig:
    """Loads with a clock that the test moves."""

    def __init__(self, lives: Sequence[Live], patience: float = 3.0) -> None:
        self.now = 0.0
        self.lives = lives
        self.loads = GuestLoads(lambda: self.lives, lambda: self.now, patience)


def load(memory: int = 100, stalled: float | None = None) -> GuestLoad:
    return GuestLoad(memory, memory // 2, 0.5, 10, 1.0, stalled)


async def test_loads_are_added_up() -> None:
    lives = [
        *(Live(load(100, 50.0)), Live(load(50, 10.0)), Live(load(10))),
        *(Live(GuestLost("silent")), Live(GuestLost("silent"))),
        *(Live(None), Live(ValueError("a bug"))),
    ]
    rig = Rig(lives)
    await rig.loads.refresh()
    assert rig.loads.totals == GuestTotals(3, 2, 160, 80, 30, 1.5, 1)


async def test_nothing_is_asked_again_while_it_is_fresh() -> None:
    live = Live(load())
    rig = Rig([live])
    for now, asked in ((0.0, 1), (FRESH_SECONDS - 0.1, 1), (FRESH_SECONDS, 2)):
        rig.now = now
        await rig.loads.refresh()
        assert live.asked == asked
    rig.lives, rig.now = [], 100.0
    await rig.loads.refresh()
    assert rig.loads.totals == GuestTotals()


async def test_scrapes_at_once_ask_once() -> None:
    live = Live(load(), go=asyncio.Event())
    rig = Rig([live])
    scrapes = [asyncio.create_task(rig.loads.refresh()) for _ in range(5)]
    await until(lambda: live.asked == 1)
    assert live.go is not None
    live.go.set()
    await asyncio.gather(*scrapes)
    assert live.asked == 1
    assert rig.loads.totals.answering == 1


async def test_who_has_not_answered_in_time_is_not_counted_and_asked_no_longer() -> None:
    silent = [Live(load(), go=asyncio.Event()) for _ in range(3)]
    rig = Rig([Live(load()), *silent], patience=0.01)
    await rig.loads.refresh()
    assert rig.loads.totals.answering == 1
    assert rig.loads.totals.lost == 0
    assert [live.asked_now for live in silent] == [[], [], []]


async def test_silent_guests_keep_nobody_from_being_asked() -> None:
    """They may be many, and one owner's."""
    silent = [Live(load(), go=asyncio.Event()) for _ in range(50)]
    rig = Rig([*silent, Live(load())], patience=0.01)
    await rig.loads.refresh()
    assert rig.loads.totals.answering == 1


async def test_a_scrape_that_hangs_up_leaves_no_question_and_the_next_asks() -> None:
    live = Live(load(), go=asyncio.Event())
    rig = Rig([live])
    scrape = asyncio.create_task(rig.loads.refresh())
    await until(lambda: live.asked == 1)
    await cancelled(scrape)
    await until(lambda: live.asked_now == [])
    live.go = None
    await rig.loads.refresh()
    assert rig.loads.totals.answering == 1


async def one_running(here: World) -> str:
    return (await here.created()).id


async def test_an_inspection_has_what_the_guest_says_or_that_its_agent_is_lost() -> None:
    async with world() as here:
        identity = await one_running(here)
        found = await here.service.inspect(identity, owner=OWNER)
        assert (found.said, found.is_agent_lost) == (SAID, False)
        here.host.only.said = None
        found = await here.service.inspect(identity, owner=OWNER)
        assert (found.said, found.is_agent_lost) == (None, True)
        assert found.resource_use is not None
        assert found.environment.state == "running"


async def test_nobody_is_asked_in_a_paused_environment() -> None:
    async with world() as here:
        identity = await one_running(here)
        await here.service.pause(identity, owner=OWNER, to_disk=False)
        here.host.only.said = None
        found = await here.service.inspect(identity, owner=OWNER)
        assert (found.said, found.is_agent_lost) == (None, False)
