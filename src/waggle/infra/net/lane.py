# SPDX-License-Identifier: Apache-2.0
"""A narrow place through which pieces of bytes pass one after another, in fair turns.

`allowance` has a lane for each environment, and one for all if their rate together is bounded. A
lane lets one piece pass in a turn of the event loop: an environment with many busy connections
takes no more of the loop than one with a single connection. Must not know streams.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from waggle.infra.net.pace import Pace

BURST_SECONDS = 0.25
"""How much of a rate may pass at once after a pause."""


class Lane:
    """Admits one piece in a turn of the loop, and at most `rate` bytes a second; 0 is no rate.

    Pieces wait in one queue for each key, and the queues take turns. Lives on one event loop.
    """

    def __init__(self, rate: int = 0, *, now: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(rate * BURST_SECONDS, rate, now=now) if rate else None
        self._waiting: OrderedDict[Hashable, OrderedDict[asyncio.Future[None], int]] = OrderedDict()
        """Pieces by key, with their sizes; the next in turn comes first."""
        self._is_taken = False

    async def enter(self, size: int, key: Hashable = None) -> None:
        """Wait until a piece of `size` bytes may pass. Cancelling gives up its place."""
        if not self._is_taken:
            self._take(size)
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(key, OrderedDict())[turn] = size
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(key, turn)
            raise

    def _take(self, size: int) -> None:
        """Let a piece pass, and the next one when this one has had its time."""
        self._is_taken = True
        loop = asyncio.get_running_loop()
        seconds = 0.0 if self._pace is None else self._pace.take(size)
        if seconds > 0:
            loop.call_later(seconds, self._next)
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._is_taken = False
        if not self._waiting:
            return
        key, queue = self._waiting.popitem(last=False)
        turn, size = queue.popitem(last=False)
        if queue:
            self._waiting[key] = queue
        self._take(size)
        if not turn.done():
            turn.set_result(None)

    def _leave(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and queue.pop(turn, None) is not None and not queue:
            del self._waiting[key]
