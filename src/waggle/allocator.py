# SPDX-License-Identifier: Apache-2.0
"""A server's memory: its allocator, its cycle collector, and the return of free memory.

`waggle.__main__` restarts a server with the C library's allocator before anything is imported:
Python's own keeps an arena of 1 MiB while one object in it lives, so memory taken by many sessions
stays taken (docs/benchmarks.md, `sessions`). Large buffers are mapped one by one: otherwise glibc
raises both of its thresholds to the largest buffer ever freed, and keeps twice that for each thread
that parses large messages. `waggle.app.serving` uses the rest: by default the collector scans young
objects several times a call, and all modules and schemas every so often; and it does not run at all
when idle sessions end, because only the making of objects starts it.
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

STARTING = 100_000
"""Objects made before the collector runs in a process that does not serve (yet)."""
YOUNG = 10_000
"""Objects made before the collector runs; each call makes some hundreds, and few cycles."""
LOOK_SECONDS = 5.0
MANY = 100
"""Sessions or connections that justify a pause; one leaves some 40 objects in cycles."""
_ALLOCATOR = "PYTHONMALLOC"
_LARGE_BUFFERS: Final = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""Settings of glibc, in bytes; see mallopt(3)."""


def with_malloc(environ: Mapping[str, str], libc: str) -> dict[str, str] | None:
    """Return the variables to restart a server with; None where no restart is needed. Pure.

    An operator's choice is kept. Other C libraries than glibc allocate slowly, or return no memory.
    """
    if _ALLOCATOR in environ or libc != "glibc":
        return None
    return {**_LARGE_BUFFERS, **environ, _ALLOCATOR: "malloc"}


def c_library(ask: Callable[[], tuple[str, str]] = platform.libc_ver) -> str:
    """Return the name of the C library, such as `glibc`, as `ask` finds it; empty if unknown."""
    try:
        return ask()[0]
    except (OSError, ValueError):  # it reads Python's own file where the system does not know
        return ""


def start_anew_with_malloc(libc: Callable[[], str] = c_library) -> None:
    """Replace this process by the same one with another allocator, unless that is not needed."""
    variables = with_malloc(os.environ, libc())  # noqa: TID251 (Python's, not ours)
    if variables is not None:
        os.execve(sys.executable, sys.orig_argv, variables)  # noqa: S606 (itself, no shell)


@contextlib.contextmanager
def set_for_start_and_end() -> Generator[None]:
    """Collect seldom while modules are imported, and not at the end, when the whole process goes.

    Imports make hundreds of thousands of objects that stay: a server that started and ended took
    3.8 s of CPU time, 1.3 s of it to look for cycles among them.
    """
    try:
        with _collecting_after(STARTING):
            yield
    finally:
        gc.freeze()


@contextlib.contextmanager
def set_for_serving() -> Generator[None]:
    """Exclude existing objects from collection, and collect less often, until the block ends."""
    gc.collect()
    gc.freeze()
    try:
        with _collecting_after(YOUNG):
            yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _collecting_after(objects: int) -> Generator[None]:
    """Collect once so many objects were made, until the block ends."""
    before = gc.get_threshold()
    gc.set_threshold(objects, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Collector:
    """Stops the cycle collector while large messages are parsed; nests. For one thread only.

    Otherwise it would scan all objects made so far again and again, for seconds.
    """

    def __init__(self) -> None:
        self._stopped = 0
        self._was_on = True

    @contextlib.contextmanager
    def stopped(self) -> Generator[None]:
        """Stop the collector until the block ends, for all threads."""
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
"""The only one in a process; only the loop's thread uses it."""


async def give_back(
    held: Callable[[], int],
    sleep: Callable[[float], Awaitable[None]],
    *,
    large: Callable[[], int] = lambda: 0,
    act: Callable[[], None] | None = None,
) -> None:
    """Free memory whenever half of many sessions and connections have ended, until cancelled.

    That pauses the server for some 10 ms for each 1,000 of them. `held` counts them, `large` the
    large messages so far: new ones also cause it. `act` replaces the freeing.
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
    """Collect cycles and return free memory to the system, where the C library can.

    `load` loads that library.
    """
    gc.collect()
    trim(load)


def trim(load: Callable[[], Any] = lambda: ctypes.CDLL(None)) -> None:
    """Return free memory to the system, where the C library can; see `free`."""
    with contextlib.suppress(OSError, AttributeError):  # musl has no such function
        load().malloc_trim(0)
