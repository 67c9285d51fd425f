# SPDX-License-Identifier: Apache-2.0
"""The next page of a file, read from the guest while the client still takes in the last one.

Used by `waggle.service.local.guest` in front of `files`. A client that asks for page after page
then waits for the guest and for itself at the same time. What was read ahead serves only the call
that continues where the last one ended, within FRESH_SECONDS and with nothing else asked of the
guest in between, so no client sees a file as it was before its own last call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from waggle.domain.files.filesystem import FileSlice

FRESH_SECONDS: Final = 1.0


class Read(Protocol):
    """Reads a part of a file; see `domain.host.Guest.read_file`."""

    async def __call__(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """From `offset`, at most `length` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What is known of a file from `start` on: `tail`, then what `coming` brings."""

    path: str
    start: int
    tail: bytes
    coming: asyncio.Task[FileSlice]
    began: float

    @property
    def stop(self) -> int:
        """Where the part that is still coming begins."""
        return self.start + len(self.tail)


class ReadAhead:
    """One page ahead of one reader. Holds two pages for at most FRESH_SECONDS."""

    def __init__(self, read: Read, clock: Callable[[], float] | None = None) -> None:
        self._read = read
        self._clock = clock or asyncio.get_running_loop().time
        self._ahead: _Ahead | None = None

    async def read(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        """As `read`, but perhaps from what was read ahead; less than `length` is no end then.

        The next page is begun only where a client has asked for a second one.
        """
        part = await self._take(path, offset, length)
        if part is None:
            part = await self._read(path, offset=offset, length=length, limit=limit)
        stop = offset + len(part.data)
        if 0 < offset < stop < part.size:
            coming = self._read(path, offset=stop, length=length, limit=limit)
            self._begin(path, offset, part.data, asyncio.ensure_future(coming))
        return part

    def forget(self) -> None:
        """Whatever comes now may change files. A read under way ends by itself: it is bounded."""
        self._ahead = None

    def _begin(self, path: str, start: int, tail: bytes, coming: asyncio.Task[FileSlice]) -> None:
        ahead = self._ahead = _Ahead(path, start, tail, coming, self._clock())
        coming.add_done_callback(_look)
        asyncio.get_running_loop().call_later(FRESH_SECONDS, self._expire, ahead)

    def _expire(self, ahead: _Ahead) -> None:
        if self._ahead is ahead:
            self._ahead = None

    async def _take(self, path: str, offset: int, length: int) -> FileSlice | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.path != path or not ahead.start < offset <= ahead.stop:
            return None
        await asyncio.wait({ahead.coming})
        if self._clock() - ahead.began > FRESH_SECONDS or ahead.coming.exception() is not None:
            return None
        more = ahead.coming.result()
        data = ahead.tail[offset - ahead.start :] + more.data
        return FileSlice(data[:length], more.size)


def _look(task: asyncio.Task[FileSlice]) -> None:
    """A failure is for the call that asks for this page itself."""
    if not task.cancelled():
        task.exception()
