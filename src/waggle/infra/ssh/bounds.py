# SPDX-License-Identifier: Apache-2.0
"""The limits of one SSH connection to a hostile server. Used by `bounded` and the package.

`Conduct` judges packets that are not channel data. The kit's dropbear sends few of them, so the
limits are wide for an honest guest and small for this server's memory; programs in a guest can have
dropbear open channels (to the proxy), but at most 1,000 at a time. `Turns` shares an event loop
among connections that may send without end: together they compute for about TURN, in the order they
came, then everything else runs. `BrakedWriter` limits the output that a guest does not read.
`Inbox` queues the input.
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

from waggle.infra.ssh.asyncssh_internals import constants, require_packets

MAX_CHANNELS: Final = 1_200
"""Channels, opened by either side, that both sides have not closed yet."""
MAX_CONTROL: Final = 1_000
"""Control packets in a burst; CONTROL_A_SECOND are forgiven per second."""
CONTROL_A_SECOND: Final = 1.0
REKEY: Final = 10
"""Control packets that a key exchange counts as: it costs signatures; dropbear does one per GiB."""
MAX_HELD: Final = 10_000
"""Packets to send that wait for the peer to do its part of a key exchange."""

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
    """The peer does not behave like an SSH server; the text says what it did."""


class Conduct:
    """The record of one connection's conduct. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen = 0.0
        self._since = now()
        self._last_padding = -2

    def packet(self, kind: int, number: int, *, is_known: bool) -> None:
        """Count a packet that belongs to no channel and opened none; `number` is its sequence.

        Raises Misconduct after too many packets that an honest server has no use for.
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
        """Accept padding before another packet, but count padding that follows padding."""
        if number == self._last_padding + 1:
            self._count(1)
        self._last_padding = number

    @staticmethod
    def channels(count: int) -> None:
        """Judge the number of open channels. Raises Misconduct when there are too many."""
        if count > MAX_CHANNELS:
            raise Misconduct(f"it opened over {MAX_CHANNELS:,} channels without closing any")

    @staticmethod
    def held(count: int) -> None:
        """Judge how many packets wait for a key exchange. Raises Misconduct if too many do."""
        if count > MAX_HELD:
            raise Misconduct("it did not finish a key exchange")


TURN: Final = 0.003
"""Seconds. A worker checks its deadline between packets, so one packet may exceed it."""


class Worker(Protocol):
    """A connection with work to do."""

    def work(self, deadline: float) -> bool:
        """Work until `deadline`, in seconds of the clock; return whether work is left for now."""
        ...


class Turns:
    """The queue of workers that wait on one event loop; a worker is in it at most once."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._waiting: deque[Worker] = deque()
        self._is_taken = False
        """Whether this turn's time is used up, or a run in the next turn is scheduled."""

    def want(self, worker: Worker) -> None:
        """Run a worker: at once if this turn has time left, else when its turn comes."""
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
        finally:  # a worker that fails must not end the turns of the others
            if self._waiting or self._clock() - began > TURN / 2:
                self._call_soon(self._run)
            else:
                self._is_taken = False


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the one `Turns` of a loop."""
    if loop not in _of_loops:
        # Not the loop's own method, which would keep it alive.
        _of_loops[loop] = Turns(lambda call: asyncio.get_running_loop().call_soon(call))
    return _of_loops[loop]


_LOOK_AGAIN: Final = 1.0


class BrakedWriter:
    """A channel's writer that also waits for the connection below it.

    asyncssh sends as much as the channel's window allows and ignores a full transport. A guest that
    opens a huge window and then reads nothing would have the server hold all of it.
    """

    def __init__(self, writer: asyncssh.SSHWriter[bytes], clear: asyncio.Event) -> None:
        """Raises TinyPackets and closes the channel if the guest takes too little per packet."""
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
        """Whether the stream can end in one direction only: always, for a channel."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """End the write direction."""
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
"""Bytes that asyncssh is given at once: it copies everything it holds for every packet."""


class Inbox:
    """A queue of bytes to decode, filled as the loop reads and emptied in small pieces."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.size = 0

    def put(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._waiting.append(data)
        self.size += len(data)

    def piece(self) -> bytes:
        """Take the next bytes, PIECE at most. Must not be called when the queue is empty."""
        first = self._waiting.popleft()
        if len(first) > PIECE:
            self._waiting.appendleft(first[PIECE:])
            first = first[:PIECE]
        self.size -= len(first)
        return first

    def clear(self) -> None:
        """Drop everything."""
        self._waiting.clear()
        self.size = 0
