# SPDX-License-Identifier: Apache-2.0
"""How a machine runs on after a pause: its guest's clock stood still, and is set.

Machines that can be frozen are made of it. A guest that answers too late has its clock set as soon
as it answers: one task for each machine tries again, less and less often, until that, its next
pause or its end. Knows no VMM.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Final

import structlog

from waggle.domain.errors import DiskFull, GuestLost
from waggle.infra.guest.link import LinkedMachine
from waggle.tasks import end

_FIRST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0
"""Between two tries."""
log = structlog.get_logger(__name__)


class ClockedMachine(LinkedMachine):
    """A machine that sets the clock of its guest."""

    _catching_up: asyncio.Task[None] | None = None
    _rests: bool = False
    """Since it is paused, frozen or about to end, its clock is not to be set."""

    @abstractmethod
    async def start(self) -> None:
        """Start its processors; its clock stays as it is. Idempotent. Raises GuestLost."""

    async def _reach(self) -> None:
        """Make the connections to its guest again that a freeze broke. Raises GuestLost."""

    async def _continue(self) -> None:
        await self._rest()
        await self.start()
        await self._reach()

    async def unpause(self) -> None:
        """Resume and set the clock, which was stopped; see `domain.machine.Machine.unpause`."""
        await self._rest()
        self._rests = False
        await self.start()
        is_set = False
        try:
            await self._reach()
            try:
                await self.renew({})
                is_set = True
            except (GuestLost, DiskFull) as error:  # a wrong clock harms only the guest
                log.warning("clock_not_set", error=error.message)
        finally:
            if not is_set:
                self._catch_up()

    async def _rest(self) -> None:
        """Set no clock until `unpause`. Call it before a freeze, a pause, and at the end."""
        self._rests = True
        if self._catching_up is not None:
            await end(self._catching_up)
            self._catching_up = None

    def _catch_up(self) -> None:
        if self._catching_up is None and self.is_alive and not self._rests:
            self._catching_up = asyncio.create_task(self._until_set())

    async def _until_set(self) -> None:
        pause = _FIRST_SECONDS
        while self.is_alive:
            try:
                await self._reach()
                await self.renew({})
            except (GuestLost, DiskFull):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MOST_SECONDS)
            else:
                log.info("clock_set_late")
                return
