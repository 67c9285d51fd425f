# SPDX-License-Identifier: Apache-2.0
"""A timeout that stands still while the machine is paused. Used for runs and for jobs."""

from __future__ import annotations

import asyncio


class Deadline:
    """`timeout` is entered once, by whoever waits; None means without end."""

    def __init__(self, seconds: float | None) -> None:
        self.timeout = asyncio.timeout(seconds)
        self._seconds = seconds
        self._left: float | None = None

    @property
    def remaining(self) -> float:
        """The seconds that are left; less than 0 once it is over."""
        if self._left is not None:
            return self._left
        when = self.timeout.when()
        now = asyncio.get_running_loop().time()
        return (self._seconds or 0.0) if when is None else when - now

    def set_paused(self, paused: bool) -> None:
        """Stop the timeout, or restart it with the time left."""
        now, when = asyncio.get_running_loop().time(), self.timeout.when()
        if self.timeout.expired():
            return
        if paused and when is not None:
            self._left = when - now
            self.timeout.reschedule(None)
        elif not paused and self._left is not None:
            self.timeout.reschedule(now + self._left)
            self._left = None
