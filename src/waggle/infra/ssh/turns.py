# SPDX-License-Identifier: Apache-2.0
"""Shares the turns of an event loop among connections whose peers may send without end.

Used by `bounded`. In one turn of the loop all connections together compute for about TURN, then
everything else gets its turn; those that have more to do take turns in the order they came.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

TURN: Final = 0.003
"""Seconds. A worker checks its deadline between two packets, so one packet may exceed it."""


class Worker(Protocol):
    """A connection with work to do."""

    def work(self, deadline: float) -> bool:
        """Work until `deadline`, in seconds of the clock; return whether more can be done now."""
        ...


class Turns:
    """The workers that wait on one event loop, each at most once."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._waiting: deque[Worker] = deque()
        self._is_taken = False
        """Whether this turn of the loop has had its work, or the next turn is arranged for."""

    def want(self, worker: Worker) -> None:
        """Have it work: at once if this turn still has time, else when its turn comes."""
        if worker not in self._waiting:
            self._waiting.append(worker)
        if not self._is_taken:
            self._run()

    def _run(self) -> None:
        self._is_taken = True
        began = self._clock()
        deadline = began + TURN
        try:
            while self._waiting and self._clock() < deadline:
                worker = self._waiting.popleft()
                if worker.work(deadline):
                    self._waiting.append(worker)
        finally:  # one that fails must not end the turns of the others
            if self._waiting or self._clock() - began > TURN / 2:
                self._call_soon(self._run)
            else:
                self._is_taken = False


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """The turns of a loop: one set, whoever asks."""
    if loop not in _of_loops:
        _of_loops[loop] = Turns(_soon)
    return _of_loops[loop]


def _soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)
