# SPDX-License-Identifier: Apache-2.0
"""Memory of a server: who allocates it, when it is collected, and how it is given back.

`waggle.__main__` starts a server anew with the C library's allocator, before anything is imported:
Python's own keeps arenas of 1 MiB while one object in them lives, so what many sessions took stays
taken (docs/benchmarks.md, `sessions`). Large buffers are mapped one by one there: else it raises
both of its thresholds to the largest buffer that was ever freed, and keeps twice as much for each
thread that parses large messages. `waggle.app.http` uses the rest around serving: by default
the cycle collector walks through young objects several times in each call, and through all modules
and schemas every so often; and when sessions end because nobody comes back, it does not run at
all, for it runs when objects are made.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Final

YOUNG = 10_000
"""Objects that are made before it looks at them; each call makes some hundreds, and few cycles."""
LOOK_SECONDS = 5.0
MANY = 100
"""Sessions or connections that are worth a pause; each leaves some 40 objects in cycles."""
_ALLOCATOR = "PYTHONMALLOC"
_LARGE_BUFFERS: Final = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""Of glibc, in bytes; see mallopt(3)."""


def with_malloc(environ: Mapping[str, str], libc: str) -> dict[str, str] | None:
    """The variables to start a server anew with; None where it is fine as it is. Pure.

    An operator's choice counts. Other C libraries than glibc allocate slowly, or give nothing back.
    """
    if _ALLOCATOR in environ or libc != "glibc":
        return None
    return {**_LARGE_BUFFERS, **environ, _ALLOCATOR: "malloc"}


def c_library(ask: Callable[[], tuple[str, str]] = platform.libc_ver) -> str:
    """The name of the C library, such as `glibc`; empty if it cannot be found. `ask` finds it."""
    try:
        return ask()[0]
    except (OSError, ValueError):  # it looks into Python's own file where the system cannot tell
        return ""


def start_anew_with_malloc(libc: Callable[[], str] = c_library) -> None:
    """Replace this process by the same one, with another allocator, unless it is fine as it is."""
    variables = with_malloc(os.environ, libc())  # noqa: TID251 (Python's, not ours)
    if variables is not None:
        os.execve(sys.executable, sys.orig_argv, variables)  # noqa: S606 (itself, no shell)


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


class Collector:
    """Stops the cycle collector while large messages are parsed; nests. For one thread only.

    It would go through all that was made so far again and again, for seconds.
    """

    def __init__(self) -> None:
        self._stopped = 0
        self._was_on = True

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Not to run until the block ends, whichever threads work meanwhile."""
        if self._stopped == 0:
            self._was_on = gc.isenabled()
            gc.disable()
        self._stopped += 1
        try:
            yield
        finally:
            self._stopped -= 1
            if self._stopped == 0 and self._was_on:
                gc.enable()


COLLECTOR = Collector()
"""There is one in a process, and only the loop's thread uses it."""


async def give_back(
    held: Callable[[], int],
    sleep: Callable[[float], Awaitable[None]],
    *,
    large: Callable[[], int] = lambda: 0,
    act: Callable[[], None] | None = None,
) -> None:
    """Free memory whenever half of many sessions and connections have gone, until cancelled.

    That pauses the server, for some 10 ms for each 1,000 of them. `held` counts these, `large` the
    large messages so far: after some it is done, too. `act` is what is done instead.
    """
    most, before = held(), large()
    while True:
        await sleep(LOOK_SECONDS)
        now, seen = held(), large()
        most = max(most, now)
        if (most >= MANY and now <= most // 2) or seen != before:
            (act or free)()
            most, before = now, seen


def free(load: Callable[[], Any] = lambda: ctypes.CDLL(None)) -> None:
    """Collect cycles, and give free memory back to the system, where the C library can.

    `load` loads that library.
    """
    gc.collect()
    trim(load)


def trim(load: Callable[[], Any] = lambda: ctypes.CDLL(None)) -> None:
    """Give free memory back to the system, where the C library can; see `free`."""
    with contextlib.suppress(OSError, AttributeError):  # musl has no such function
        load().malloc_trim(0)
