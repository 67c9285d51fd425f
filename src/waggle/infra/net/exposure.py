# SPDX-License-Identifier: Apache-2.0
"""Connections from this host to ports of a guest: how they are opened, and how many may be late.

Used by `service.local` for a guest, and by `guest_request` for what a guest asks of itself. A guest
is hostile: an SSH channel cannot be withdrawn before the other side answers, so requests to a guest
that never does would pile up. `Openings` counts them. Must not know SSH or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from waggle.domain.exposure import MAX_VISITS
from waggle.infra.net import Stream, StreamReaderLike, StreamWriterLike
from waggle.tasks import end

Streams = tuple[StreamReaderLike, StreamWriterLike]


class Openings:
    """Connections being opened to one guest. At most `most` may be late; `aclose` it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._late: set[asyncio.Future[Streams]] = set()

    @property
    def late(self) -> int:
        """The number of connections without a caller that the guest has not answered."""
        return len(self._late)

    async def open(
        self, connect: Callable[[], Awaitable[Streams]], seconds: float
    ) -> Stream | None:
        """Return the stream; None if it fails, takes longer, or too many are late already.

        A connection that arrives late or after the caller was cancelled is closed.
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
        """Give up the late connections. Idempotent."""
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


ANSWER_SECONDS: Final = 10.0
_PAUSE: Final = 0.25

Connect = Callable[[int], Awaitable[Streams]]
"""Connects to a port of the guest; any error it raises means that nothing answers there."""


class Reach:
    """The way to the ports of one guest. Safe for concurrent use on one event loop; `aclose` it."""

    def __init__(self, connect: Connect, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._connect = connect
        self._answer_seconds = answer_seconds
        self._openings = Openings(MAX_VISITS)
        self._closed = False

    @property
    def late(self) -> int:
        """The number of connections that nobody waits for and the guest has not answered."""
        return self._openings.late

    async def connect(self, port: int) -> Stream | None:
        """Connect; see `domain.host.Guest`. The caller ends the stream."""
        return await self._open(port, self._answer_seconds)

    async def answers(self, port: int, seconds: float) -> bool:
        """Return whether something listens on the guest's port within so many seconds.

        This connects to the port and closes the connection at once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            left = max(until - loop.time(), _PAUSE)
            stream = await self._open(port, min(left, self._answer_seconds))
            if stream is not None:
                stream.abort()
                return True
            if self._closed or loop.time() + _PAUSE >= until:
                return False
            await asyncio.sleep(_PAUSE)

    async def clear(self) -> None:
        """Give up the late connections, as the guest is about to be silent. Idempotent."""
        await self._openings.aclose()

    async def aclose(self) -> None:
        """Connect no more. Idempotent."""
        self._closed = True
        await self.clear()

    async def _open(self, port: int, seconds: float) -> Stream | None:
        return (
            None
            if self._closed
            else await self._openings.open(partial(self._connect, port), seconds)
        )
