# SPDX-License-Identifier: Apache-2.0
"""How many images are pulled at once: in all, and for one owner; the others wait for a place.

Used by `ImageService`. Knows nothing of images: a pull is whatever holds a place. An owner who has
fewer goes first, then who came first, so one with many costs another none of his turns. Waiting
holds no connection and no thread; how many wait is bounded by the environments they are for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from waggle.domain.access import SeveralOwners, one_owner, share_of

Owners = Callable[[], Sequence[str]]
"""Who waits for a pull now. Nobody: it goes on until somebody else wants its place."""


@dataclass(eq=False, slots=True)
class _Pull:
    """One that has a place or waits for one. `owner` is on whose account it began."""

    owners: Owners
    tell: Callable[[int], None]
    task: asyncio.Task[Any] | None
    owner: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    ahead: int = -1

    def account(self) -> str | None:
        """On whose account it is now: when an owner has gone, on that of the next who waits."""
        owners = self.owners()
        return self.owner if self.owner in owners else next(iter(owners), None)


class PullPlaces:
    """The places of one server, `most` in all. One owner has half of them if there are several."""

    def __init__(self, most: int, several_owners: SeveralOwners = one_owner) -> None:
        self._most = most
        self._several_owners = several_owners
        self._waiting: list[_Pull] = []
        self._under_way: list[_Pull] = []

    @contextlib.asynccontextmanager
    async def place(self, owners: Owners, tell: Callable[[int], None]) -> AsyncGenerator[None]:
        """Wait for a place and hold it. The task that asks is cancelled if it is for nobody.

        `tell` is told how many are ahead while it waits. Call `look` when `owners` changes.
        """
        pull = _Pull(owners, tell, asyncio.current_task())
        self._waiting.append(pull)
        try:
            self.look()
            await pull.begun.wait()
            yield
        finally:
            (self._under_way if pull.begun.is_set() else self._waiting).remove(pull)
            self.look()

    def look(self) -> None:
        """Give places to those whose turn it is, and tell the others how many are ahead."""
        while turn := self._next():
            if len(self._under_way) >= self._most:
                self._end_one_for_nobody()
                break
            pull, pull.owner = turn
            self._waiting.remove(pull)
            self._under_way.append(pull)
            pull.begun.set()
        for ahead, pull in enumerate(self._waiting):
            if pull.ahead != ahead:
                pull.ahead = ahead
                pull.tell(ahead)

    def _next(self) -> tuple[_Pull, str] | None:
        """Whose turn it is, whether or not a place is free, and on whose account it will be."""
        accounts = [pull.account() for pull in self._under_way]
        turns = [
            (accounts.count(owner), pull, owner)
            for pull in self._waiting
            for owner in pull.owners()
        ]
        held, pull, owner = min(turns, key=lambda turn: turn[0], default=(0, None, ""))
        share = share_of(self._most, several=self._several_owners())
        return (pull, owner) if pull is not None and held < share else None

    def _end_one_for_nobody(self) -> None:
        """The oldest, unless one is about to end already: then its place is the one."""
        idle = [pull for pull in self._under_way if not pull.owners()]
        if idle and not any(pull.ending for pull in idle) and (task := idle[0].task):
            idle[0].ending = True
            task.cancel()
