# SPDX-License-Identifier: Apache-2.0
"""How many calls an owner may make: a token bucket each. Time is injected; nothing awaits.

Asked by `waggle.mcp` before every tool call.
"""

from __future__ import annotations

from collections.abc import Callable

from waggle.domain.errors import RateLimited

_PRUNE_AT = 4096


class RateLimiter:
    """`per_minute` calls of each owner in a minute, as many at once; 0 allows everything."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}

    def take(self, owner: str) -> None:
        """Count a call. Raises RateLimited, with the seconds to wait; a refused one is not counted.

        What is kept of an owner is when its bucket is full again, so who has called little or long
        ago costs nothing.
        """
        if not self._size:
            return
        now = self._monotonic()
        full_at = max(now, self._full_at.get(owner, now)) + 1 / self._per_second
        missing = full_at - now - self._size / self._per_second
        if missing > 1e-9:
            raise RateLimited("Too many calls in the last minute.", seconds=missing)
        if owner not in self._full_at and len(self._full_at) >= _PRUNE_AT:
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        self._full_at[owner] = full_at
