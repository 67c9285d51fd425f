# SPDX-License-Identifier: Apache-2.0
"""The reaper: a loop that pauses to disk or removes environments which are idle for too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

import structlog

from waggle.domain.environment import Environment
from waggle.domain.observer import Clock
from waggle.service.environments.service import EnvironmentService

log = structlog.get_logger(__name__)


def expired(environments: Iterable[Environment], now: datetime) -> list[str]:
    """Return the ids to retire at `now`, longest expired first. Pure."""
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
        """`expire` removes other things that are kept for a limited time: snapshots."""
        self._environments = environments
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._expire = expire

    async def run(self) -> None:
        """Sweep until cancelled. One environment that cannot be removed never stops the others."""
        while True:
            await self._sleep(self._interval)
            await self.sweep()

    async def sweep(self) -> list[str]:
        """Retire what has expired; return the ids of what was destroyed or paused to disk."""
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
