# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP) within bounds, and machines that a refused disk write stops (`Stalling`).

Both belong to `machine`. A guest can cause events (its clock, its balloon, its ports), and a QEMU
that it has taken over can send anything. The QMP library would keep every event forever and read
without a pause; `Monitor` costs the server no memory and little time. `Stalling` gets QEMU's events
and knows neither the monitor nor the machine.
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
"""Bytes of one message; a longer one ends the connection. The largest that is used has some 500."""
A_TURN: Final = 32
"""Messages after which the event loop serves other tasks first."""
A_SECOND: Final = 512
"""Messages in a second after which QEMU must wait; commands cause only a handful of answers."""


class Monitor(QMPClient):
    """A connection to one QEMU. Events are dropped, except within `hearing` and for listeners."""

    def __init__(self, name: str) -> None:
        super().__init__(name, readbuflen=LONGEST)
        self.events.event_filter = _deaf
        self._hearing: set[asyncio.Future[str]] = set()
        self._read = 0
        self._since = 0.0

    @contextlib.contextmanager
    def hearing(self, name: str, wanted: Collection[str]) -> Generator[asyncio.Future[str]]:
        """Yield a future of the first `wanted` status that an event of this name has in the block.

        The future fails with QMPError when the connection ends.
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
                heard.exception()  # marks it as retrieved

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except (ValueError, RecursionError) as error:  # too long, no text, too deep
            raise QMPError(f"QEMU sent an invalid message: {type(error).__name__}") from error

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
"""The longest time between two tries."""
_ERRORS: Final[Mapping[str, int]] = {os.strerror(number): number for number in errno.errorcode}
"""Error numbers by QEMU's messages, which are the system's."""


class Stalling:
    """The state of one machine that stops when the host's disk refuses a write, until it takes it.

    QEMU stops a machine whose write fails (`werror=stop`) and repeats the write at resume, so the
    guest never sees the error. A guest that saw it would silently lose data: its kernel drops what
    it could not write, and `sync` reports success. The same holds for a full disk, a quota, a file
    size limit, a disk that became read-only and one that fails, so `enospc`, which covers only the
    first, is too little.

    A full disk is tried again when there is room. For other causes only a write shows that they are
    gone: it is tried after a second, then less and less often, at least every LONGEST_SECONDS. The
    machine is never ended for it, because its memory may exist nowhere else: its calls fail with
    the cause, and its owner may destroy it. Read errors are reported to the guest; nothing is lost.

    `resume` resumes the machine and may raise GuestLost. The caller must `aclose`.
    """

    def __init__(self, room: DiskRoom, resume: Callable[[], Awaitable[None]]) -> None:
        self._room = room
        self._resume = resume
        self._stalled = asyncio.Event()
        self._cause = errno.ENOSPC
        self._reported = False
        self._waiting: asyncio.Task[None] | None = None
        self._notify: Callable[[DiskFull | None], None] = lambda _why: None
        self.is_paused = False
        """Whether the machine must not run, even when there is room."""

    @property
    def error(self) -> DiskFull | None:
        """Why the machine is stopped, or None."""
        return self._full() if self._stalled.is_set() else None

    def _full(self) -> DiskFull:
        full = self._room.refused(self._cause)
        until = "there is room" if self._is_full else "the disk takes what it writes"
        return DiskFull(
            f"The environment's machine is stopped. {full.message} It resumes by itself, with "
            f"all its data, when {until}.",
            hint=full.hint,
        )

    @property
    def _is_full(self) -> bool:
        return self._cause == errno.ENOSPC

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """See `domain.machine.Machine.when_stalled`."""
        self._notify = notify
        if (error := self.error) is not None:
            notify(error)

    async def until_stalled(self) -> DiskFull:
        """Wait until the machine is stopped and return why."""
        await self._stalled.wait()
        return self._full()

    def on_event(self, event: Mapping[str, object]) -> bool:
        """Handle an event of QEMU, whose data may be anything. Return False: do not keep it."""
        data = event.get("data")
        if isinstance(data, dict):
            fields = cast("dict[str, object]", data)
            if fields.get("action") == "stop":
                self._stall(_number(fields))
        return False

    def _stall(self, cause: int) -> None:
        is_known = self._reported and cause == self._cause
        self._cause = cause
        self._stalled.set()
        if not is_known:
            self._reported = True
            self._notify(self._full())
        self._keep_trying()

    def _keep_trying(self) -> None:
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._until_it_runs())

    async def _until_it_runs(self) -> None:
        """Resume until the machine has run from one look to the next."""
        pause = LOOK_SECONDS
        while self._reported and not self.is_paused:
            was_stalled = self._stalled.is_set()
            await self._room.until_room(pause if was_stalled else LOOK_SECONDS)
            if self.is_paused:
                return
            if not self._stalled.is_set():
                self._report_running()
            elif was_stalled:
                pause = LOOK_SECONDS if self._is_full else min(2 * pause, LONGEST_SECONDS)
                try:
                    await self._resume()
                except GuestLost as error:  # it has ended, or the next look tries again
                    log.warning("machine_not_resumed", error=error.message)

    def _report_running(self) -> None:
        if self._reported:
            self._reported = False
            self._notify(None)

    def resuming(self) -> Callable[[], None]:
        """Prepare for a resume; call the result once the machine runs.

        Its next writes show whether the disk takes them. After a full disk, it counts as running at
        once.
        """
        self._stalled.clear()

        def runs() -> None:
            if self._reported and not self._stalled.is_set():
                if self._is_full:
                    self._report_running()
                else:
                    self._keep_trying()

        return runs

    async def aclose(self) -> None:
        """Stop waiting. Idempotent."""
        if self._waiting is not None:
            await end(self._waiting)


def _number(data: Mapping[str, object]) -> int:
    """Return the error number that an event reports; EIO for an unknown error. Pure."""
    if data.get("nospace") is True:
        return errno.ENOSPC
    reason = data.get("reason")
    return _ERRORS.get(reason, errno.EIO) if isinstance(reason, str) else errno.EIO
