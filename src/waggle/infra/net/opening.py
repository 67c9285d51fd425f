# SPDX-License-Identifier: Apache-2.0
"""Connections into a guest: asked for, waited for a while, and counted until they are answered.

Used by `exposure` and `home`. An SSH channel cannot be taken back before the other side has
answered, so a guest that never does would otherwise be asked for more and more of them. Must not
know SSH.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from waggle.infra.net.streams import Stream, StreamReaderLike, StreamWriterLike
from waggle.tasks import end

Streams = tuple[StreamReaderLike, StreamWriterLike]


class Openings:
    """What one guest is asked for. At most `most` may be late; `aclose` it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._late: set[asyncio.Future[Streams]] = set()

    @property
    def late(self) -> int:
        """How many the guest has still not answered, though nobody waits any more."""
        return len(self._late)

    async def open(
        self, connect: Callable[[], Awaitable[Streams]], seconds: float
    ) -> Stream | None:
        """The stream, or None when it fails, or takes longer, or too many are late already.

        What comes late, or after the caller was cancelled, is closed.
        """
        if len(self._late) >= self._most:
            return None
        opening = asyncio.ensure_future(connect())
        try:
            async with asyncio.timeout(seconds):
                return Stream(*await asyncio.shield(opening))
        except asyncio.CancelledError:
            self._leave(opening)
            raise
        except Exception:
            self._leave(opening)
            return None

    async def aclose(self) -> None:
        """Wait for nothing more. Idempotent."""
        await end(*self._late)

    def _leave(self, opening: asyncio.Future[Streams]) -> None:
        self._late.add(opening)
        if opening.done():
            self._came_late(opening)
        else:
            opening.add_done_callback(self._came_late)

    def _came_late(self, opening: asyncio.Future[Streams]) -> None:
        self._late.discard(opening)
        if not opening.cancelled() and opening.exception() is None:
            Stream(*opening.result()).abort()
