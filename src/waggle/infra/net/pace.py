# SPDX-License-Identifier: Apache-2.0
"""A rate with a burst, for what a guest may do often but not without end.

`egress` paces refusals with it, `resolver` new names, `allowance` bytes. Pure but for the clock,
which it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

BURST = 100
PER_SECOND = 20
_ROUNDING = 1e-9


class Pace:
    """A token bucket: `burst` at once, then `per_second`."""

    def __init__(
        self,
        burst: float = BURST,
        per_second: float = PER_SECOND,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ahead = burst / per_second
        self._interval = 1 / per_second
        self._now = now
        self._next = -math.inf

    def take(self, count: int = 1) -> float:
        """Count `count` more items; return how many seconds they have to wait."""
        now = self._now()
        self._next = max(self._next, now - self._ahead) + self._interval * count
        return max(0.0, self._next - now)

    def take_within(self, seconds: float) -> float | None:
        """Count one more item if it has to wait at most `seconds`; return how long, or None."""
        return self.take() if self.wait(1) <= seconds + _ROUNDING else None

    def wait(self, count: int) -> float:
        """Return how many seconds `count` more items would have to wait, counting none."""
        now = self._now()
        return max(self._next, now - self._ahead) + self._interval * count - now

    @property
    def is_over(self) -> bool:
        """Whether the next item would have to wait."""
        return self.wait(1) > _ROUNDING
