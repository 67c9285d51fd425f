# SPDX-License-Identifier: Apache-2.0
"""Requests to a guest agent and their answers, over a channel that may break and be made again.

Used by `client`. Answers come in any order, late, twice, or never. What a guest does not read is
held here for at most one request: the next one is written when the last one is gone, so the guest
gets whole lines whoever gives up. Knows JSON-RPC, but no methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple

from waggle.domain.errors import TooLarge
from waggle.infra.guest.answers import AgentEnded, Answer, Notice, Refusal, lost, parse, refused
from waggle.infra.guest.paced_lines import Lines, Pace
from waggle.infra.guest.protocol import MAX_ANSWER, MAX_REQUEST
from waggle.tasks import end

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]
"""Opens the channel. Raises OSError, or a WaggleError to show instead of a lost guest."""
Hear = Callable[[Notice], None]

MAX_WAITING: Final = 64
"""Calls under way at the same time, and late answers that are still expected."""
_CHUNK: Final = 64 * 1024


def over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Dial:
    """Return a dial for a channel that exists once, such as the socket of a VMM."""
    left = [(reader, writer)]

    async def dial() -> Streams:
        if not left:
            raise ConnectionResetError("the channel is closed")
        return left.pop()

    return dial


class Asked(NamedTuple):
    """A result, and the ids of the requests that had been sent before and were under way."""

    result: object
    before: frozenset[int]


class _No(Enum):
    """Why there is no answer: the channel was closed, or the agent has ended that had it."""

    CHANNEL = "channel"
    AGENT = "agent"


_Reply = Answer | Refusal | _No


class _Wire:
    """One connection: it listens until its end, which wakes all that wait for an answer."""

    def __init__(self, streams: Streams, hear: Hear) -> None:
        self._reader, self._writer = streams
        self._hear = hear
        self._turn = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[_Reply]] = {}
        self._sent: set[int] = set()
        self._late: dict[int, None] = {}
        self._writer.transport.set_write_buffer_limits(high=0)
        self._writer.write(b"\n")  # ends what an earlier host left half sent
        self._listening = asyncio.create_task(self._listen())
        self.greeted = False

    @property
    def is_open(self) -> bool:
        return not self._listening.done() and not self._writer.is_closing()

    async def ask(self, number: int, line: bytes) -> tuple[_Reply, frozenset[int]]:
        """Send a request; return its answer, and the ids of those sent before that were waiting."""
        answer: asyncio.Future[_Reply] = asyncio.Future()
        self._waiting[number] = answer
        try:
            async with self._turn:
                await self._writer.drain()  # of what an earlier call left when it gave up
                before = frozenset(self._sent)
                self._writer.write(line)
                self._sent.add(number)
                await self._writer.drain()
            return await answer, before
        finally:
            if self._waiting.pop(number, None) is not None and number in self._sent:
                self._expect_late(number)
            self._sent.discard(number)

    def lose(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            answer = self._waiting.pop(number, None)
            if answer is not None and not answer.done():
                answer.set_result(_No.AGENT)

    def _expect_late(self, number: int) -> None:
        self._late[number] = None
        if len(self._late) > MAX_WAITING:
            del self._late[next(iter(self._late))]

    async def _listen(self) -> None:
        lines, pace = Lines(MAX_ANSWER), Pace(asyncio.get_running_loop().time)
        try:
            while data := await self._reader.read(_CHUNK):
                for line in lines.feed(data):
                    if not self._take(line):
                        pace.charge(len(line))
                        await pace.rest()
                if dropped := lines.dropped():
                    pace.charge(dropped)
                    await pace.rest()
        except OSError:
            pass  # the end, as any other
        finally:
            self._writer.transport.abort()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result(_No.CHANNEL)

    def _take(self, line: bytes) -> bool:
        """Take a line, and tell whether it was asked for."""
        message = parse(line)
        if isinstance(message, Answer | Refusal):
            answer = self._waiting.pop(message.id, None)
            if answer is None:
                was_late = message.id in self._late
                self._late.pop(message.id, None)
                return was_late
            if not answer.done():
                answer.set_result(message)
            return True
        if message is not None:
            self._hear(message)
        return False

    async def close(self) -> None:
        await end(self._listening)
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Channel:
    """Calls of one agent, many at the same time. Dials when it has to; `close` it."""

    def __init__(self, dial: Dial, hear: Hear = lambda _notice: None) -> None:
        """`hear` gets the notifications; it must be quick and raise nothing."""
        self._dial = dial
        self._hear = hear
        self._wire: _Wire | None = None
        self._dialing = asyncio.Lock()
        self._places = asyncio.Semaphore(MAX_WAITING)
        first = secrets.randbits(62)
        self._ids = (first + count for count in itertools.count())

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None and self._wire.is_open

    @property
    def greeted(self) -> bool:
        """Whether `greet` was called since the connection was made; False without one."""
        return self._wire is not None and self._wire.is_open and self._wire.greeted

    def greet(self, is_greeted: bool = True) -> None:
        """Note that versions were negotiated over the connection, or must be again."""
        if self._wire is not None:
            self._wire.greeted = is_greeted

    def lose(self, numbers: Iterable[int]) -> None:
        """End those of the requests that are under way: the agent has ended that had them."""
        if self._wire is not None:
            self._wire.lose(numbers)

    async def connect(self) -> None:
        """Open the channel unless it is open. Raises OSError, and what the dial raises."""
        await self._open()

    async def _open(self) -> _Wire:
        async with self._dialing:
            if self._wire is None or not self._wire.is_open:
                if self._wire is not None:
                    await self._wire.close()
                self._wire = _Wire(await self._dial(), self._hear)
            return self._wire

    async def ask(self, method: str, params: str) -> object:
        """Return the result of a request whose `params` are JSON; the caller bounds the time.

        Raises AgentRefused, AgentEnded, GuestLost when the channel is closed, and TooLarge for a
        request that is. A call that failed or was cancelled does not disturb others; the agent may
        still carry it out.
        """
        async with self._places:
            return (await self.inquire(method, params)).result

    async def inquire(self, method: str, params: str) -> Asked:
        """Ask for what is under way: as `ask`, but also when that has all places."""
        number = next(self._ids)
        head = f'{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":'
        line = f"{head}{params}}}\n".encode()
        if len(line) > MAX_REQUEST:
            raise TooLarge(
                f"The request {method} has {len(line):,} bytes, over {MAX_REQUEST:,}.",
                hint="Send less at once.",
            )
        try:
            answer, before = await (await self._open()).ask(number, line)
        except OSError as error:
            raise lost(method, "its channel is closed") from error
        if answer is _No.CHANNEL:
            raise lost(method, "its channel was closed")
        if answer is _No.AGENT:
            raise AgentEnded(method)
        if isinstance(answer, Refusal):
            raise refused(method, answer)
        return Asked(answer.result, before)

    async def close(self) -> None:
        """Close the channel; calls under way end. The next call dials again. Idempotent."""
        async with self._dialing:
            wire, self._wire = self._wire, None
            if wire is not None:
                await wire.close()
