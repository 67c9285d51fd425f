# SPDX-License-Identifier: Apache-2.0
"""Read request bodies within limits of size, structure, time and memory, for each owner and all.

Called by `waggle.web.endpoint`. A body is read whole before anything parses it. Small ones are only
bounded by the number of connections. A larger one first gets its bytes out of its owner's share,
and waits while that is used up: an owner who fills it keeps nobody else from anything.

Read the message of a body: small ones at once, large ones in a thread, one after the other.

Called by `waggle.web.endpoint`. Leaves the arguments of a large call in the request's scope, where
`waggle.mcp` takes them. Knows no tools, but which ones carry files.
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
from waggle.jsonrpc import NoMessage, Structure, StructureRefusedError, read
from waggle.large import ARGUMENTS, LARGE, Sizes, read_large

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of one body, of one that carries no file, and of all of one owner's and of everybody's.

    31 MiB let a 10 MiB file through in one call: as base64 (4/3), and as text whose every character
    a client escapes (six bytes for two: 3), with room for the rest of the message. Code of 512,000
    bytes, escaped in the same way, fits into `ordinary`. Bodies up to `small` count for nothing.
    A body has `grace` seconds, and one more for each `rate` bytes that have come; one that finds no
    room waits `patience` seconds. Whoever sends what no honest client does hears of it `penalty`
    seconds later, so that counting it takes little of the server's time.
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
    """The body is not read; `status` says why in HTTP's terms, after `penalty` seconds."""

    def __init__(self, status: int, message: str, penalty: float = 0.0) -> None:
        super().__init__(message)
        self.penalty = penalty
        self.status = status
        self.message = message


class ClientGoneError(Exception):
    """The client hung up before its body was complete."""


@dataclass(slots=True)
class Body:
    """What came, and what its structure is."""

    data: bytearray = field(default_factory=bytearray)
    structure: Structure = field(default_factory=Structure)


class Bodies:
    """All bodies of one server."""

    REMEMBERED_SECONDS = 10.0

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._shares = Counter[str]()
        self._changed = anyio.Event()
        self._refused_at: float | None = None
        self.larger = 0
        """How many have got room that were not small, whatever became of them."""

    @property
    def largest(self) -> int:
        """Bytes that one may have."""
        return self._limits.one

    @property
    def held(self) -> int:
        """Bytes that larger bodies have got, in all."""
        return self._shares.total()

    @property
    def refusing(self) -> bool:
        """Whether somebody was refused lately because all together use up what there is."""
        at = self._refused_at
        return at is not None and anyio.current_time() - at < self.REMEMBERED_SECONDS

    @asynccontextmanager
    async def read(self, declared: str, receive: Receive, owner: str) -> AsyncGenerator[Body]:
        """Read the body, whose Content-Length is `declared`, and count it until the block ends.

        Raises ClientGoneError or BodyRefusedError: 400 for a structure that is over a bound, 408
        too slow, 413 too large, 503 no memory left.
        """
        known = int(declared) if declared.isascii() and declared.isdigit() else None
        if known is not None and known > self._limits.one:
            raise self._too_large()
        body, taken = Body(), 0
        try:
            if known is not None and known > self._limits.small:
                taken = await self._take(owner, known)
            if await self._fill(body, receive, self._limits.one if taken else self._limits.small):
                # It has not said how large it is, and is not small.
                taken = await self._take(owner, self._limits.one)
                await self._fill(body, receive, self._limits.one)
            yield body
        finally:
            if taken:
                self._give_back(owner, taken)

    async def _fill(self, body: Body, receive: Receive, most: int) -> bool:
        """Read on. Returns whether more than `most` came, and there may be more."""
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
            told = f"The request body has {refused}."
            raise BodyRefusedError(400, told, self._limits.penalty) from refused
        body.data += chunk
        return bool(message.get("more_body", False))

    async def _take(self, owner: str, size: int) -> int:
        """Wait for room for so many bytes. Raises BodyRefusedError when it takes long."""
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
    """A `receive` that gives the body in one message, and then what really comes."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal first
        if first is not None:
            message, first = first, None
            return message
        return await receive()

    return replayed


_PAUSE_SECONDS = 0.001


class MessageReader:
    """What reads the messages of one server. `carriers` are the tools whose calls may be large."""

    def __init__(self, carriers: Collection[str], limits: BodyLimits) -> None:
        self._sizes = Sizes(limits.ordinary, carriers)
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)

    async def read(self, body: Body, scope: Scope) -> tuple[jsonrpc.Message | NoMessage, bytes]:
        """The message, and its text for the SDK. `body` is empty afterwards if it was large.

        There is no text of a large one that is none.
        """
        size = len(body.data)
        if size <= LARGE:
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


def _pause() -> None:
    """Let go of Python's lock for so long that the loop's thread, which waits for it, gets it."""
    time.sleep(_PAUSE_SECONDS)
