# SPDX-License-Identifier: Apache-2.0
"""The renewal of a guest: a copied machine gets its own identity and the host's time.

Used by the machines. `Renewal` speaks through a channel that the guest's PID 1 holds: records go in
(kit/guest/renew.c), one byte and the guest's time come back. Nothing else in the guest has to work,
and the answer decides only whether the machine is handed out. It also asks a guest to end. `record`
encodes the identity (kit/guest/identity.c): u32 name length and u32 data length, little endian,
then name and data; two zeros end the list.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from waggle.domain.errors import GuestLost
from waggle.infra.guest.channel import Dial, Streams

_HEADER = struct.Struct("<II")
MAX_NAME = 63
MAX_DATA = 8 << 20
END = _HEADER.pack(0, 0)


def record(name: str, data: bytes) -> bytes:
    """Encode one record. Raises ValueError if it is too long."""
    raw = name.encode()
    if not 0 < len(raw) <= MAX_NAME or len(data) > MAX_DATA:
        raise ValueError(f"the record {name!r} is too long")
    return _HEADER.pack(len(raw), len(data)) + raw + data


DEADLINE: Final = 30.0
"""Seconds; an emulated machine on a busy host has taken more than five."""
DRIFT: Final = 20_000_000
"""Nanoseconds by which the guest's clock may differ; renewal promises 50 ms."""
_ROUNDS = 100
_UNIT = 1000
"""Nanoseconds; the guest's kernel moves its clock by microseconds (adjtimex(2), ADJ_SETOFFSET)."""
_WRONG_TIME = "The guest does not keep the time that it is given."
_ANSWER = struct.Struct("<Bq")


@dataclass(frozen=True)
class Ahead:
    """What is known of how far the guest's clock is ahead of the host's: a range, in nanoseconds.

    The guest read its clock somewhere between question and answer, so one answer says no more than
    how long it took. Answers come early and late by chance, and a few of them leave little.
    """

    least: int
    most: int

    def narrowed(self, seen: Ahead) -> Ahead:
        """Return what both say; the later alone if they contradict: a clock was set in between."""
        both = Ahead(max(self.least, seen.least), min(self.most, seen.most))
        return both if both.least <= both.most else seen

    def moved(self, by: int) -> Ahead:
        """Return what is known after the guest's clock was moved by so much."""
        return Ahead(self.least + by, self.most + by)

    def is_small(self) -> bool:
        """Tell whether the clock surely differs by no more than DRIFT."""
        return self.least >= -DRIFT and self.most <= DRIFT

    def step(self) -> int:
        """Return by how much the clock is to be moved now: 0 until that is known well enough."""
        is_known = self.most - self.least <= 2 * (DRIFT - _UNIT)
        return -(self.least + self.most) // (2 * _UNIT) * _UNIT if is_known else 0


class Renewal:
    """The renewal of one guest. Dials when it has to, also after a break; `hang_up` in the end."""

    def __init__(self, dial: Dial, *, now: Callable[[], int] = time.time_ns) -> None:
        """`dial` opens the channel; `now` returns nanoseconds since the epoch."""
        self._dial = dial
        self._streams: Streams | None = None
        self._now = now
        self._turn = asyncio.Lock()
        self._due = 0
        """Answers to come, of which all but the last are of callers that gave up."""

    def hang_up(self) -> None:
        """Drop the connection; a question under way raises GuestLost. Idempotent."""
        if self._streams is not None:
            self._streams[1].transport.abort()

    async def greet(self) -> None:
        """Return when the guest has answered. Raises GuestLost; the caller bounds the time."""
        try:
            await self._ask({})
        except (OSError, EOFError) as error:
            raise GuestLost("The guest does not answer: its channel is closed.") from error

    async def renew(self, records: Mapping[str, bytes], *, deadline: float = DEADLINE) -> None:
        """Install records, and set the clock to within DRIFT of the host's.

        `deadline` is seconds for all of it. Raises GuestLost if the guest refuses, does not answer
        or keeps another time; it must not be handed out then.
        """
        try:
            async with asyncio.timeout(deadline):
                ahead = await self._ask({**records, "clock": struct.pack("<Q", self._now())})
                for _ in range(_ROUNDS):
                    if ahead.is_small():
                        return
                    step = ahead.step()
                    parts = {"step": struct.pack("<q", step)} if step else {}
                    ahead = ahead.moved(step).narrowed(await self._ask(parts))
        except TimeoutError:
            raise GuestLost(f"The guest was not renewed within {deadline:g} s.") from None
        except (OSError, EOFError) as error:
            raise GuestLost("The guest was not renewed: its channel is closed.") from error
        raise GuestLost(_WRONG_TIME)

    async def end(self, seconds: float) -> None:
        """Have the guest end: programs have so many seconds (kit/guest/ending.c).

        Returns once it begins. Raises GuestLost; the caller bounds the time.
        """
        try:
            await self._ask({"end": struct.pack("<I", round(seconds * 1000))})
        except (OSError, EOFError) as error:
            raise GuestLost("The guest cannot be asked to end: its channel is closed.") from error

    @asynccontextmanager
    async def quiet(self, seconds: float) -> AsyncGenerator[None]:
        """Ask nothing in the block, and begin it when all that was asked has been answered.

        For a machine that is copied: its copy would answer, too, and each answer would be taken for
        that to the next question. Raises GuestLost if answers are still due after so many seconds.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(seconds):
                    while self._due and self._streams is not None:
                        await self._answer(self._streams[0])
            except TimeoutError:
                raise GuestLost("The guest does not answer what it was asked before.") from None
            except (OSError, EOFError) as error:
                raise GuestLost("The guest does not answer: its channel is closed.") from error
            yield

    async def _open(self) -> Streams:
        """Return the connection, or a new one, to which no answers are due."""
        if self._streams is None or _is_broken(*self._streams):
            self.hang_up()
            self._streams, self._due = None, 0
            self._streams = await self._dial()
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        answer = await reader.readexactly(_ANSWER.size)
        self._due -= 1
        return answer

    async def _ask(self, records: Mapping[str, bytes]) -> Ahead:
        """Send records, and return what the answer tells of the guest's clock.

        That an idle connection is broken may show only now, so there is another try over a new one:
        to do again what the records say does no harm.
        """
        parts = [record(name, data) for name, data in records.items()]
        async with self._turn:
            was_open = self._streams is not None and not _is_broken(*self._streams)
            try:
                return await self._exchange(b"".join([*parts, END]))
            except (OSError, EOFError):
                if not was_open:
                    raise
                return await self._exchange(b"".join([*parts, END]))

    async def _exchange(self, question: bytes) -> Ahead:
        reader, writer = await self._open()
        sent = self._now()
        writer.write(question)
        self._due += 1
        await writer.drain()
        answer = b""
        while self._due:
            answer = await self._answer(reader)
        good, guest_time = _ANSWER.unpack(answer)
        if good != 1:
            raise GuestLost("The guest refused to be renewed.")
        if guest_time < 0:
            raise GuestLost(_WRONG_TIME)
        return Ahead(guest_time - self._now(), guest_time - sent)


def _is_broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    return reader.at_eof() or writer.is_closing()
