# SPDX-License-Identifier: Apache-2.0
"""Why calls in a guest on this machine break: it is destroyed, its machine died, or stands still.

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
        self._stalled: DiskFull | None = None
        self._is_destroyed = False
        self._tell: Callable[[DiskFull | None], None] = lambda _why: None
        machine.when_stalled(self._stands_still)

    def when_stalled(self, tell: Callable[[DiskFull | None], None]) -> None:
        """See `domain.host.Guest.when_stalled`."""
        self._tell = tell
        if self._stalled is not None:
            tell(self._stalled)

    def _stands_still(self, why: DiskFull | None) -> None:
        self._stalled = why
        for each in self._still:
            each(why is not None)
        self._tell(why)

    def destroyed(self) -> None:
        """Its end was asked for: from now on that is why calls break, unless it is dead already."""
        self._is_destroyed |= self._machine.is_alive

    def require_going(self) -> None:
        """Raise DiskFull while it stands still."""
        if self._stalled is not None:
            raise DiskFull(self._stalled.message, hint=self._stalled.hint)

    @contextlib.asynccontextmanager
    async def named(self) -> AsyncGenerator[None]:
        """When a call breaks by what happens to the machine or what the guest does, say why.

        Raises what is the cause instead of GuestLost and TimedOut.
        """
        try:
            yield
        except TimedOut:
            self._require_wanted()
            self.require_going()
            raise
        except GuestLost as error:
            self._require_wanted()
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

    def _require_wanted(self) -> None:
        if self._is_destroyed:
            raise GuestLost("The environment is being destroyed.")
