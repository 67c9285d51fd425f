# SPDX-License-Identifier: Apache-2.0
"""How many refusals of its proxy a guest gets in a second. Used by `session`; nothing awaits.

A refusal costs the guest a connection to its own loopback and the server about a millisecond of the
one event loop that serves everybody, more than half of it for the packets of SSH.
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
        self._each = 1 / per_second
        self._now = now
        self._next = -math.inf

    def take(self) -> float:
        """Count one more; how many seconds it has to wait."""
        now = self._now()
        self._next = max(self._next, now - self._ahead) + self._each
        return max(0.0, self._next - now)

    @property
    def is_over(self) -> bool:
        """Whether the next one would have to wait."""
        return self._next + self._each > self._now() + _ROUNDING
