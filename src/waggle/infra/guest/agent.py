# SPDX-License-Identifier: Apache-2.0
"""The QEMU guest agent protocol and a guest's console.

Used by the hypervisors, which own the streams. The agent protocol is one JSON object per line:
https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The guest may answer late, wrongly,
endlessly or never: lines are bounded, every call has a deadline, and `guest-sync` with a fresh
number drops stale answers before each call. The console shows whether the guest is ready or has
failed, and is kept as a bounded tail and a capped log file; lines are cut and cleaned, and a flood
is read slowly, so that it slows down the guest and not the server.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Final, cast

from waggle.domain.errors import BootFailed, DiskFull, GuestLost
from waggle.domain.machine import READY_LINE
from waggle.infra.shared.disk_room import is_full

MAX_ANSWER: Final = 256 * 1024
DEADLINE: Final = 5.0
_MAX_STALE: Final = 64
_MAX_REASON: Final = 200


class GuestAgent:
    """The client of one guest's agent, one call at a time. The owner closes the streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`reader` must have been opened with a limit of at least MAX_ANSWER."""
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    async def call(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline: float = DEADLINE,
    ) -> object:
        """Return the `return` value of a command. `deadline` is seconds for the whole call.

        Raises GuestLost if the agent does not answer or answers with an error. A call that failed
        or was cancelled does not disturb the next one.
        """
        try:
            async with asyncio.timeout(deadline), self._turn:
                token = secrets.randbelow(1 << 48)
                await self._send("guest-sync", {"id": token})
                await self._synchronise(token)
                await self._send(command, arguments or {})
                answer = _parse(await self._line())
        except TimeoutError:
            raise _failed(command, f"no answer within {deadline:g} s") from None
        except (OSError, EOFError) as error:
            raise _failed(command, "its channel is closed") from error
        except ValueError as error:
            raise _failed(command, str(error)) from error
        if "error" in answer:
            raise _failed(command, f"it refused: {_reason(answer['error'])}")
        return answer.get("return")

    async def _send(self, command: str, arguments: Mapping[str, object]) -> None:
        message = {"execute": command, "arguments": dict(arguments)}
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def _synchronise(self, token: int) -> None:
        """Drop answers to earlier calls, up to the one that returns `token`."""
        for _ in range(_MAX_STALE):
            try:
                if _parse(await self._line()).get("return") == token:
                    return
            except ValueError:
                continue
        raise ValueError("it answers earlier calls only")

    async def _line(self) -> bytes:
        """Read a line. Raises ValueError for one over MAX_ANSWER, whose start is dropped."""
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await self._reader.readexactly(error.consumed)
            raise ValueError("its answer is too long") from error


def _parse(line: bytes) -> dict[str, object]:
    """Parse one answer. Raises ValueError if it is not a JSON object."""
    try:
        message: object = json.loads(line.lstrip(b"\xff"))
    except (ValueError, RecursionError):
        raise ValueError("its answer is not JSON") from None
    if not isinstance(message, dict):
        raise ValueError("its answer is not an object")
    return cast("dict[str, object]", message)


def _reason(error: object) -> str:
    """Return the agent's description of an error, fit for a message."""
    described = cast("dict[str, object]", error).get("desc") if isinstance(error, dict) else error
    text = described if isinstance(described, str) else "no reason given"
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_REASON])


def _failed(command: str, cause: str) -> GuestLost:
    return GuestLost(f"The guest agent did not carry out {command}: {cause}.", hint="")


TAIL_LINES: Final = 40
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
