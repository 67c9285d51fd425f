# SPDX-License-Identifier: Apache-2.0
"""When environments are paused, put to sleep on the disk, and resumed, and whether they may.

Used by `EnvironmentService`, which has looked who asks. `LiveEnvironment` does it.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import DiskFull, QuotaExceeded, WaggleError
from waggle.domain.host import EnvironmentHost, Progress, no_progress
from waggle.domain.protocols import Clock
from waggle.service.live import LiveEnvironment
from waggle.service.registry import Registry
from waggle.service.request import Pausing

log = structlog.get_logger(__name__)
TRY_AGAIN = timedelta(minutes=2)
"""After a pause for which the disk had no room: each try stops the machine for a while."""


class Pauses:
    """The operator's rules for pauses. The host says whether machines can sleep, and the room."""

    def __init__(
        self, registry: Registry, pausing: Pausing, clock: Clock, host: EnvironmentHost
    ) -> None:
        self._registry = registry
        self._pausing = pausing
        self._clock = clock
        self._host = host

    @property
    def sleep_when_idle(self) -> bool:
        """Whether what nobody uses is put to sleep, while there is room, instead of destroyed."""
        pausing = self._pausing
        return self._host.can_freeze and pausing.when_idle and pausing.max_asleep > 0

    async def pause(self, live: LiveEnvironment, *, to_disk: bool) -> Environment:
        """Have it take no processor, and with `to_disk`, no memory and no slot. Idempotent.

        Raises Busy, NotRunning, QuotaExceeded, Unsupported, BootFailed, GuestLost, DiskFull or
        SnapshotFailed; then it goes on.
        """
        if not to_disk:
            return await live.pause()
        most = self._pausing.max_asleep
        if not live.environment.is_asleep and self._registry.asleep >= most:
            raise QuotaExceeded(
                f"{most} environments are paused to disk, which is all there may be.",
                hint="Destroy one of them, or pause without to_disk.",
            )
        if not live.environment.is_asleep:
            self._host.require_disk()
        return await live.pause(asleep_until=self._clock() + self._pausing.keep)

    async def resume(self, live: LiveEnvironment, progress: Progress = no_progress) -> Environment:
        """Have a paused one go on, in a slot that is free. Idempotent.

        Raises NotRunning, MaxEnvironments, QuotaExceeded, and what the host raises.
        """
        admit = self._registry.require_room_for
        return await live.resume(progress, lambda: admit(live.environment))

    async def put_to_sleep(self, live: LiveEnvironment) -> State | None:
        """What becomes of an idle one: PAUSED, it sleeps now; DESTROYED, it is to be destroyed.

        None when the disk has no room for it: it is kept as it is, and tried again later. Does not
        raise.
        """
        if not self._may_sleep(live.environment):
            return State.DESTROYED
        now = self._clock()
        if live.sleep_again_at is not None and now < live.sleep_again_at:
            return None
        try:
            self._host.require_disk()
            await live.pause(asleep_until=now + self._pausing.keep)
        except DiskFull as error:
            log.warning("pause_put_off", environment=live.environment.id, error=error.message)
            live.hold(f"It is idle, and is kept as it is: {error.message}", now + TRY_AGAIN)
            return None
        except (WaggleError, OSError) as error:
            log.warning("pause_failed", environment=live.environment.id, error=str(error))
            return State.DESTROYED
        live.sleep_again_at = None
        return State.PAUSED

    def _may_sleep(self, environment: Environment) -> bool:
        return (
            self.sleep_when_idle
            and environment.state in (State.RUNNING, State.PAUSED)
            and not environment.is_asleep
            and self._registry.asleep < self._pausing.max_asleep
        )
