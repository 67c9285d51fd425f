# SPDX-License-Identifier: Apache-2.0
"""Shared work, the turns of an owner, heavy work in threads, and the rate limit of calls.

`Sharing` lets several callers wait for one piece of work, which continues for a while when all of
them have gone: a client that gives up after a minute finds its image pulled further when it calls
again. `images` uses it, and `idempotency` uses `UnderWay`; `files.trees` uses `Turns` and
`in_thread` for heavy work. `waggle.mcp` calls `RateLimiter` before every tool call; its time is
injected.
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

MAX_UNCLAIMED = 4
MAX_RECENT = 16
"""How many progress reports are kept for a slow follower."""
_T = TypeVar("_T")
Work = Callable[[Progress], Awaitable[_T]]
log = structlog.get_logger(__name__)


class UnderWay(Generic[_T]):
    """One piece of work in a separate task, so that the end of a caller does not end it."""

    def __init__(self, work: Work[_T]) -> None:
        self.waiting: list[str] = []
        """The owners of the calls that wait for it, one entry per call."""
        self.timer: asyncio.TimerHandle | None = None
        self.task = asyncio.ensure_future(work(self._report))
        self._recent: deque[tuple[float, str]] = deque(maxlen=MAX_RECENT)
        self._reported = 0
        self._changed = asyncio.Event()

    async def _report(self, share: float, message: str) -> None:
        self._recent.append((share, message))
        self._reported += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, progress: Progress, *, ended: WaggleError) -> _T:
        """Wait for it and pass on its progress. Cancelling ends the wait only.

        Raises what it raises, or `ended` if it was cancelled.
        """
        passed_on = max(0, self._reported - 1)  # a later follower begins with the newest
        while True:
            if fresh := self._reported - passed_on:
                passed_on = self._reported
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
            raise ended
        return self.task.result()


class Sharing(Generic[_T]):
    """At most one piece of work per key. It continues for `linger` seconds without a caller.

    At most MAX_UNCLAIMED pieces do so: of more, those that were left first are ended.
    """

    def __init__(self, linger: float, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called whenever the result of `owners` may have changed."""
        self._linger = linger
        self._changed = changed
        self._under_way: dict[str, UnderWay[_T]] = {}

    def owners(self, key: str) -> Sequence[str]:
        """Return the owners of the calls that wait for that key, in order of arrival."""
        shared = self._under_way.get(key)
        return () if shared is None else shared.waiting

    async def get(self, key: str, work: Work[_T], progress: Progress, owner: str = "") -> _T:
        """Return the result of the work under that key, which starts now unless it runs.

        Cancelling affects neither other callers nor a call again within `linger` seconds. Raises
        what the work raises, and ImageUnavailable if it was ended meanwhile.
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
            ended = ImageUnavailable("The server gave this up.", hint="Call again.")
            return await shared.follow(progress, ended=ended)
        finally:
            shared.waiting.remove(owner)
            if not shared.waiting and not shared.task.done():
                self._leave(shared)
            self._changed()

    def _leave(self, shared: UnderWay[_T]) -> None:
        loop = asyncio.get_running_loop()
        shared.timer = loop.call_later(self._linger, shared.task.cancel)
        alone = [work for work in self._under_way.values() if work.timer is not None]
        alone.sort(key=lambda work: work.timer.when() if work.timer else 0.0)
        for work in alone[:-MAX_UNCLAIMED]:
            work.task.cancel()

    def _ended(self, key: str, task: asyncio.Future[_T]) -> None:
        shared = self._under_way.pop(key)
        if shared.timer is not None:
            shared.timer.cancel()
        if not task.cancelled() and (error := task.exception()) and not shared.waiting:
            words = error.message if isinstance(error, WaggleError) else type(error).__name__
            log.info("given_up_work_failed", what=key, error=words)

    async def aclose(self) -> None:
        """End all work. Idempotent."""
        with contextlib.suppress(asyncio.CancelledError):
            await end(*(shared.task for shared in self._under_way.values()))


class GivenUp(Exception):
    """The caller of the work has gone. Never leaves this module."""


class Turns:
    """Runs the calls of one owner in turn, `at_once` together; owners do not wait for others."""

    def __init__(self, at_once: int = 1) -> None:
        self._at_once = at_once
        self._free: WeakValueDictionary[str, anyio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncGenerator[None]:
        """Wait for this owner's turn, and hold it while the block runs."""
        free = self._free.get(owner)
        if free is None:
            free = self._free[owner] = anyio.Semaphore(self._at_once)
        async with free:
            yield


async def in_thread(work: Callable[[Callable[[], None]], _T]) -> _T:
    """Run `work` in a thread; it must call its argument again and again.

    That raises once the caller is cancelled, so that a cancelled call and its thread end soon.
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
        del thread  # its error refers to the trace, and the trace to this frame


def _without_traces(work: Callable[[Callable[[], None]], _T], check: Callable[[], None]) -> _T:
    """Run `work`; strip its errors' frames, which would keep all its memory."""
    try:
        return work(check)
    except (WaggleError, GivenUp) as error:
        release(error)
        del work, check  # this frame is in the trace of the error
        raise


async def _ended(thread: asyncio.Future[_T]) -> None:
    await asyncio.wait({thread})
    if not thread.cancelled() and (error := thread.exception()) is not None:
        release(error)


_PRUNE_AT = 4096


class RateLimiter:
    """A token bucket per owner: `per_minute` calls a minute, as many at once; 0 is no limit."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}

    def take(self, owner: str) -> None:
        """Count a call. Raises RateLimited, with the seconds to wait; a refused one is not counted.

        For every owner it keeps the time when the bucket is full again; past times are dropped.
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
