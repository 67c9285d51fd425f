# SPDX-License-Identifier: Apache-2.0
"""A rate with a burst, for what a guest may do often but not without end.

`egress` paces refusals with it. Pure but for the clock, which it is given.
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
        burst: int = BURST,
        per_second: int = PER_SECOND,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ahead = burst / per_second
        self._interval = 1 / per_second
        self._now = now
        self._next = -math.inf

    def take(self) -> float:
        """Count one more item; return how many seconds it has to wait."""
        now = self._now()
        self._next = max(self._next, now - self._ahead) + self._interval
        return max(0.0, self._next - now)

    @property
    def is_over(self) -> bool:
        """Whether the next item would have to wait."""
        return self._next + self._interval > self._now() + _ROUNDING
