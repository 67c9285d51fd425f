# SPDX-License-Identifier: Apache-2.0
"""asyncssh's client connection, with limits on the load that a hostile server can cause.

Made by `SshConnection`. asyncssh decodes everything it has read (256 KiB) in one turn of the loop,
keeps channels that the peer never closes, and queues without limit while a key exchange runs.
Here all connections share the loop's time for decoding (`bounds.Turns`), reading pauses meanwhile,
and `bounds.Conduct` judges every packet that is not channel data. `asyncssh_internals` has the
private names that this takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import asyncssh

from waggle.infra.ssh.asyncssh_internals import (
    HookedConnection,
    SSHChannel,
    SSHPacket,
    SSHPacketLogger,
    Step,
    constants,
)
from waggle.infra.ssh.bounds import Conduct, Inbox, Misconduct, turns_of

PACKETS: Final = 64
"""Packets that are decoded for one connection in one turn of the loop, at most."""
BYTES: Final = 128 << 10
"""Bytes that are decoded for one connection in one turn of the loop, at most."""
LITTLE: Final = 16 << 10
"""A peer whose turn is cut off below this many bytes sends tiny packets, and has to rest."""
REST: Final = 0.006
"""Seconds that the peer has to rest."""
HELD: Final = 64 << 10
"""Bytes waiting to be decoded at which reading pauses."""
UNREAD: Final = 1 << 20
"""Bytes of answers that the peer has not read, above which its input is not decoded."""
OPEN_STEPS: Final = 16
"""Decoding steps that an opened channel counts as: its task runs in the next turn."""


def _stop() -> bool:
    return False


class BoundedConnection(HookedConnection):
    """A connection to a hostile server, dropped when the server misbehaves.

    `clear` is set while the connection can take more output; see `bounds.BrakedWriter`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHClientConnectionOptions,
        on_misconduct: Callable[[str], None],
    ) -> None:
        """`on_misconduct` is called with a description when misconduct has ended the connection."""
        self._turns = turns_of(loop)
        self._on_misconduct = on_misconduct
        self._conduct = Conduct(time.monotonic)
        self._under: asyncio.Transport | None = None
        self._input = Inbox()
        self._is_reading = True
        self._is_resting = False
        self._end_of_input: Callable[[], None] | None = None
        self._step: Step = _stop
        self._steps = 0
        self._deadline = 0.0
        self._is_cut = False
        self._is_full = False
        self._channel_count = 0
        self.clear = asyncio.Event()
        self.clear.set()
        super().__init__(loop, options, wait="auth")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. Called by the loop."""
        self._under = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    # Input. A step that returns False stops asyncssh, an empty `data_received` makes it continue.

    def next_step(self) -> Step:
        """Return asyncssh's own step, or one that stops it. Called by asyncssh."""
        if self._steps <= 0 or time.perf_counter() >= self._deadline:
            self._is_cut = True
            return _stop
        self._steps -= 1
        return self._step

    def set_step(self, step: Step) -> None:
        """Take the kind of step that asyncssh wants next. Called by asyncssh."""
        was_busy, self._step = self._is_busy, step
        if was_busy and not self._is_busy:
            self._turns.want(self)

    @property
    def _is_busy(self) -> bool:
        """Whether asyncssh decodes nothing until one of its own tasks is done."""
        return getattr(self._step, "__self__", None) is not self

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Take the bytes that the loop has read."""
        self._input.put(data)
        self._read_or_pause()
        if not self._is_resting:
            self._turns.want(self)

    def eof_received(self) -> bool | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the end of input from the loop, once the waiting bytes are decoded."""
        return self._once_decoded(super().eof_received)

    def connection_lost(self, exc: Exception | None = None) -> None:
        """Called by the loop, also after decoding, and by asyncssh when it gives up itself."""
        if self._under is not None and self._under.is_closing() and self._is_attached:
            self._once_decoded(partial(super().connection_lost, exc))
        else:
            super().connection_lost(exc)

    def _once_decoded(self, end: Callable[[], None]) -> bool | None:
        if self._has_more:
            self._end_of_input = end
            self._turns.want(self)
            return True
        end()
        return None

    @property
    def _is_attached(self) -> bool:
        """Whether asyncssh still has the transport: it lets go when it gives up."""
        return self.get_extra_info("socket") is not None

    @property
    def _has_more(self) -> bool:
        return self._input.size > 0 or self._is_cut

    def work(self, deadline: float) -> bool:
        """Decode for one turn; see `bounds.Worker`."""
        under = self._under
        if under is None or not self._is_attached:
            self._input.clear()
            self._is_cut = False
            return False
        if under.get_write_buffer_size() > UNREAD:
            return self._rest()
        decoded = self._decode(deadline)
        try:
            self._conduct.held(self.held_packets)
        except Misconduct as misconduct:
            self._end(misconduct)
            return False
        self._read_or_pause()
        if not self._has_more:
            if self._end_of_input is not None:
                self._end_of_input()
            return False
        if self._is_busy:
            return False
        return self._rest() if self._is_cut and decoded < LITTLE else True

    def _decode(self, deadline: float) -> int:
        """Have asyncssh decode; return how many bytes it was given."""
        self._steps, self._deadline = 2 * PACKETS, deadline
        decoded = 0
        piece = b""
        while True:
            self._is_cut = False
            super().data_received(piece)
            if self._is_cut or self._is_busy or not self._is_attached:
                break
            if not self._input.size or decoded >= BYTES:
                break
            piece = self._input.piece()
            decoded += len(piece)
        self._steps = 0
        return decoded

    def _rest(self) -> bool:
        """Resume after REST instead of in the next turn."""
        if not self._is_resting:
            self._is_resting = True
            asyncio.get_running_loop().call_later(REST, self._rested)
        return False

    def _rested(self) -> None:
        self._is_resting = False
        self._turns.want(self)

    def _read_or_pause(self) -> None:
        wanted = self._input.size < HELD
        if self._under is None or wanted is self._is_reading or self._under.is_closing():
            return
        self._is_reading = wanted
        if wanted:
            self._under.resume_reading()
        else:
            self._under.pause_reading()

    # Conduct.

    def add_channel(self, chan: SSHChannel[Any]) -> int:
        """Count a channel. Called by asyncssh for every channel that either side opens."""
        number = super().add_channel(chan)  # pyright: ignore[reportUnknownArgumentType]
        self._channel_count += 1
        return number

    def remove_channel(self, recv_chan: int) -> None:
        """Stop counting a channel. Called by asyncssh when both sides have closed it."""
        super().remove_channel(recv_chan)
        self._channel_count -= 1

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        """Process and judge a packet that belongs to no channel. Called by asyncssh."""
        before = self._channel_count
        result = super().process_packet(pkttype, pktid, packet)
        has_opened = self._channel_count > before
        if has_opened:
            self._steps -= OPEN_STEPS
        try:
            if has_opened:
                self._conduct.channels(self._channel_count)
            else:
                self._conduct.packet(pkttype, pktid, is_known=bool(result))
        except Misconduct as misconduct:
            self._end(misconduct)
        return result

    def _end(self, misconduct: Misconduct) -> None:
        self._input.clear()
        self._steps = 0
        self.abort()
        self._on_misconduct(str(misconduct))

    # Output.

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, except the empty one that asyncssh sends before every other packet.

        That one protects CBC ciphers, which are not offered, and doubles work and system calls.
        """
        if pkttype != constants.MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=handler)

    def pause_writing(self) -> None:
        """Called by the transport when its buffer is full."""
        self._is_full = True
        self.sending_changed()

    def resume_writing(self) -> None:
        """Called by the transport when its buffer can take more."""
        self._is_full = False
        self.sending_changed()

    def sending_changed(self) -> None:
        """Let writers write or wait. Also called when a key exchange begins or has ended."""
        if self.is_exchanging_keys or self._is_full:
            self.clear.clear()
        else:
            self.clear.set()


async def connect(
    port: int,
    options: asyncssh.SSHClientConnectionOptions,
    on_misconduct: Callable[[str], None],
) -> BoundedConnection:
    """Connect to 127.0.0.1 and authenticate. Raises OSError and asyncssh's errors."""
    loop = asyncio.get_running_loop()
    authenticated: asyncio.Future[None] = loop.create_future()
    options.waiter = authenticated
    try:
        _, connection = await loop.create_connection(
            lambda: BoundedConnection(loop, options, on_misconduct), "127.0.0.1", port
        )
    except BaseException:
        authenticated.cancel()
        raise
    try:
        await authenticated
    except BaseException:
        connection.abort()
        await connection.wait_closed()
        raise
    return connection
