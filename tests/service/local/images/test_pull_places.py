# SPDX-License-Identifier: Apache-2.0
"""The order of pulls when more are wanted than there are places."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest

from waggle.service.local.images.pulls import PullPlaces

pytestmark = pytest.mark.anyio


class Pull:
    """A pull that runs until it is finished, on behalf of owners that change."""

    def __init__(self, places: PullPlaces, name: str, owners: str) -> None:
        self.name = name
        self.reports: list[int] = []
        self.is_under_way = False
        self._places = places
        self._owners = [*owners]
        self._over = asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    def owners(self) -> Sequence[str]:
        return self._owners

    async def _run(self) -> None:
        try:
            async with self._places.place(self.owners, self.reports.append):
                self.is_under_way = True
                await self._over.wait()
        finally:
            self.is_under_way = False

    async def finish(self) -> None:
        self._over.set()
        await anyio.wait_all_tasks_blocked()

    async def wanted_by(self, owners: str) -> None:
        """Let these owners wait for it from now on."""
        self._owners = [*owners]
        self._places.look()
        await anyio.wait_all_tasks_blocked()


class Bench:
    """Pulls by name: a letter for the owner and a number."""

    def __init__(self, most: int, *, several: bool = True) -> None:
        self.places = PullPlaces(most, lambda: several)
        self.pulls: dict[str, Pull] = {}

    async def ask(self, *names: str) -> None:
        for name in names:
            self.pulls[name] = Pull(self.places, name, name[0])
            await anyio.wait_all_tasks_blocked()

    def __getitem__(self, name: str) -> Pull:
        return self.pulls[name]

    @property
    def under_way(self) -> set[str]:
        return {name for name, pull in self.pulls.items() if pull.is_under_way}


@contextlib.asynccontextmanager
async def bench(most: int, *, several: bool = True) -> AsyncGenerator[Bench]:
    made = Bench(most, several=several)
    yield made
    for pull in made.pulls.values():
        pull.task.cancel()
    await asyncio.gather(*(pull.task for pull in made.pulls.values()), return_exceptions=True)
    with anyio.fail_after(1):  # all places are free again
        async with contextlib.AsyncExitStack() as stack:
            for number in range(most):
                owner = str(number)
                place = made.places.place(lambda owner=owner: [owner], lambda _: None)
                await stack.enter_async_context(place)


async def test_a_sole_owner_has_all_places_and_later_pulls_follow_in_order() -> None:
    async with bench(2, several=False) as on:
        await on.ask("a1", "a2", "a3", "a4")
        assert on.under_way == {"a1", "a2"}
        assert on["a3"].reports == [0]
        assert on["a4"].reports == [1]
        await on["a2"].finish()
        assert on.under_way == {"a1", "a3"}
        assert on["a4"].reports == [1, 0]
        assert on["a1"].reports == []


async def test_one_of_several_owners_has_half_and_does_not_delay_the_others() -> None:
    async with bench(4) as on:
        await on.ask(*(f"a{number}" for number in range(10)))
        assert on.under_way == {"a0", "a1"}
        await on.ask("b1")
        assert on.under_way == {"a0", "a1", "b1"}
        await on.ask("b2", "b3", "c1")
        assert on.under_way == {"a0", "a1", "b1", "b2"}
        await on["a0"].finish()
        assert on.under_way == {"a1", "b1", "b2", "c1"}, (
            "who has none goes first, not who was first"
        )
        await on["b1"].finish()
        assert on.under_way == {"a1", "b2", "c1", "a2"}


async def test_a_shared_pull_is_charged_to_an_owner_who_has_room() -> None:
    async with bench(4) as on:
        await on.ask("a1", "a2", "a3", "a4")
        await on["a4"].wanted_by("ab")
        assert on.under_way == {"a1", "a2", "a4"}
        await on.ask("b1", "b2")
        assert on.under_way == {"a1", "a2", "a4", "b1"}
        await on["a1"].finish()
        assert on.under_way == {"a2", "a4", "b1", "a3"}, "b has half"
        await on["a4"].wanted_by("a")
        await on["a2"].finish()
        assert on.under_way == {"a4", "b1", "a3", "b2"}, "b has gone, and it is on a's account"


async def test_a_cancelled_pull_gives_up_its_place_in_the_queue() -> None:
    async with bench(1) as on:
        await on.ask("a1", "b1", "c1")
        on["b1"].task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert on["c1"].reports == [1, 0]
        on["a1"].task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert on.under_way == {"c1"}


async def test_an_unowned_pull_runs_until_its_place_is_wanted() -> None:
    async with bench(2) as on:
        await on.ask("a1", "b1")
        await on["a1"].wanted_by("")
        assert on.under_way == {"a1", "b1"}
        await on["b1"].wanted_by("")
        await on.ask("c1")
        assert on.under_way == {"b1", "c1"}, "one place was wanted"
        assert on["a1"].task.cancelled()
        await on["c1"].wanted_by("")
        await on["b1"].wanted_by("b")
        await on.ask("b2", "d1")
        assert on.under_way == {"b1", "d1"}, "not for an owner who has his half"


async def test_an_unowned_waiting_pull_takes_no_place() -> None:
    async with bench(1) as on:
        await on.ask("a1", "b1", "c1")
        await on["b1"].wanted_by("")
        await on["a1"].finish()
        assert on.under_way == {"c1"}
        await on["b1"].wanted_by("d")
        await on["c1"].finish()
        assert on.under_way == {"b1"}
