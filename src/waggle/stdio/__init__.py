# SPDX-License-Identifier: Apache-2.0
"""The two descriptors of a stdio client, and the bounded lines read from them.

`waggle serve --stdio` claims the descriptors before anything can print; `waggle.stdio.server`
reads, writes and splits. Of a line that is too long only its beginning and end are kept: enough to
find the id of the request, so that its client gets an answer. The descriptors stay blocking, since
a terminal shares that flag with its other programs. So a read or write is made only when the kernel
reports that it will not block, and a write is no longer than a ready pipe always accepts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from waggle.domain.errors import SettingsInvalid

ENDS = 4096
"""Bytes kept of both ends of a line that is too long."""

_ID = rb'"id"\s*:\s*(-?\d{1,18}|"(?:[^"\\]|\\.){0,200}")'
_FIRST = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,200}"\s*,)*\s*' + _ID)
_LAST = re.compile(rb"[,{]\s*" + _ID + rb"\s*\}\s*\Z")


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line that was dropped: its size in bytes, its beginning and its end."""

    size: int
    head: bytes
    tail: bytes

    def request_id(self) -> int | str | None:
        """Return the id of the message if it is among the first members or the last one."""
        found = _FIRST.match(self.head) or _LAST.search(self.tail)
        try:
            return json.loads(found[1]) if found else None
        except ValueError:
            return None


class Lines:
    """A splitter of bytes into lines. Holds at most `longest` bytes and the piece being fed."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._line = bytearray()
        self._tail = b""
        self._dropped = 0

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """Yield the lines that `data` completes, without their line ends."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._add(data[start:end])
            yield self.end()
            start = end + 1
        self._add(data[start:])

    def _add(self, piece: bytes) -> None:
        if not self._dropped and len(self._line) + len(piece) <= self._longest:
            self._line += piece
            return
        if not self._dropped:
            self._dropped = len(self._line)
            self._tail = bytes(self._line[-ENDS:])
            self._line += piece[:ENDS]
            del self._line[ENDS:]
        self._dropped += len(piece)
        self._tail = (self._tail + piece[-ENDS:])[-ENDS:]

    def end(self) -> bytes | TooLong:
        """Return the rest after the last line end; empty when there is none."""
        line, dropped, tail = bytes(self._line), self._dropped, self._tail
        self._line, self._dropped, self._tail = bytearray(), 0, b""
        return TooLong(dropped, line, tail) if dropped else line


READ_BYTES = 256 * 1024
PIECE = 4096
"""Linux's PIPE_BUF: a pipe that polls writable has room for this many bytes."""
_PIECES_AT_ONCE = 64

_Wait = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wire:
    """The descriptors from which messages are read and to which they are written."""

    source: int
    target: int

    async def read(self) -> bytes:
        """Return the bytes that have arrived; empty at the end of input. Raises OSError."""
        await _ready(anyio.wait_readable, self.source)
        return os.read(self.source, READ_BYTES)

    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting for a client that does not read. Raises OSError.

        Cancelling leaves a torn line.
        """
        poll = select.poll()
        poll.register(self.target, select.POLLOUT)
        view = memoryview(data)
        while view:
            await _ready(anyio.wait_writable, self.target)
            for _ in range(_PIECES_AT_ONCE):
                view = view[os.write(self.target, view[:PIECE]) :]
                if not view or not poll.poll(0):
                    break
            await anyio.lowlevel.checkpoint()


async def _ready(wait: _Wait, descriptor: int) -> None:
    try:
        await wait(descriptor)
    except PermissionError:  # epoll refuses regular files and /dev/null, which never block
        await anyio.lowlevel.checkpoint()


def claim() -> Wire:
    """Reserve standard input and output for messages, for the rest of this process.

    From then on, file descriptor 0 is empty and 1 leads to standard error, so that no output of a
    library or child process gets between the messages. Raises SettingsInvalid if one is closed.
    """
    try:
        wire = Wire(*(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (0, 1)))
    except OSError as error:
        raise SettingsInvalid(
            f"Standard input or output is closed ({error.strerror}).",
            hint="'waggle serve --stdio' is started by an MCP client, which talks over both.",
        ) from error
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    os.close(nothing)
    return wire
