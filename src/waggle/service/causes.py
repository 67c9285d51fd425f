# SPDX-License-Identifier: Apache-2.0
"""Why calls in a guest on this machine break: its machine died, or stands still for a full disk.

Part of `local_guest`, which asks around each call. Knows the machine, not what is called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from waggle.domain.diagnosis import machine_died
from waggle.domain.errors import DiskFull, GuestLost, TimedOut
from waggle.domain.machine import Machine

_SETTLE_SECONDS = 1.0
"""How long a broken call waits to learn that the machine itself died, to name that as the cause."""


class Causes:
    """Of one machine. `still` is called with whether it stands still, when that changes."""

    def __init__(
        self,
        machine: Machine,
        require_good_conduct: Callable[[], None],
        *still: Callable[[bool], None],
    ) -> None:
        """`require_good_conduct` raises what it is that the guest does, if it misbehaves."""
        self._machine = machine
        self._require_good_conduct = require_good_conduct
        self._still = still
        self._stalled: str | None = None
        self._tell: Callable[[str | None], None] = lambda _why: None
        machine.when_stalled(self._stands_still)

    def when_stalled(self, tell: Callable[[str | None], None]) -> None:
        """See `domain.host.Guest.when_stalled`."""
        self._tell = tell
        if self._stalled is not None:
            tell(self._stalled)

    def _stands_still(self, why: str | None) -> None:
        self._stalled = why
        for each in self._still:
            each(why is not None)
        self._tell(why)

    def require_going(self) -> None:
        """Raise DiskFull while it stands still."""
        if self._stalled is not None:
            raise DiskFull(self._stalled)

    @contextlib.asynccontextmanager
    async def named(self) -> AsyncGenerator[None]:
        """When a call breaks because the machine died, stands still or misbehaves, say why.

        Raises what is the cause instead of GuestLost and TimedOut.
        """
        try:
            yield
        except TimedOut:
            self.require_going()
            raise
        except GuestLost as error:
            self.require_going()
            self._require_good_conduct()
            cause: str | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    cause = await self._machine.wait()
            if cause is None:
                raise
            died = machine_died(cause)
            raise GuestLost(died.cause, hint=died.next_step) from error
