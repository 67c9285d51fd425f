# SPDX-License-Identifier: Apache-2.0
"""One byte stream in both directions, whoever carries it.

`Stream` wraps a reader and a writer of asyncio, or of asyncssh in bytes mode (the reverse forward
out of a guest), and gives `tunnel` and `forward` one error, one way to end well (`finish`) and
one to end at once (`abort`). Imports neither HTTP nor SSH.

Bytes both ways between two streams, unseen: what a CONNECT becomes once it is granted.

Called by `egress`. Holds one piece of at most 64 KiB per direction: a side is not read while the
other one cannot take more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, cast

CHUNK = 64 * 1024


class StreamReaderLike(Protocol):
    """What is used of asyncio.StreamReader and asyncssh.SSHReader[bytes]."""

    async def read(self, n: int = -1, /) -> bytes:
        """At most `n` bytes; empty at the end."""
        ...


class StreamWriterLike(Protocol):
    """What is used of asyncio.StreamWriter and asyncssh.SSHWriter[bytes]."""

    def write(self, data: bytes, /) -> None:
        """Take `data` into the buffer."""
        ...

    async def drain(self) -> None:
        """Wait until the buffer is low enough to write more."""
        ...

    def can_write_eof(self) -> bool:
        """Whether the stream can end in one direction only."""
        ...

    def write_eof(self) -> None:
        """End the direction that is written."""
        ...

    def close(self) -> None:
        """End both directions once the buffer is sent."""
        ...

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        ...

    async def wait_closed(self) -> None:
        """Wait until `close` has taken effect."""
        ...


class _Conduit(Protocol):
    """What lies under a writer: an asyncio transport or an asyncssh channel."""

    def abort(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class PeerGone(Exception):
    """The other end of a stream is no longer there."""


class Stream:
    """A reader and a writer. Owned by one coroutine, which ends it by `finish` or `abort`."""

    def __init__(
        self,
        reader: StreamReaderLike,
        writer: StreamWriterLike,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`count` is told the size of every piece that is written."""
        self._reader = reader
        self._writer = writer
        self._count = count

    async def read(self, limit: int = CHUNK) -> bytes:
        """At most `limit` bytes; empty at the end. Raises PeerGone."""
        try:
            return await self._reader.read(limit)
        except Exception as error:  # every transport has a family of its own for a lost peer
            raise PeerGone(type(error).__name__) from error

    async def write(self, data: bytes) -> None:
        """Write all of `data` and wait until the buffer is low again. Raises PeerGone."""
        try:
            if self._writer.is_closing():
                raise BrokenPipeError
            self._writer.write(data)
            await self._writer.drain()
        except Exception as error:
            raise PeerGone(type(error).__name__) from error
        self._count(len(data))

    def write_eof(self) -> None:
        """Say that nothing more will be written; reading goes on. Idempotent."""
        with contextlib.suppress(Exception):
            if self._writer.can_write_eof() and not self._writer.is_closing():
                self._writer.write_eof()

    async def finish(self, flush: float, linger: float) -> None:
        """Deliver what is written, then end and release everything.

        `flush` and `linger` are seconds: for the peer to take what is buffered, and to say
        goodbye. What it still sends meanwhile is dropped, because a socket that is closed with
        unread input resets the connection, and the last answer may be lost with it.
        Raises nothing; when time is up, the peer is gone or the caller is cancelled, aborts.
        """
        ended = False
        try:
            async with asyncio.timeout(flush):
                conduit = self._conduit()
                if conduit is not None:
                    conduit.set_write_buffer_limits(0)  # from here on, drained means empty
                await self._writer.drain()
            async with asyncio.timeout(linger):
                self.write_eof()
                await self._drop_input()
                self._writer.close()
                await self._writer.wait_closed()
            ended = True
        except Exception:  # noqa: S110 - gone already, or too slow: there is nothing to save
            pass
        finally:
            if not ended:
                self.abort()

    def abort(self) -> None:
        """Drop the stream at once, with what is not yet sent. Idempotent; does not block."""
        with contextlib.suppress(Exception):
            conduit = self._conduit()
            if conduit is not None:
                conduit.abort()
        with contextlib.suppress(Exception):
            self._writer.close()

    async def _drop_input(self) -> None:
        while await self._reader.read(CHUNK):
            pass

    def _conduit(self) -> _Conduit | None:
        for name in ("transport", "channel"):
            found: object = getattr(self._writer, name, None)
            if hasattr(found, "abort") and hasattr(found, "set_write_buffer_limits"):
                return cast("_Conduit", found)
        return None


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
