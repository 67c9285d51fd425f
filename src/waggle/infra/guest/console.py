# SPDX-License-Identifier: Apache-2.0
"""A guest's console.

Used by the hypervisors, which own the streams. The console shows whether the guest is ready or has
failed, and is kept as a bounded tail and a capped log file; lines are cut and cleaned, and a flood
is read slowly, so that it slows down the guest and not the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from waggle.domain.errors import BootFailed, DiskFull
from waggle.domain.machine import READY_LINE
from waggle.infra.shared.disk_room import is_full

TAIL_LINES: Final = 64
MAX_LINE: Final = 300
MAX_LOG_BYTES: Final = 1 << 20
FLOOD_BYTES_PER_SECOND: Final = 256 * 1024
_CHUNK: Final = 16 * 1024
_FATAL: Final = (b"Kernel panic", b"waggle: boot failed")


def clean(raw: bytes) -> str:
    """Make a console line fit for a log or a message: no control characters, bounded length."""
    text = raw[:MAX_LINE].decode("utf-8", "replace").strip()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Console:
    """The state of one console. `ready` and `failed` are set once and stay set."""

    def __init__(self, log: Path, noise: str = "") -> None:
        """Open the log file for appending. Raises BootFailed or DiskFull; `close` it.

        VMM messages that contain `noise` are not kept: a guest can cause them without end.
        """
        self.ready = asyncio.Event()
        self.failed = asyncio.Event()
        self.cause: str | None = None
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._noise = noise
        self._room = MAX_LOG_BYTES
        try:
            self._log = log.open("ab", buffering=0)
        except OSError as error:
            if is_full(error):
                raise DiskFull(f"The server's disk is full: {log.name} has no room.") from error
            raise BootFailed(f"{log.name} cannot be opened: {error.strerror}.") from error

    def tail(self) -> list[str]:
        """Return the last lines, oldest first."""
        rest = clean(self._rest)
        return [*self._lines, rest] if rest else list(self._lines)

    def note(self, text: str) -> None:
        """Add a line from the host, such as the VMM's error output, to tail and log."""
        line = clean(text.encode())
        self._lines.append(line)
        self._keep(line.encode() + b"\n")

    def close(self) -> None:
        """Close the log. Idempotent."""
        self._log.close()

    def feed(self, data: bytes) -> None:
        """Take bytes that the guest wrote."""
        self._keep(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_CHUNK:]
        for line in lines:
            self._take(line)
        if READY_LINE in self._rest:
            self.ready.set()

    def _keep(self, data: bytes) -> None:
        """Log the first MAX_LOG_BYTES. A log that cannot be written must not stop the machine."""
        if self._room <= 0 or self._log.closed:
            return
        try:
            self._room -= self._log.write(data[: self._room])
        except OSError as error:
            self._room = 0  # so that the note below is not logged
            self.note(f"waggle: the console log ends here: {error.strerror}")

    def _take(self, line: bytes) -> None:
        text = clean(line)
        if text:
            self._lines.append(text)
        if READY_LINE in line:
            self.ready.set()
        elif self.cause is None and any(sign in line for sign in _FATAL):
            self.cause = text
            self.failed.set()

    async def follow(self, reader: asyncio.StreamReader) -> None:
        """Read until the stream ends or breaks. Cancel it to stop."""
        async for data in _paced(reader):
            self.feed(data)

    async def follow_messages(self, reader: asyncio.StreamReader) -> None:
        """Note the lines of another stream, the VMM's own messages, until it ends."""
        rest = b""
        async for data in _paced(reader):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:MAX_LINE]
            for line in lines[-TAIL_LINES:]:
                self._note_message(line.decode("utf-8", "replace"))
        if rest:
            self._note_message(rest.decode("utf-8", "replace"))

    def _note_message(self, message: str) -> None:
        if not self._noise or self._noise not in message:
            self.note(message)


async def _paced(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yield data until the stream ends or breaks, at most FLOOD_BYTES_PER_SECOND or so."""
    loop = asyncio.get_running_loop()
    second, count = loop.time(), 0
    while data := await _read(reader):
        yield data
        count += len(data)
        now = loop.time()
        if now - second >= 1:
            second, count = now, 0
        elif count > FLOOD_BYTES_PER_SECOND:
            await asyncio.sleep(1 - (now - second))


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""
