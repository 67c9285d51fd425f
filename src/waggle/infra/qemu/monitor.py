# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP) within bounds: what a QEMU says costs the server no memory and little time.

Made by `machine`. A guest can cause events (its clock, its balloon, its ports), and a QEMU that it
has taken over can say anything. The library keeps each event for ever and reads without a pause as
long as there is something to read.

A machine that stands still because the host's disk refused a write, until it takes it.

QEMU stops a machine whose write fails (`werror=stop`) and does that write again when the machine
goes on, so a guest never learns of it. Told of the error, the guest would lose the data without a
word: its kernel drops what it could not write, and `sync` says that all is well. That holds of a
full disk as of a quota, a limit of file sizes, a disk that can only be read now and one that fails,
which is why `enospc`, which knows the first alone, is too little.

A full disk is tried again when there is room. Whether another cause is gone only a write can tell:
it is tried after a second, then less and less often, at least once in LONGEST_SECONDS. The machine
is never ended for it, because what is in its memory may exist nowhere else: its calls are refused
with the cause, and its owner may destroy it. Errors of reading are the guest's to know: its
programs are told, and nothing is lost.

Owned by `machine`, which hears QEMU's events; knows neither QEMU's monitor nor what a machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from typing import Final, cast

import structlog
from qemu.qmp import EventListener, QMPClient, QMPError
from qemu.qmp.message import Message

from waggle.domain.errors import DiskFull, GuestLost
from waggle.infra.shared.disk_room import LOOK_SECONDS, DiskRoom
from waggle.tasks import end

LONGEST: Final = 64 * 1024
"""Bytes of one message; the connection ends at a longer one. The largest of ours has some 500."""
A_TURN: Final = 32
"""Messages after which the loop serves others first,"""
A_SECOND: Final = 512
"""and after which QEMU waits; answers to our commands are a handful."""


class Monitor(QMPClient):
    """A connection to one QEMU. What it reports by itself is dropped, except within `hearing`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, readbuflen=LONGEST)
        self.events.event_filter = _deaf
        self._hearing: set[asyncio.Future[str]] = set()
        self._read = 0
        self._since = 0.0

    @contextlib.contextmanager
    def hearing(self, name: str, wanted: Collection[str]) -> Generator[asyncio.Future[str]]:
        """The first of the `wanted` that an event of this name has as its status in the block.

        Ends with QMPError when the connection does.
        """
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def keep_none(event: Mapping[str, object]) -> bool:
            data = event.get("data")
            said = cast("dict[str, object]", data).get("status") if isinstance(data, dict) else None
            if isinstance(said, str) and said in wanted and not heard.done():
                heard.set_result(said)
            return False

        self._hearing.add(heard)
        try:
            with self.listen(EventListener(name, keep_none)):
                yield heard
        finally:
            self._hearing.discard(heard)
            heard.cancel()
            if not heard.cancelled():
                heard.exception()  # so that it counts as seen

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except (ValueError, RecursionError) as error:  # too long, no text, too deep
            raise QMPError(f"QEMU says what is no message: {type(error).__name__}") from error

    async def _on_message(self, msg: Message) -> None:
        await super()._on_message(msg)
        self._read += 1
        if self._read % A_TURN == 0:
            await self._breathe()

    async def _breathe(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._since >= 1.0:
            self._read, self._since = 0, now
        await asyncio.sleep(self._since + 1.0 - now if self._read >= A_SECOND else 0.0)

    async def _bh_disconnect(self) -> None:
        try:
            await super()._bh_disconnect()
        finally:
            for heard in self._hearing:
                if not heard.done():
                    heard.set_exception(QMPError("the monitor is closed"))


def _deaf(_: Mapping[str, object]) -> bool:
    return False


log = structlog.get_logger(__name__)
EVENT: Final = "BLOCK_IO_ERROR"
LONGEST_SECONDS: Final = 64.0
"""Between two tries."""
_ERRORS: Final[Mapping[str, int]] = {os.strerror(number): number for number in errno.errorcode}
"""By QEMU's words, which are the system's."""


class Stalling:
    """Of one machine. `go_on` has it run again and may raise GuestLost. `aclose` it."""

    def __init__(self, room: DiskRoom, go_on: Callable[[], Awaitable[None]]) -> None:
        self._room = room
        self._go_on = go_on
        self._stalled = asyncio.Event()
        self._cause = errno.ENOSPC
        self._told = False
        self._waiting: asyncio.Task[None] | None = None
        self._tell: Callable[[DiskFull | None], None] = lambda _why: None
        self.is_paused = False
        """Whether the machine is not to run, whatever room there is."""

    @property
    def error(self) -> DiskFull | None:
        """Why it stands still, or None."""
        return self._full() if self._stalled.is_set() else None

    def _full(self) -> DiskFull:
        full = self._room.refused(self._cause)
        until = "there is room" if self._is_full else "the disk takes what it writes"
        return DiskFull(
            f"The environment's machine stands still. {full.message} It goes on by itself, with "
            f"all that it has, when {until}.",
            hint=full.hint,
        )

    @property
    def _is_full(self) -> bool:
        return self._cause == errno.ENOSPC

    def tell(self, tell: Callable[[DiskFull | None], None]) -> None:
        """See `domain.machine.Machine.when_stalled`."""
        self._tell = tell
        if (error := self.error) is not None:
            tell(error)

    async def met(self) -> DiskFull:
        """Return once it stands still."""
        await self._stalled.wait()
        return self._full()

    def heard(self, event: Mapping[str, object]) -> bool:
        """Take an event of QEMU's, whose data may be anything. False: nobody else is to keep it."""
        data = event.get("data")
        if isinstance(data, dict):
            said = cast("dict[str, object]", data)
            if said.get("action") == "stop":
                self._stall(_number(said))
        return False

    def _stall(self, cause: int) -> None:
        is_news = not self._told or cause != self._cause
        self._cause = cause
        self._stalled.set()
        if is_news:
            self._told = True
            self._tell(self._full())
        self._see_to_it()

    def _see_to_it(self) -> None:
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._until_it_goes_on())

    async def _until_it_goes_on(self) -> None:
        """It goes on once it ran from one look to the next."""
        pause = LOOK_SECONDS
        while self._told and not self.is_paused:
            was_stalled = self._stalled.is_set()
            await self._room.until_room(pause if was_stalled else LOOK_SECONDS)
            if self.is_paused:
                return
            if not self._stalled.is_set():
                self._goes_on()
            elif was_stalled:
                pause = LOOK_SECONDS if self._is_full else min(2 * pause, LONGEST_SECONDS)
                try:
                    await self._go_on()
                except GuestLost as error:  # it has ended, or is to be tried again
                    log.warning("machine_does_not_go_on", error=error.message)

    def _goes_on(self) -> None:
        if self._told:
            self._told = False
            self._tell(None)

    def going(self) -> Callable[[], None]:
        """It is about to run: what it writes tells whether the disk takes it. Call the result then.

        Where there is room again, it counts as going on at once.
        """
        self._stalled.clear()

        def runs() -> None:
            if self._told and not self._stalled.is_set():
                if self._is_full:
                    self._goes_on()
                else:
                    self._see_to_it()

        return runs

    async def aclose(self) -> None:
        """Wait for nothing any more. Idempotent."""
        if self._waiting is not None:
            await end(self._waiting)


def _number(data: Mapping[str, object]) -> int:
    """The system's number of the error that an event tells of; EIO for what it cannot be. Pure."""
    if data.get("nospace") is True:
        return errno.ENOSPC
    reason = data.get("reason")
    return _ERRORS.get(reason, errno.EIO) if isinstance(reason, str) else errno.EIO
