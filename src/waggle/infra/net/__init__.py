# SPDX-License-Identifier: Apache-2.0
"""Byte streams in both directions over any transport, how they are opened, and `relay` between two.

`Stream` wraps a reader and a writer of asyncio, or of asyncssh in bytes mode (the reverse forward
out of a guest). It gives this package's modules one error, one way to end well (`finish`) and one
to end at once (`abort`). `relay`, used for a granted CONNECT and for exposed ports, copies bytes
unseen and holds one piece of at most 32 KiB per direction: it does not read a side while the other
cannot take more. `connect_first` opens a TCP connection for `dial`. Imports neither HTTP nor SSH.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, cast

from waggle.domain.exposure import ByteStream, StreamLost

CHUNK = 32 * 1024


class StreamReaderLike(Protocol):
    """The common part of asyncio.StreamReader and asyncssh.SSHReader[bytes]."""

    async def read(self, n: int = -1, /) -> bytes:
        """Read at most `n` bytes; empty at the end."""
        ...


class StreamWriterLike(Protocol):
    """The common part of asyncio.StreamWriter and asyncssh.SSHWriter[bytes]."""

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
        """End the write direction."""
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
    """The layer under a writer: an asyncio transport or an asyncssh channel."""

    def abort(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class _Receiving(Protocol):
    """A transport of asyncio's selector loop, which receives 256 KiB at once unless changed."""

    max_size: int


class PeerGone(StreamLost):
    """The other end of a stream is gone."""


class Stream:
    """A reader and a writer, owned by one coroutine, which calls `finish` or `abort`."""

    def __init__(self, reader: StreamReaderLike, writer: StreamWriterLike) -> None:
        self.sent = 0
        """Bytes written."""
        self.received = 0
        """Bytes read."""
        self._reader = reader
        self._writer = writer

    async def read(self, limit: int = CHUNK) -> bytes:
        """Read at most `limit` bytes; empty at the end. Raises PeerGone."""
        try:
            data = await self._reader.read(limit)
        except Exception as error:  # every transport has its own errors for a lost peer
            raise PeerGone(type(error).__name__) from error
        self.received += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Write all of `data` and wait until the buffer is low again. Raises PeerGone."""
        try:
            if self._writer.is_closing():
                raise BrokenPipeError
            self._writer.write(data)
            await self._writer.drain()
        except Exception as error:
            raise PeerGone(type(error).__name__) from error
        self.sent += len(data)

    def write_eof(self) -> None:
        """End the write direction; reading is not affected. Idempotent."""
        with contextlib.suppress(Exception):
            if self._writer.can_write_eof() and not self._writer.is_closing():
                self._writer.write_eof()

    async def finish(self, flush: float, linger: float) -> None:
        """Deliver the buffered bytes, then close and release everything.

        `flush` and `linger` are seconds: for the peer to take the buffer, and to close its side.
        Bytes that it sends meanwhile are read and dropped, because closing a socket with unread
        input resets the connection, and the last answer may be lost.
        Raises no error of its own; aborts if time is up, the peer is gone or the caller cancelled.
        """
        with contextlib.suppress(Exception), contextlib.ExitStack() as undo:
            undo.callback(self.abort)
            async with asyncio.timeout(flush):
                conduit = self._conduit()
                if conduit is not None:
                    conduit.set_write_buffer_limits(0)  # from now on, drained means empty
                await self._writer.drain()
            async with asyncio.timeout(linger):
                self.write_eof()
                while await self._reader.read(CHUNK):
                    pass
                self._writer.close()
                await self._writer.wait_closed()
            undo.pop_all()

    def abort(self) -> None:
        """Drop the stream and all unsent bytes at once. Idempotent; does not block."""
        with contextlib.suppress(Exception):
            conduit = self._conduit()
            if conduit is not None:
                conduit.abort()
        with contextlib.suppress(Exception):
            self._writer.close()

    def _conduit(self) -> _Conduit | None:
        for name in ("transport", "channel"):
            found: object = getattr(self._writer, name, None)
            if hasattr(found, "abort") and hasattr(found, "set_write_buffer_limits"):
                return cast("_Conduit", found)
        return None


@contextlib.asynccontextmanager
async def idle_limit(seconds: float) -> AsyncGenerator[Callable[[], None]]:
    """Yield a function that notes activity; raise TimeoutError `seconds` after its last call.

    A call is cheap: the timer itself moves at most 16 times per `seconds`.
    """
    loop = asyncio.get_running_loop()
    touched = 0.0

    def touch() -> None:
        nonlocal touched
        now = loop.time()
        if now - touched > seconds / 16 and not scope.expired():
            touched = now
            scope.reschedule(now + seconds)

    async with asyncio.timeout(seconds) as scope:
        yield touch


Begin = Callable[[ByteStream, bytes], Awaitable[bytes]]
"""Reads a client's first bytes, of which some came early, and returns those to pass on."""


async def relay(
    client: ByteStream,
    upstream: ByteStream,
    early: bytes,
    idle_seconds: float,
    begin: Begin | None = None,
) -> None:
    """Copy both ways until both sides have ended; `early` goes upstream first, as `begin` says.

    The end of a side is passed on as the end of that direction only. Raises PeerGone if a side
    breaks off, TimeoutError if no byte moved for `idle_seconds`. The caller ends both streams in
    every case.
    """
    broken = False
    try:
        async with idle_limit(idle_seconds) as touch, asyncio.TaskGroup() as group:
            group.create_task(_pump(client, upstream, touch, early, begin))
            group.create_task(_pump(upstream, client, touch))
    except* StreamLost:
        broken = True
    if broken:
        raise PeerGone


async def _pump(
    source: ByteStream,
    sink: ByteStream,
    touch: Callable[[], None],
    first: bytes = b"",
    begin: Begin | None = None,
) -> None:
    data = first or await source.read()
    if begin is not None:
        data = await begin(source, data)
    while data:
        await sink.write(data)
        touch()
        data = await source.read()
    sink.write_eof()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect_first(
    addresses: Sequence[IPv4Address | IPv6Address], port: int, stagger: float
) -> tuple[Connection, IPv4Address | IPv6Address] | None:
    """Connect to the first address that answers; None if none does. Not bounded in time.

    Each address has `stagger` seconds before the next one is tried beside it.
    """
    chosen = await _Race(addresses, port, stagger).run()
    return None if chosen is None else (await _wrap(chosen[0]), chosen[1])


class _Race:
    """Attempts at the addresses, started one after another; the first to connect wins."""

    def __init__(
        self, addresses: Sequence[IPv4Address | IPv6Address], port: int, stagger: float
    ) -> None:
        self._addresses = addresses
        self._port = port
        self._stagger = stagger
        self._settled = asyncio.Event()
        self._attempts: list[asyncio.Task[None]] = []
        self._winner: tuple[socket.socket, IPv4Address | IPv6Address] | None = None

    async def run(self) -> tuple[socket.socket, IPv4Address | IPv6Address] | None:
        """Return the connected socket and its address, or None if every attempt failed."""
        try:
            async with asyncio.TaskGroup() as group:
                for address in self._addresses:
                    if self._winner is not None:
                        break
                    self._settled.clear()
                    self._attempts.append(group.create_task(self._attempt(address)))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._stagger):
                            await self._settled.wait()
        except BaseException:
            if self._winner is not None:
                self._winner[0].close()
            raise
        return self._winner

    async def _attempt(self, address: IPv4Address | IPv6Address) -> None:
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        with contextlib.ExitStack() as undo:
            try:
                connecting = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
                connecting.setblocking(False)
                place = (str(address), self._port)
                await asyncio.get_running_loop().sock_connect(connecting, place)
            except OSError:
                self._settled.set()
                return
            if self._winner is None:
                self._winner = connecting, address
                undo.pop_all()
                for other in self._attempts:
                    if other is not asyncio.current_task():
                        other.cancel()
            self._settled.set()


async def _wrap(connected: socket.socket) -> Connection:
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A server that sends to a guest which reads nothing fills these buffers: 64 KiB.
        reader, writer = await asyncio.open_connection(sock=connected, limit=CHUNK // 2)
        cast("_Receiving", writer.transport).max_size = CHUNK
        return reader, writer
    except BaseException:
        connected.close()
        raise
