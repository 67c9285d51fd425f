# SPDX-License-Identifier: Apache-2.0
"""Put to sleep or remove what nobody uses. A pure sweep, and a loop that acts on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

import structlog

from waggle.domain.environment import Environment
from waggle.domain.observer import Clock
from waggle.service.environments.service import EnvironmentService

log = structlog.get_logger(__name__)


def expired(environments: Iterable[Environment], now: datetime) -> list[str]:
    """The ids to remove at `now`, longest expired first."""
    due = [environment for environment in environments if environment.is_expired(now)]
    return [environment.id for environment in sorted(due, key=lambda e: e.expires_at())]


class Reaper:
    """Sweeps every `interval` seconds until cancelled. `sleep` and `clock` are injected."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        interval: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        expire: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`expire` removes what else is kept for a time: snapshots."""
        self._environments = environments
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._expire = expire

    async def run(self) -> None:
        """Sweep for ever. One environment that cannot be removed never stops the others."""
        while True:
            await self._sleep(self._interval)
            await self.sweep()

    async def sweep(self) -> list[str]:
        """Retire what is expired now and return the ids of what is gone or asleep."""
        removed: list[str] = []
        for environment_id in expired(self._environments.all(), self._clock()):
            try:
                if await self._environments.retire(environment_id):
                    removed.append(environment_id)
            except Exception:
                log.exception("reap_failed", environment=environment_id)
        if self._expire is not None:
            try:
                await self._expire()
            except Exception:
                log.exception("expire_failed")
        return removed
