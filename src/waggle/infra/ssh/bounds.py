# SPDX-License-Identifier: Apache-2.0
"""Judges what an SSH server sends beside its channels' data. Used by `bounded`. Pure.

The kit's dropbear sends hardly any of it, so the bounds are wide for an honest guest and small for
this server's memory. Programs in a guest can have dropbear open channels (they connect to the
proxy), but dropbear has at most 1,000 at a time.

Shares the turns of an event loop among connections whose peers may send without end.

Used by `bounded`. In one turn of the loop all connections together compute for about TURN, then
everything else gets its turn; those that have more to do take turns in the order they came.

Keeps what is written to a guest's channels within bounds.

asyncssh sends as much as a channel's window allows, and the guest says how much that is: one that
opens a huge window and then reads nothing would have the server hold it all. asyncssh ignores what
its transport says of that; `bounded` listens, and this waits.

Bytes that were read from a peer and wait to be decoded. Used by `bounded`. Pure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import asyncssh
from asyncssh import constants

from waggle.infra.ssh.typed import require_packets

MAX_CHANNELS: Final = 1_200
"""Channels, of both sides, that have not been closed by both."""
MAX_CONTROL: Final = 1_000
"""Control packets at once."""
CONTROL_A_SECOND: Final = 1.0
REKEY: Final = 10
"""A key exchange counts as so many: it costs signatures, and dropbear begins one per GiB."""
MAX_HELD: Final = 10_000
"""Packets that wait to be sent until the peer has done its part of a key exchange."""

_CONTROL: Final = frozenset(
    {
        constants.MSG_UNIMPLEMENTED,
        constants.MSG_DEBUG,
        constants.MSG_EXT_INFO,
        constants.MSG_USERAUTH_BANNER,
        constants.MSG_GLOBAL_REQUEST,
        constants.MSG_CHANNEL_OPEN,
    }
)


class Misconduct(Exception):
    """The peer is no SSH server that serves; its text says what it did."""


class Conduct:
    """The account of one connection. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen = 0.0
        self._since = now()
        self._last_padding = -2

    def packet(self, kind: int, number: int, *, is_known: bool) -> None:
        """A packet that is no channel's and opened none, with its number in the connection.

        Raises Misconduct when there are too many that an honest server has no use for.
        """
        if kind == constants.MSG_IGNORE:
            self._padding(number)
        elif kind == constants.MSG_KEXINIT:
            self._count(REKEY)
        elif kind in _CONTROL or not is_known:
            self._count(1)

    def _count(self, count: int) -> None:
        now = self._now()
        self._seen = max(0.0, self._seen - (now - self._since) * CONTROL_A_SECOND) + count
        self._since = now
        if self._seen > MAX_CONTROL:
            raise Misconduct(f"it sent over {MAX_CONTROL:,} control packets")

    def _padding(self, number: int) -> None:
        """It is fine before a packet, but not before more of it."""
        if number == self._last_padding + 1:
            self._count(1)
        self._last_padding = number

    @staticmethod
    def channels(count: int) -> None:
        """So many are open. Raises Misconduct when there are too many."""
        if count > MAX_CHANNELS:
            raise Misconduct(f"it opened over {MAX_CHANNELS:,} channels without closing any")

    @staticmethod
    def held(count: int) -> None:
        """So many packets wait for a key exchange. Raises Misconduct when there are too many."""
        if count > MAX_HELD:
            raise Misconduct("it did not finish a key exchange")


TURN: Final = 0.003
"""Seconds. A worker checks its deadline between two packets, so one packet may exceed it."""


class Worker(Protocol):
    """A connection with work to do."""

    def work(self, deadline: float) -> bool:
        """Work until `deadline`, in seconds of the clock; return whether more can be done now."""
        ...


class Turns:
    """The workers that wait on one event loop, each at most once."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._waiting: deque[Worker] = deque()
        self._is_taken = False
        """Whether this turn of the loop has had its work, or the next turn is arranged for."""

    def want(self, worker: Worker) -> None:
        """Have it work: at once if this turn still has time, else when its turn comes."""
        if worker not in self._waiting:
            self._waiting.append(worker)
        if not self._is_taken:
            self._run()

    def _run(self) -> None:
        self._is_taken = True
        began = self._clock()
        deadline = began + TURN
        try:
            while self._waiting and self._clock() < deadline:
                worker = self._waiting.popleft()
                if worker.work(deadline):
                    self._waiting.append(worker)
        finally:  # one that fails must not end the turns of the others
            if self._waiting or self._clock() - began > TURN / 2:
                self._call_soon(self._run)
            else:
                self._is_taken = False


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """The turns of a loop: one set, whoever asks."""
    if loop not in _of_loops:
        _of_loops[loop] = Turns(_soon)
    return _of_loops[loop]


def _soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


_LOOK_AGAIN: Final = 1.0


class BrakedWriter:
    """A channel's writer that also waits for the connection below it."""

    def __init__(self, writer: asyncssh.SSHWriter[bytes], clear: asyncio.Event) -> None:
        """Raises TinyPackets, with the channel closed, for a guest that takes next to nothing."""
        require_packets(writer.channel)
        self._writer = writer
        self._clear = clear
        self.channel = writer.channel

    def write(self, data: bytes) -> None:
        """Take `data` into the buffer."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the channel and the connection can take more, or the channel has closed."""
        await self._writer.drain()
        while not self._clear.is_set() and not self._writer.is_closing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._clear.wait()

    def can_write_eof(self) -> bool:
        """Always: a channel ends in one direction only."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """End the direction that is written."""
        self._writer.write_eof()

    def close(self) -> None:
        """End both directions once the buffer is sent."""
        self._writer.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._writer.is_closing()

    async def wait_closed(self) -> None:
        """Wait until `close` has taken effect."""
        await self._writer.wait_closed()


PIECE: Final = 16 << 10
"""Bytes that asyncssh gets at once: it copies all that it holds for every packet."""


class Inbox:
    """A queue that is filled as the loop reads and emptied in small pieces."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.size = 0

    def put(self, data: bytes) -> None:
        """Add what was read."""
        self._waiting.append(data)
        self.size += len(data)

    def piece(self) -> bytes:
        """Take the next bytes, PIECE at most. Not to be called when it is empty."""
        first = self._waiting.popleft()
        if len(first) > PIECE:
            self._waiting.appendleft(first[PIECE:])
            first = first[:PIECE]
        self.size -= len(first)
        return first

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self.size = 0
