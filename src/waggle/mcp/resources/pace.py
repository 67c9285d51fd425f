# SPDX-License-Identifier: Apache-2.0
"""When a client is told of changes: at most once per second about one thing, and of the last one.

Pure: the caller brings the time. Used by `changes`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

SECONDS = 1.0
_Marked = TypeVar("_Marked", bound=Hashable)


class Pace(Generic[_Marked]):
    """Events that are to be told, each at most once per `SECONDS` unless it is final."""

    def __init__(self) -> None:
        self._due: dict[_Marked, float] = {}
        self._told: dict[_Marked, float] = {}

    def mark(self, event: _Marked, now: float, *, final: bool = False) -> None:
        """Something changed. What is final is told at once: nothing may follow that would tell."""
        earliest = now if final else self._told.get(event, -math.inf) + SECONDS
        self._due[event] = min(earliest, self._due.get(event, math.inf))

    def take(self, now: float) -> list[_Marked]:
        """What is to be told now; it counts as told."""
        self._told = {each: at for each, at in self._told.items() if at + SECONDS > now}
        ready = [event for event, at in self._due.items() if at <= now]
        for event in ready:
            del self._due[event]
            self._told[event] = now
        return ready

    def next(self) -> float | None:
        """When there is something to tell; None while there is nothing."""
        return min(self._due.values(), default=None)
