# SPDX-License-Identifier: Apache-2.0
"""Does keyed work once: whoever calls again with the key gets the first call's result.

Called by `waggle.mcp` around tools that take an idempotency key. Results are opaque text here.

Work whose caller has gone: it goes on a while, for the same call again.

Many clients give up after a minute. What `create_environment` had begun then is not lost: who calls
with the same arguments again takes it up. Two calls that both wait never share one piece. What
nobody takes up is undone after LINGER seconds, and at once where it is in somebody's way. An owner
has at most one such piece: hanging up again and again holds no more than one call does.

Belongs to `EnvironmentService`; used by `waggle.mcp`. Knows nothing of what the work is.
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
"""Does it, and returns the result to keep; None when nothing was done, so it may be tried again."""


@dataclass(frozen=True, slots=True)
class _Running:
    fingerprint: str
    ended: anyio.Event = field(default_factory=anyio.Event)


class Repeats:
    """Keyed calls of one server."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._running: dict[tuple[str, str], _Running] = {}

    async def once(self, call: KeyedCall, work: KeyedWork, *, lost_with_server: bool) -> str | None:
        """Return the result kept under the key, or do the work; None when `work` did it just now.

        A second call while the first runs waits for it. When the first fails by an exception or is
        cancelled, its key is free again. `lost_with_server` says that an interrupted call left
        nothing once the server was restarted, so that it may be done anew. Raises KeyReused,
        OutcomeUnknown (the server ended in the middle), and what `work` raises.
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
        """Keep the result; what was done is done, so a store that fails is only logged."""
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
"""Seconds."""
_T = TypeVar("_T")
Undo = Callable[[Any], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Left:
    """A piece of work that nobody waits for."""

    wanted: object
    work: UnderWay[Any]
    undo: Undo
    timer: asyncio.TimerHandle


class Unclaimed:
    """The pieces of one server, by owner."""

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
        """What `work` comes to: of a call with an equal `wanted` that was given up, or new work.

        Cancelling leaves it for the next such call. `undo` takes back what it came to when there is
        none. Raises what the work raises, and NotFound when the server ended it.
        """
        piece = self._claim(owner, wanted) or UnderWay(work)
        try:
            return await piece.follow(progress, ended=_ended)
        except BaseException:
            if not piece.task.done() or not _failed(piece.task):
                self._leave(owner, wanted, piece, undo)
            raise

    async def make_room(self, owner: str, refusal: WaggleError) -> bool:
        """End the owner's piece, or all where the server is full; whether there was any."""
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
        """End all, from now on at once. Idempotent."""
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
        """The time is over, or it has failed: the next call begins anew."""
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


def _ended() -> WaggleError:
    return NotFound("The server ended this call.", hint="Call again.")


def _failed(task: asyncio.Future[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


async def _undone(left: _Left) -> None:
    """Wait for its end, and take back what it has come to all the same."""
    await asyncio.wait({left.work.task})
    if not _failed(left.work.task):
        try:
            await left.undo(left.work.task.result())
        except WaggleError as error:
            log.warning("unclaimed_work_left", error=str(error))
