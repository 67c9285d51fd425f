# SPDX-License-Identifier: Apache-2.0
"""Heavy work in threads that ends when its caller does, and one at a time for each owner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from waggle.domain.errors import WaggleError
from waggle.domain.observer import release
from waggle.tasks import finish

_T = TypeVar("_T")


class GivenUp(Exception):
    """Whoever wanted the work has gone. Never leaves this module."""


class Turns:
    """Lets each owner's calls pass one after the other; owners do not wait for each other."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncGenerator[None]:
        """Wait for this owner's turn, and have it while the block runs."""
        lock = self._locks.get(owner)
        if lock is None:
            lock = self._locks[owner] = anyio.Lock()
        async with lock:
            yield


async def in_thread(work: Callable[[Callable[[], None]], _T]) -> _T:
    """Run `work` in a thread of its own; it must call what it is given again and again.

    That raises once the caller is cancelled, so a cancelled call ends soon, and its thread with it.
    """
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise GivenUp

    thread = asyncio.ensure_future(anyio.to_thread.run_sync(_without_traces, work, check))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        given_up.set()
        await finish(_ended(thread))
        raise
    finally:
        del thread  # its error has the trace, and the trace this frame


def _without_traces(work: Callable[[Callable[[], None]], _T], check: Callable[[], None]) -> _T:
    """An error keeps the frames that it passed, and these all that the work had in memory."""
    try:
        return work(check)
    except (WaggleError, GivenUp) as error:
        release(error)
        del work, check  # this frame is in the trace of what it raises
        raise


async def _ended(thread: asyncio.Future[_T]) -> None:
    await asyncio.wait({thread})
    if not thread.cancelled() and (error := thread.exception()) is not None:
        release(error)
