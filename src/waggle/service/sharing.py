# SPDX-License-Identifier: Apache-2.0
"""Work that several callers wait for, and that goes on for a while when all of them have gone.

Used by `images` and `unclaimed`: a client that gives up after a minute and calls again finds its
image further on.

Heavy work in threads that ends when its caller does, and one at a time for each owner.

How many calls an owner may make: a token bucket each. Time is injected; nothing awaits.

Asked by `waggle.mcp` before every tool call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
import structlog

from waggle.domain.errors import ImageUnavailable, RateLimited, WaggleError
from waggle.domain.host import Progress
from waggle.domain.observer import release
from waggle.tasks import end, finish

MAX_FOR_NOBODY = 4
MAX_RECENT = 16
"""Of what is told, so many are kept for who is slow to hear it."""
_T = TypeVar("_T")
Work = Callable[[Progress], Awaitable[_T]]
log = structlog.get_logger(__name__)


class UnderWay(Generic[_T]):
    """One piece of work. It has a task of its own, so that no caller's end is its end."""

    def __init__(self, work: Work[_T]) -> None:
        self.waiting: list[str] = []
        """The owners of the calls that wait for it, each as often as it calls."""
        self.timer: asyncio.TimerHandle | None = None
        self.task = asyncio.ensure_future(work(self._tell))
        self._recent: deque[tuple[float, str]] = deque(maxlen=MAX_RECENT)
        self._told = 0
        self._changed = asyncio.Event()

    async def _tell(self, share: float, message: str) -> None:
        self._recent.append((share, message))
        self._told += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, progress: Progress, *, ended: Callable[[], WaggleError]) -> _T:
        """Wait for it, and pass on what it tells. Cancelling ends the wait only.

        Raises what it raises, and what `ended` makes when it was cancelled.
        """
        heard = max(0, self._told - 1)  # who comes later begins with the newest
        while True:
            if fresh := self._told - heard:
                heard = self._told
                for share, message in [*self._recent][-fresh:]:
                    await progress(share, message)
            elif self.task.done():
                break
            else:
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({self.task, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        if self.task.cancelled():
            raise ended()
        return self.task.result()


class Sharing(Generic[_T]):
    """At most one piece of work for each key. `linger` is seconds that it goes on for nobody.

    At most MAX_FOR_NOBODY pieces do so: of more, those go first that were left longest ago.
    """

    def __init__(self, linger: float, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called whenever others wait than before; see `owners`."""
        self._linger = linger
        self._changed = changed
        self._under_way: dict[str, UnderWay[_T]] = {}

    def owners(self, key: str) -> Sequence[str]:
        """Of those who wait for the work under that key now, who came first first."""
        shared = self._under_way.get(key)
        return () if shared is None else shared.waiting

    async def get(self, key: str, work: Work[_T], progress: Progress, owner: str = "") -> _T:
        """What the work under that key comes to, begun now unless it is under way.

        Cancelling takes nothing from others who wait, nor from who calls again within `linger`.
        Raises what the work raises, and ImageUnavailable when it was ended meanwhile.
        """
        shared = self._under_way.get(key)
        if shared is None:
            shared = self._under_way[key] = UnderWay(work)
            shared.task.add_done_callback(lambda task: self._ended(key, task))
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        shared.waiting.append(owner)
        self._changed()
        try:
            return await shared.follow(progress, ended=_given_up)
        finally:
            shared.waiting.remove(owner)
            if not shared.waiting and not shared.task.done():
                self._leave(shared)
            self._changed()

    def _leave(self, shared: UnderWay[_T]) -> None:
        loop = asyncio.get_running_loop()
        shared.timer = loop.call_later(self._linger, shared.task.cancel)
        alone = [each for each in self._under_way.values() if each.timer is not None]
        for each in sorted(alone, key=_until)[:-MAX_FOR_NOBODY]:
            each.task.cancel()

    def _ended(self, key: str, task: asyncio.Future[_T]) -> None:
        shared = self._under_way.pop(key)
        if shared.timer is not None:
            shared.timer.cancel()
        if not task.cancelled() and (error := task.exception()) and not shared.waiting:
            log.info("given_up_work_failed", what=key, error=_words(error))

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        with contextlib.suppress(asyncio.CancelledError):
            await end(*(shared.task for shared in self._under_way.values()))


def _given_up() -> WaggleError:
    return ImageUnavailable("The server gave this up.", hint="Call again.")


def _until(shared: UnderWay[_T]) -> float:
    return shared.timer.when() if shared.timer is not None else 0.0


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, WaggleError) else type(error).__name__


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
