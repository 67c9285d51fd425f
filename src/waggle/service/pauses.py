# SPDX-License-Identifier: Apache-2.0
"""When environments are paused, put to sleep on the disk, and resumed, and whether they may.

Used by `EnvironmentService`, which has looked who asks. `LiveEnvironment` does it.
"""

from __future__ import annotations

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import QuotaExceeded, WaggleError
from waggle.domain.host import Progress, no_progress
from waggle.domain.protocols import Clock
from waggle.service.live import LiveEnvironment
from waggle.service.registry import Registry
from waggle.service.request import Pausing

log = structlog.get_logger(__name__)


class Pauses:
    """The operator's rules for pauses. `can_freeze` says whether machines can sleep here."""

    def __init__(
        self, registry: Registry, pausing: Pausing, clock: Clock, *, can_freeze: bool
    ) -> None:
        self._registry = registry
        self._pausing = pausing
        self._clock = clock
        self._can_freeze = can_freeze

    @property
    def sleep_when_idle(self) -> bool:
        """Whether what nobody uses is put to sleep, while there is room, instead of destroyed."""
        pausing = self._pausing
        return self._can_freeze and pausing.when_idle and pausing.max_asleep > 0

    async def pause(self, live: LiveEnvironment, *, to_disk: bool) -> Environment:
        """Have it take no processor, and with `to_disk`, no memory and no slot. Idempotent.

        Raises Busy, NotRunning, QuotaExceeded, Unsupported, BootFailed or GuestLost.
        """
        if not to_disk:
            return await live.pause()
        most = self._pausing.max_asleep
        if not live.environment.is_asleep and self._registry.asleep >= most:
            raise QuotaExceeded(
                f"{most} environments are paused to disk, which is all there may be.",
                hint="Destroy one of them, or pause without to_disk.",
            )
        return await live.pause(asleep_until=self._clock() + self._pausing.keep)

    async def resume(self, live: LiveEnvironment, progress: Progress = no_progress) -> Environment:
        """Have a paused one go on, in a slot that is free. Idempotent.

        Raises NotRunning, MaxEnvironments, QuotaExceeded, and what the host raises.
        """
        admit = self._registry.require_room_for
        return await live.resume(progress, lambda: admit(live.environment))

    async def put_to_sleep(self, live: LiveEnvironment) -> bool:
        """Whether an idle one now sleeps instead of being destroyed. Does not raise."""
        if not self._may_sleep(live.environment):
            return False
        try:
            await live.pause(asleep_until=self._clock() + self._pausing.keep)
        except (WaggleError, OSError) as error:
            log.warning("pause_failed", environment=live.environment.id, error=str(error))
            return False
        return True

    def _may_sleep(self, environment: Environment) -> bool:
        return (
            self.sleep_when_idle
            and environment.state in (State.RUNNING, State.PAUSED)
            and not environment.is_asleep
            and self._registry.asleep < self._pausing.max_asleep
        )
