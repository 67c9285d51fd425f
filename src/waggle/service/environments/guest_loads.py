# SPDX-License-Identifier: Apache-2.0
"""How busy all guests are, as they say, for the operator's metrics.

`EnvironmentService` has the one `GuestLoads` of a server; the page of /metrics has it refreshed.
Asking also finds the agents that are lost. Knows no owners and no texts: it counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, Protocol

from waggle.domain.errors import GuestLost
from waggle.domain.guest_agent import GuestLoad, GuestTotals

FRESH_SECONDS: Final = 5.0
"""How long what guests said counts; more scrapes than that ask nobody."""
ALL_SECONDS: Final = 3.0
"""For all guests, which are asked at the same time: the slow ones of one owner hide no others."""


class Loaded(Protocol):
    """The part of `LiveEnvironment` that is asked here."""

    def load(self) -> Coroutine[object, object, GuestLoad | None]:
        """See `LiveEnvironment`."""
        ...


class GuestLoads:
    """The loads of the guests of live environments."""

    def __init__(
        self,
        live: Callable[[], Iterable[Loaded]],
        now: Callable[[], float],
        patience: float = ALL_SECONDS,
    ) -> None:
        """`now` returns seconds; who has not answered after `patience` is not counted."""
        self._patience = patience
        self._live = live
        self._now = now
        self._asked_at = float("-inf")
        self._turn = asyncio.Lock()
        self.totals = GuestTotals()

    async def refresh(self) -> None:
        """Ask all guests, unless that was done just now. Never raises; bounded in time."""
        async with self._turn:
            if self._now() - self._asked_at < FRESH_SECONDS:
                return
            asking = [asyncio.create_task(one.load()) for one in self._live()]
            try:
                if asking:
                    await asyncio.wait(asking, timeout=self._patience)
            finally:
                for task in asking:
                    task.cancel()
            said = await asyncio.gather(*asking, return_exceptions=True)
            self.totals = _totals(said)
            self._asked_at = self._now()


def _totals(said: Iterable[GuestLoad | BaseException | None]) -> GuestTotals:
    """Add up the loads. None is a guest that does not run, or does not say. Pure."""
    answers = [*said]
    loads = [one for one in answers if isinstance(one, GuestLoad)]
    return GuestTotals(
        answering=len(loads),
        lost=sum(isinstance(one, GuestLost) for one in answers),
        memory_total=sum(one.memory_total for one in loads),
        memory_available=sum(one.memory_available for one in loads),
        processes=sum(one.processes for one in loads),
        load=sum(one.load for one in loads),
        stalled=sum((one.stalled or 0) > 10 for one in loads),
    )
