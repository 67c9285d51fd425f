# SPDX-License-Identifier: Apache-2.0
"""Bytes both ways between two streams, unseen: what a CONNECT becomes once it is granted.

Called by `egress`. Holds one piece of at most 64 KiB per direction: a side is not read while the
other one cannot take more.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from waggle.infra.net.streams import PeerGone, Stream


class IdleLimit:
    """`async with IdleLimit(seconds) as idle:` raises TimeoutError that long after `touch`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = asyncio.timeout(seconds)
        self._touched = 0.0

    def touch(self) -> None:
        """Something moved. Cheap: the timer itself is moved only now and then."""
        now = asyncio.get_running_loop().time()
        if now - self._touched > self._seconds / 16:
            self._touched = now
            self._scope.reschedule(now + self._seconds)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._scope.__aexit__(kind, error, trace)


async def relay(client: Stream, upstream: Stream, early: bytes, idle_seconds: float) -> None:
    """Copy both ways until both sides have ended; `early` goes upstream first.

    A side that ends is passed on as the end of that direction only. Raises PeerGone when a side
    breaks off, TimeoutError when nothing moved for `idle_seconds`. The caller ends both streams
    in every case.
    """
    broken = False
    try:
        async with IdleLimit(idle_seconds) as idle, asyncio.TaskGroup() as group:
            group.create_task(_pump(client, upstream, idle, early))
            group.create_task(_pump(upstream, client, idle))
    except* PeerGone:
        broken = True
    if broken:
        raise PeerGone


async def _pump(source: Stream, sink: Stream, idle: IdleLimit, first: bytes = b"") -> None:
    data = first or await source.read()
    while data:
        await sink.write(data)
        idle.touch()
        data = await source.read()
    sink.write_eof()
