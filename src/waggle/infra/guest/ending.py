# SPDX-License-Identifier: Apache-2.0
"""How a guest is asked to end by itself, so that its disk is whole for the next machine.

`LinkedMachine` is made of it; knows neither hypervisors nor what becomes of the disk. PID 1 is
asked over the port that it holds (kit/guest/ending.c): it needs no process, memory or SSH for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Final

from waggle.domain.errors import GuestLost
from waggle.infra.guest.renewal import Renewal
from waggle.infra.shared.confined import ConfinedProcess

BEGIN_SECONDS: Final = 5.0
"""How long the guest may take to begin; one that answers nothing is not waited for longer."""
WRITE_SECONDS: Final = 15.0
"""Beyond what programs are given: for what is left to be killed, and memory to be written."""


class EndingMachine(ABC):
    """The part of a machine that ends with the help of its guest."""

    _process: ConfinedProcess

    async def shut_down(self, seconds: float) -> bool:
        """Have the guest end by itself; see `domain.machine.Machine.shut_down`."""
        with contextlib.suppress(GuestLost, TimeoutError):
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._continue()
                await self._require_renewal().end(seconds)
            async with asyncio.timeout(seconds + WRITE_SECONDS):
                await self._process.wait()
        return not self._process.is_alive

    @abstractmethod
    async def _continue(self) -> None:
        """Run its processors if they are stopped. Idempotent. Raises GuestLost."""

    @abstractmethod
    def _require_renewal(self) -> Renewal:
        """Return the channel to PID 1. Raises GuestLost."""
