# SPDX-License-Identifier: Apache-2.0
"""Memory of a server: Python's cycle collector set for it, and what sessions leave given back.

Used by `waggle.app_http` around serving. By default the collector walks through young objects
several times in each call, and through all modules and schemas every so often; and when sessions
end because nobody comes back, it does not run at all, for it runs when objects are made.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Awaitable, Callable, Generator

import anyio

YOUNG = 10_000
"""Objects that are made before it looks at them; each call makes some hundreds, and few cycles."""
LOOK_SECONDS = 5.0
MANY = 100
"""Sessions that are worth a pause; each leaves some 40 objects in cycles."""


@contextlib.contextmanager
def set_for_serving() -> Generator[None]:
    """Leave out what is there now, and look less often, until the block ends."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def give_back(
    sessions: Callable[[], int],
    *,
    act: Callable[[], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> None:
    """Free memory whenever half of many sessions have gone, until cancelled.

    That pauses the server, for some 10 ms for each 1,000 of them. `act` is what is done instead.
    """
    most = sessions()
    while True:
        await sleep(LOOK_SECONDS)
        now = sessions()
        most = max(most, now)
        if most >= MANY and now <= most // 2:
            (act or free)()
            most = now


def free() -> None:
    """Collect cycles, and give free memory back to the system, where the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # musl has no such function
        ctypes.CDLL(None).malloc_trim(0)
