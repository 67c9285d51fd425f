# SPDX-License-Identifier: Apache-2.0
"""One websocket: a stream of bytes and control texts, bounded in both directions.

`GuardedProtocol.upgrade` gives it a connection after `handshake`; `waggle.web.terminal` uses it.
The frames are those of the package websockets, without extensions. What a client sends is read only
as fast as the application takes it, and parsed in slices, so that a flood of tiny frames leaves the
loop to others; what it does not read is not sent, except small answers. Knows no terminals.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from waggle.web.answers import Fields

SLICE = 4 << 10
"""Bytes that are parsed before others have a turn."""
SEND_AHEAD = 64 << 10
"""Bytes that wait to be sent before `send` waits."""
_KEY_BYTES = 16
_VERSION = b"13"
_SILENT_PINGS = 2
_POLICY, _NOT_TEXT = 1008, 1007
_QUIET = logging.getLogger("waggle.web.websocket.frames")
_QUIET.setLevel(logging.CRITICAL)
"""The package's messages, which at the level of debugging contain what people type."""


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """The largest message in bytes, and its fragments.

    A ping is sent every `ping_seconds`; a connection without a sign of life for two is ended, and
    so is one whose client does not answer a close within `close_seconds`.
    """

    message: int = 64 << 10
    fragments: int = 64
    ping_seconds: float = 30.0
    close_seconds: float = 5.0


def handshake(headers: Fields, subprotocol: str = "") -> bytes | None:
    """Return the answer that opens a websocket; None if the request is no proper offer of one."""
    key = headers.get(b"sec-websocket-key", b"")
    single = headers.repeated.isdisjoint((b"sec-websocket-key", b"sec-websocket-version"))
    if not single or headers.get(b"sec-websocket-version") != _VERSION or not _is_key(key):
        return None
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key.decode('ascii'))}\r\n{chosen}\r\n"
    ).encode()


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


class WebSocket(asyncio.Protocol):
    """An open websocket. `lost` is called when its connection is closed."""

    def __init__(self, limits: SocketLimits, lost: Callable[[Exception | None], None]) -> None:
        self._limits = limits
        self._lost = lost
        self._frames = ServerProtocol(state=State.OPEN, max_size=limits.message, logger=_QUIET)
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._received: deque[bytearray | str] = deque()
        self._waiting = 0
        """Bytes of the messages that wait."""
        self._is_scheduled = False
        self._is_over = False
        """Whether what the client sends is not wanted any more."""
        self._parts: list[bytes] = []
        self._is_text = False
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._is_alive = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as asyncio calls it
        """Take over the connection."""
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_AHEAD)

    def data_received(self, data: bytes) -> None:
        """Parse the first slice, and leave the rest for later turns."""
        self._is_alive = True
        self._unparsed += data
        self._parse()

    @property
    def _is_full(self) -> bool:
        return len(self._received) > 1 or self._waiting >= self._limits.message

    def _parse_later(self) -> None:
        self._is_scheduled = False
        self._parse()

    def _parse(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._frames.state is State.CLOSED:
            self._unparsed.clear()
            return
        if self._unparsed and not self._is_full:
            piece = bytes(self._unparsed[:SLICE])
            del self._unparsed[:SLICE]
            self._feed(transport, piece)
        if self._unparsed or self._received:
            transport.pause_reading()
        else:
            transport.resume_reading()
        if self._unparsed and not self._is_full and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._parse_later)

    def _feed(self, transport: asyncio.Transport, piece: bytes) -> None:
        self._frames.receive_data(piece)
        for frame in self._frames.events_received():
            if isinstance(frame, Frame) and not self._is_over:
                self._take(frame)
        self._flush(transport)
        if self._frames.state is not State.OPEN:
            self._arrived.set()

    def _flush(self, transport: asyncio.Transport) -> None:
        """Send answers to pings, of which a client that does not read gets none; and a close."""
        answers = b"".join(self._frames.data_to_send())
        is_open = self._frames.state is State.OPEN
        if answers and (self._writable.is_set() or not is_open):
            transport.write(answers)
        if not is_open and self._frames.close_expected() and self._frames.close_rcvd is not None:
            transport.close()

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
            self._parts = []
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            if len(self._parts) >= self._limits.fragments:
                self._refuse(_POLICY, "too many fragments")
            return
        message, self._parts = b"".join(self._parts), []
        if not self._is_text:
            self._join(message)
            return
        try:
            self._received.append(message.decode())
        except UnicodeDecodeError:
            self._refuse(_NOT_TEXT, "not UTF-8")
            return
        self._waiting += len(message)
        self._arrived.set()

    def _refuse(self, code: int, reason: str) -> None:
        self._is_over = True
        self._frames.fail(code, reason)

    def _join(self, data: bytes) -> None:
        """Add bytes to those that wait: they are a stream."""
        last = self._received[-1] if self._received else ""
        if isinstance(last, bytearray):
            last += data
        elif data:
            self._received.append(bytearray(data))
        self._waiting += len(data)
        self._arrived.set()

    def pause_writing(self) -> None:
        """Have `send` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` continue: the client reads."""
        self._is_alive = True
        self._writable.set()

    def eof_received(self) -> None:
        """Close the connection: a client that sends nothing more is gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all that wait."""
        self._frames.receive_eof()
        self._closed.set()
        self._arrived.set()
        self._writable.set()
        self._unparsed.clear()
        self._lost(exc)

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close it."""
        return self._frames.state is State.OPEN and not self._closed.is_set()

    async def receive(self) -> bytes | str | None:
        """Return the next bytes, all that wait, or the next text; None once it is closing.

        What came before the close is returned first.
        """
        while not self._received:
            if not self.is_open:
                return None
            self._arrived.clear()
            self._parse()
            if not self._received and self.is_open:
                await self._arrived.wait()
        message = self._received.popleft()
        self._waiting = 0 if not self._received else self._waiting - len(message)
        self._parse()
        return bytes(message) if isinstance(message, bytearray) else message

    async def send(self, message: bytes | str) -> None:
        """Send a message; wait until the client has read most of what was sent before.

        Nothing happens once it is closing.
        """
        await self._writable.wait()
        if self._transport is None or not self.is_open:
            return
        try:
            if isinstance(message, str):
                self._frames.send_text(message.encode())
            else:
                self._frames.send_binary(message)
        except InvalidState:
            return
        self._transport.write(b"".join(self._frames.data_to_send()))

    async def keep(self) -> None:
        """Send pings until it is closed, and end it when the client gives no sign of life."""
        silent = 0
        while self.is_open and self._transport is not None:
            silent = 0 if self._is_alive or self._received else silent + 1
            self._is_alive = False
            if silent == _SILENT_PINGS:
                self._transport.abort()
                return
            self._frames.send_ping(secrets.token_bytes(4))
            self._transport.write(b"".join(self._frames.data_to_send()))
            try:
                async with asyncio.timeout(self._limits.ping_seconds):
                    await self._closed.wait()
            except TimeoutError:
                continue

    async def close(self, code: int, reason: str = "") -> None:
        """Close it, and return when it is closed; after a bounded time."""
        transport = self._transport
        if transport is None:
            return
        self._is_over = True
        if self.is_open:
            self._frames.send_close(code, reason)
            transport.write(b"".join(self._frames.data_to_send()))
        self._received.clear()
        self._waiting = 0
        self._parse()
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                await self._closed.wait()
        except TimeoutError:
            transport.abort()
