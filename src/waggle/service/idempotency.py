# SPDX-License-Identifier: Apache-2.0
"""Does keyed work once: whoever calls again with the key gets the first call's result.

Called by `waggle.mcp` around tools that take an idempotency key. Results are opaque text here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import structlog

from waggle.domain.access import CallStore, KeyedCall
from waggle.domain.errors import KeyReused, OutcomeUnknown, WaggleError

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
