# SPDX-License-Identifier: Apache-2.0
"""Repeated calls: keyed work that is done once, and creates that outlive a caller who gave up.

`Repeats` is used by `waggle.mcp` around tools that take an idempotency key; results are opaque text
here. `Unclaimed` belongs to `EnvironmentService`: many clients give up after a minute, and a client
that calls `create_environment` again with the same arguments takes up the work that its first call
began. It knows nothing of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import anyio
import structlog

from waggle.domain.access import CallStore, KeyedCall
from waggle.domain.errors import KeyReused, MaxEnvironments, NotFound, OutcomeUnknown, WaggleError
from waggle.domain.host import Progress
from waggle.service.sharing import UnderWay, Work

log = structlog.get_logger(__name__)
KeyedWork = Callable[[], Awaitable[str | None]]
"""Does it and returns the result to keep; None if nothing was done, so it may be tried again."""


@dataclass(frozen=True, slots=True)
class _Running:
    fingerprint: str
    ended: anyio.Event = field(default_factory=anyio.Event)


class Repeats:
    """The keyed calls of one server."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._running: dict[tuple[str, str], _Running] = {}

    async def once(self, call: KeyedCall, work: KeyedWork, *, lost_with_server: bool) -> str | None:
        """Return the result kept under the key, or do the work; None if `work` was done just now.

        A second call waits while the first runs. If the first raises or is cancelled, its key is
        free again. `lost_with_server` says that an interrupted call leaves nothing after a restart
        of the server, so that it may be done again. Raises KeyReused, OutcomeUnknown (the server
        ended in the middle), and what `work` raises.
        """
        place = (call.owner, call.key)
        while running := self._running.get(place):
            _check(call, running.fingerprint)
            await running.ended.wait()
        running = self._running[place] = _Running(call.fingerprint)
        try:
            return await self._first(call, work, lost_with_server=lost_with_server)
        finally:
            del self._running[place]
            running.ended.set()

    async def _first(
        self, call: KeyedCall, work: KeyedWork, *, lost_with_server: bool
    ) -> str | None:
        known = await self._store.find(call)
        if known is not None:
            _check(call, known.fingerprint)
            if known.result is not None:
                return known.result
            if not lost_with_server:
                raise OutcomeUnknown("The server ended while the call with this key ran.")
        await self._store.begin(call)
        result: str | None = None
        try:
            result = await work()
        finally:
            with anyio.CancelScope(shield=True):
                await self._record(call, result)
        return None

    async def _record(self, call: KeyedCall, result: str | None) -> None:
        """Keep the result. The work is done already, so a failure of the store is only logged."""
        try:
            if result is None:
                await self._store.forget(call)
            else:
                await self._store.finish(call, result)
        except WaggleError:
            log.exception("call_not_recorded")


def _check(call: KeyedCall, fingerprint: str) -> None:
    if call.fingerprint != fingerprint:
        raise KeyReused("This idempotency_key was used for another call.")


LINGER: Final = 120.0
"""Seconds for which work without a caller is kept."""
_T = TypeVar("_T")
Undo = Callable[[Any], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Left:
    """A piece of work without a caller."""

    wanted: object
    work: UnderWay[Any]
    undo: Undo
    timer: asyncio.TimerHandle


class Unclaimed:
    """Work without a caller, at most one piece per owner, to be taken up by an equal call.

    Two waiting calls never share a piece. A piece is undone after `linger` seconds, and at once if
    its slot is needed. With one piece per owner, giving up repeatedly holds no more than one call.
    """

    def __init__(self, linger: float = LINGER) -> None:
        """`linger` is seconds."""
        self._linger = linger
        self._left: dict[str, _Left] = {}
        self._ending: set[asyncio.Future[None]] = set()
        self._closed = False

    async def take_up(
        self,
        owner: str,
        wanted: object,
        work: Work[_T],
        progress: Progress,
        *,
        undo: Callable[[_T], Awaitable[None]],
    ) -> _T:
        """Return the result of work left by a call with an equal `wanted`, or else of `work`.

        Cancelling leaves it for the next such call. If there is none, `undo` takes its result back.
        Raises what the work raises, and NotFound if the server ended it.
        """
        piece = self._claim(owner, wanted) or UnderWay(work)
        try:
            ended = NotFound("The server ended this call.", hint="Call again.")
            return await piece.follow(progress, ended=ended)
        except BaseException:
            if not piece.task.done() or not _failed(piece.task):
                self._leave(owner, wanted, piece, undo)
            raise

    async def make_room(self, owner: str, refusal: WaggleError) -> bool:
        """End the owner's piece, or else all if the server is full; return if there was any."""
        theirs = self._left.pop(owner, None)
        pieces = [theirs] if theirs else []
        if not pieces and isinstance(refusal, MaxEnvironments):
            pieces, self._left = [*self._left.values()], {}
        for piece in pieces:
            self._drop(piece)
        if self._ending:
            await asyncio.wait(set(self._ending))
        return bool(pieces)

    async def aclose(self) -> None:
        """End all pieces, and later ones at once. Idempotent."""
        self._closed = True
        for owner in [*self._left]:
            self._drop(self._left.pop(owner))
        with anyio.CancelScope(shield=True):
            while self._ending:
                await asyncio.wait(set(self._ending))

    def _claim(self, owner: str, wanted: object) -> UnderWay[Any] | None:
        left = self._left.get(owner)
        if left is None or left.wanted != wanted:
            return None
        del self._left[owner]
        left.timer.cancel()
        return left.work

    def _leave(self, owner: str, wanted: object, work: UnderWay[Any], undo: Undo) -> None:
        if before := self._left.pop(owner, None):
            self._drop(before)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._linger, lambda: self._forget(owner, left, drop=True))
        left = _Left(wanted, work, undo, timer)
        if self._closed:
            self._drop(left)
            return
        self._left[owner] = left
        work.task.add_done_callback(
            lambda task: self._forget(owner, left, drop=False) if _failed(task) else None
        )

    def _forget(self, owner: str, left: _Left, *, drop: bool) -> None:
        """Forget a piece that has expired or failed: the next call starts new work."""
        if self._left.get(owner) is left:
            del self._left[owner]
            left.timer.cancel()
            if drop:
                self._drop(left)

    def _drop(self, left: _Left) -> None:
        left.timer.cancel()
        left.work.task.cancel()
        ending = asyncio.ensure_future(_undone(left))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _failed(task: asyncio.Future[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


async def _undone(left: _Left) -> None:
    """Wait for its end, and undo its result if it has one."""
    await asyncio.wait({left.work.task})
    if not _failed(left.work.task):
        try:
            await left.undo(left.work.task.result())
        except WaggleError as error:
            log.warning("unclaimed_work_left", error=str(error))
