# SPDX-License-Identifier: Apache-2.0
"""A machine that stands still because the host's disk is full, until there is room.

QEMU stops a machine whose write does not fit (`werror=enospc`) and does that write again when the
machine goes on, so a guest never learns of it. Owned by `machine`, which hears QEMU's events; knows
neither QEMU's monitor nor what a machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

import structlog

from waggle.domain.errors import DiskFull, GuestLost
from waggle.infra.disk_room import DiskRoom
from waggle.infra.tasks import end

log = structlog.get_logger(__name__)
EVENT: Final = "BLOCK_IO_ERROR"


class Stalling:
    """Of one machine. `go_on` has it run again and may raise GuestLost. `aclose` it."""

    def __init__(self, room: DiskRoom, go_on: Callable[[], Awaitable[None]]) -> None:
        self._room = room
        self._go_on = go_on
        self._stalled = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None
        self._tell: Callable[[str | None], None] = lambda _why: None
        self.is_paused = False
        """Whether the machine is not to run, whatever room there is."""

    @property
    def error(self) -> DiskFull | None:
        """Why it stands still, or None."""
        return self._full() if self._stalled.is_set() else None

    def _full(self) -> DiskFull:
        full = self._room.full()
        return DiskFull(
            f"The environment's machine stands still. {full.message} It goes on by itself, with "
            "all that it has, when there is room."
        )

    def tell(self, tell: Callable[[str | None], None]) -> None:
        """See `domain.machine.Machine.when_stalled`."""
        self._tell = tell
        if (error := self.error) is not None:
            tell(error.message)

    async def met(self) -> DiskFull:
        """Return once it stands still."""
        await self._stalled.wait()
        return self._full()

    def heard(self, event: Mapping[str, object]) -> bool:
        """Take an event of QEMU's, whose data may be anything. False: nobody else is to keep it."""
        data = event.get("data")
        if isinstance(data, dict) and cast("dict[str, object]", data).get("action") == "stop":
            self._stall()
        return False

    def _stall(self) -> None:
        if not self._stalled.is_set():
            self._stalled.set()
            self._tell(self._full().message)
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._until_it_goes_on())

    async def _until_it_goes_on(self) -> None:
        while self._stalled.is_set() and not self.is_paused:
            await self._room.until_room()
            if self._stalled.is_set() and not self.is_paused:
                try:
                    await self._go_on()
                except GuestLost as error:  # it has ended, or is to be tried again
                    log.warning("machine_does_not_go_on", error=error.message)

    def going(self) -> Callable[[], None]:
        """It is about to run: what it writes tells whether there is room. Call the result then."""
        was = self._stalled.is_set()
        self._stalled.clear()

        def went_on() -> None:
            if was and not self._stalled.is_set():
                self._tell(None)

        return went_on

    async def aclose(self) -> None:
        """Wait for nothing any more. Idempotent."""
        if self._waiting is not None:
            await end(self._waiting)
