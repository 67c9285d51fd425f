# SPDX-License-Identifier: Apache-2.0
"""Lines of bounded length from a guest that may write anything, and the pace at which to read on.

Used by `channel`. `Lines` never holds more than one line of the limit; `Pace` lets a reader have
what was not asked for only so fast, so that a flood slows down the guest and not the server: while
the reader rests, the guest's port fills up. Neither knows what a line says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Final

FLOOD_BYTES_PER_SECOND: Final = 256 * 1024
BURST: Final = 1 << 20
"""Bytes that are taken at once after a quiet time."""
_LINE: Final = 256
"""Bytes that a line counts in addition: short ones take their time, too."""
_TURN: Final = 16
"""Lines after which others have a turn."""


class Lines:
    """Divides a stream into lines of at most `limit` bytes with their ends; longer ones go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._skips = False
        self._dropped = 0

    @property
    def held(self) -> int:
        """The bytes of the line that has not ended yet."""
        return len(self._rest)

    def dropped(self) -> int:
        """Return how many bytes of empty and too long lines have come since the last call."""
        count, self._dropped = self._dropped, 0
        return count

    def feed(self, data: bytes) -> Generator[bytes]:
        """Yield the lines that end in `data`, without their ends; empty ones are left out."""
        size, at = len(data), 0
        while b"\n\n" in data:
            data = data.replace(b"\n\n", b"\n")
        self._dropped += size - len(data)
        while (end := data.find(b"\n", at)) >= 0:
            self._add(data[at:end])
            at = end + 1
            if self._rest and not self._skips:
                line = bytes(self._rest)
                self._rest.clear()
                yield line
            self._skips = False
        self._add(data[at:])

    def _add(self, piece: bytes) -> None:
        if not self._skips and len(self._rest) + len(piece) >= self._limit:
            self._skips = True
            self._dropped += len(self._rest)
            self._rest = bytearray()
        if self._skips:
            self._dropped += len(piece)
        else:
            self._rest += piece


class Pace:
    """An account of what a guest sends unasked: it gets FLOOD_BYTES_PER_SECOND, up to BURST."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns the loop's time in seconds."""
        self._now = now
        self._then = now()
        self._credit = float(BURST)
        self._turns = 0

    def charge(self, count: int) -> None:
        """Note a line, or a part of one, that was not asked for."""
        now = self._now()
        earned = (now - self._then) * FLOOD_BYTES_PER_SECOND
        self._credit = min(BURST, self._credit + earned) - count - _LINE
        self._then = now

    def delay(self) -> float:
        """Return the seconds to wait before reading on."""
        return max(0.0, -self._credit / FLOOD_BYTES_PER_SECOND)

    async def rest(self) -> None:
        """Wait as long as `delay` says, and let others have a turn now and then."""
        self._turns += 1
        if (seconds := self.delay()) or self._turns % _TURN == 0:
            await asyncio.sleep(seconds)
