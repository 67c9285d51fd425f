# SPDX-License-Identifier: Apache-2.0
"""Request bodies: read within limits of size, structure, time and memory, then parsed.

Called by `waggle.web.endpoint`. A body is read whole before it is parsed. Small bodies are bounded
only by the number of connections. A larger one first reserves its bytes from its owner's share,
and waits while that is used up, so an owner who fills the share delays no other owner. Large ones
are parsed in a thread, one at a time, and the arguments of a large call are left in the request's
scope for `waggle.mcp`. Knows of tools only which ones carry files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread
from starlette.types import Message, Receive, Scope

from waggle import jsonrpc
from waggle.allocator import COLLECTOR
from waggle.jsonrpc import NoMessage, read
from waggle.large import ARGUMENTS, LARGE, Sizes, read_large
from waggle.structure import Structure, StructureRefusedError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits in bytes: of one body, of one without a file, of all of one owner, of all owners.

    31 MiB let a 10 MiB file through in one call: as base64 (4/3), and as text whose every character
    a client escapes (six bytes for two: 3), with room for the rest of the message. Code of 512,000
    bytes, escaped in the same way, fits into `ordinary`. Bodies up to `small` are not counted.
    A body has `grace` seconds, and one more per `rate` bytes that arrived; one that finds no room
    waits `patience` seconds. A body whose structure no honest client sends is refused `penalty`
    seconds later, so that checking such bodies takes little of the server's time.
    """

    one: int = 31 * MIB
    ordinary: int = 2 * MIB
    small: int = 64 * 1024
    owner: int = 31 * MIB
    together: int = 8 * 31 * MIB
    grace: float = 10.0
    rate: int = 16 * 1024
    patience: float = 30.0
    penalty: float = 1.0


class BodyRefusedError(Exception):
    """The body is refused with the HTTP status `status`, to be sent after `penalty` seconds."""

    def __init__(self, status: int, message: str, penalty: float = 0.0) -> None:
        super().__init__(message)
        self.penalty = penalty
        self.status = status
        self.message = message


class ClientGoneError(Exception):
    """The client hung up before its body was complete."""


@dataclass(slots=True)
class Body:
    """The bytes that arrived, and their structure."""

    data: bytearray = field(default_factory=bytearray)
    structure: Structure = field(default_factory=Structure)


class Bodies:
    """All bodies of one server."""

    REMEMBERED_SECONDS = 10.0

    def __init__(self, limits: BodyLimits, carriers: Collection[str] = ()) -> None:
        """Create the limits. `carriers` are the tools whose calls may be large."""
        self._limits = limits
        self._sizes = Sizes(limits.ordinary, carriers)
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._shares = Counter[str]()
        self._changed = anyio.Event()
        self._refused_at: float | None = None
        self.larger = 0
        """The number of larger bodies that got room so far, whether or not they succeeded."""

    @property
    def largest(self) -> int:
        """The maximum number of bytes of one body."""
        return self._limits.one

    @property
    def held(self) -> int:
        """The number of bytes reserved by all larger bodies."""
        return self._shares.total()

    @property
    def refusing(self) -> bool:
        """Whether a body was refused in the last ten seconds because all room was used up."""
        at = self._refused_at
        return at is not None and anyio.current_time() - at < self.REMEMBERED_SECONDS

    @asynccontextmanager
    async def read(self, declared: str, receive: Receive, owner: str) -> AsyncGenerator[Body]:
        """Read the body, whose Content-Length is `declared`, and count it until the block ends.

        Raises ClientGoneError or BodyRefusedError: 400 for a structure over a bound, 408 for too
        slow, 413 for too large, 503 for no memory left.
        """
        known = int(declared) if declared.isascii() and declared.isdigit() else None
        if known is not None and known > self._limits.one:
            raise self._too_large()
        body, taken = Body(), 0
        try:
            if known is not None and known > self._limits.small:
                taken = await self._take(owner, known)
            if await self._fill(body, receive, self._limits.one if taken else self._limits.small):
                # It declared no length, and is not small.
                taken = await self._take(owner, self._limits.one)
                await self._fill(body, receive, self._limits.one)
            yield body
        finally:
            if taken:
                self._give_back(owner, taken)

    async def parse(self, body: Body, scope: Scope) -> tuple[jsonrpc.Message | NoMessage, bytes]:
        """Return the message, and its text for the SDK. A large `body` is empty afterwards.

        The text of a large body that is no message is empty.
        """
        if len(body.data) <= LARGE:
            text = bytes(body.data)
            return read(text, "body"), text
        async with self._turn:
            with COLLECTOR.stopped():
                work = partial(
                    read_large, body.data, body.structure.long, "body", self._sizes, _pause
                )
                found = await anyio.to_thread.run_sync(work, limiter=self._thread)
        body.data.clear()
        if isinstance(found, NoMessage):
            return found, b""
        if found.arguments is not None:
            scope[ARGUMENTS] = found.arguments
        return found.message, found.text

    async def _fill(self, body: Body, receive: Receive, most: int) -> bool:
        """Read more of the body. Return whether more than `most` came and it is not complete."""
        limits, start = self._limits, anyio.current_time() - len(body.data) / self._limits.rate
        with anyio.CancelScope(deadline=start + limits.grace) as waiting:
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGoneError
                more = self._add(body, message)
                waiting.deadline = start + limits.grace + len(body.data) / limits.rate
                if len(body.data) > most and more:
                    return True
        if waiting.cancelled_caught:
            raise BodyRefusedError(408, "The request body came too slowly.")
        return False

    def _add(self, body: Body, message: Message) -> bool:
        chunk: bytes = message.get("body", b"")
        if len(body.data) + len(chunk) > self._limits.one:
            raise self._too_large()
        try:
            body.structure.feed(chunk)
        except StructureRefusedError as refused:
            why = f"The request body has {refused}."
            raise BodyRefusedError(400, why, self._limits.penalty) from refused
        body.data += chunk
        return bool(message.get("more_body", False))

    async def _take(self, owner: str, size: int) -> int:
        """Wait for room for `size` bytes, and return the bytes reserved.

        Raises BodyRefusedError after `patience` seconds.
        """
        size = min(size, self._limits.owner)
        with anyio.move_on_after(self._limits.patience):
            while self._shares[owner] + size > self._limits.owner or not self._fits(size):
                await self._changed.wait()
            self._shares[owner] += size
            self.larger += 1
            return size
        if not self._fits(size):
            self._refused_at = anyio.current_time()
        raise BodyRefusedError(
            503,
            "Too many large requests at once: those of an owner wait for each other. Send fewer "
            "at a time, or try again later.",
        )

    def _fits(self, size: int) -> bool:
        return self.held + size <= self._limits.together

    def _give_back(self, owner: str, size: int) -> None:
        self._shares[owner] -= size
        if not self._shares[owner]:
            del self._shares[owner]
        self._changed.set()
        self._changed = anyio.Event()

    def _too_large(self) -> BodyRefusedError:
        return BodyRefusedError(413, f"The request body is over {self._limits.one} bytes.")


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body in one message, and then calls the real one."""
    first = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return next(first, None) or await receive()

    return replayed


def _pause() -> None:
    """Release Python's global lock long enough for the event loop's thread to get it."""
    time.sleep(0.001)
