# SPDX-License-Identifier: Apache-2.0
"""At most a line a second of each kind: the first at once, then how many more there were.

Used by the audit log and, through the composition root, for what guests are kept from. Whoever
causes such lines is hostile and must not fill the disk with them. Must not know what the lines say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

SECONDS = 1.0
T = TypeVar("T")


def after(seconds: float, do: Callable[[], None]) -> None:
    """Do it on this event loop, so much later."""
    asyncio.get_running_loop().call_later(seconds, do)


class Thinning(Generic[T]):
    """Passes items on to `tell(item, more)`: `more` others of its kind were left out before it.

    What is kept are the last item and a number for each kind of the last second.
    """

    def __init__(
        self,
        tell: Callable[[T, int], None],
        later: Callable[[float, Callable[[], None]], None] = after,
    ) -> None:
        self._tell = tell
        self._later = later
        self._kept: dict[Hashable, tuple[T | None, int]] = {}

    def __call__(self, kind: Hashable, item: T) -> None:
        """Tell of `item` now, or have it counted."""
        if (kept := self._kept.get(kind)) is not None:
            self._kept[kind] = item, kept[1] + 1
            return
        self._kept[kind] = None, 0
        self._later(SECONDS, lambda: self._go_on(kind))
        self._tell(item, 0)

    def flush(self) -> None:
        """Tell now what is only counted so far."""
        for kind in tuple(self._kept):
            self._tell_rest(kind)

    def _go_on(self, kind: Hashable) -> None:
        if self._tell_rest(kind):
            self._later(SECONDS, lambda: self._go_on(kind))
        else:
            self._kept.pop(kind, None)

    def _tell_rest(self, kind: Hashable) -> bool:
        last, count = self._kept.get(kind, (None, 0))
        if last is None:
            return False
        self._kept[kind] = None, 0
        self._tell(last, count - 1)
        return True
