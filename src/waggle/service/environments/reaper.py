# SPDX-License-Identifier: Apache-2.0
"""The reaper: a loop that pauses to disk or removes environments which are idle for too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial

import anyio
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
        self._under_way: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled. No environment stops the others, nor the sweeps that follow."""
        async with anyio.create_task_group() as sweeps:
            while True:
                await self._sleep(self._interval)
                sweeps.start_soon(self.sweep)

    async def sweep(self) -> list[str]:
        """Retire what has expired, all at once; return the ids of what is destroyed or on the disk.

        What an earlier sweep is still doing is left to that one.
        """
        removed: list[str] = []

        async def retire(environment_id: str) -> None:
            if await self._environments.retire(environment_id):
                removed.append(environment_id)

        async with anyio.create_task_group() as group:
            for environment_id in expired(self._environments.all(), self._clock()):
                group.start_soon(self._once, environment_id, partial(retire, environment_id))
            if self._expire is not None:
                group.start_soon(self._once, "snapshots", self._expire)
        return removed

    async def _once(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work, unless it is under way already; log its failure."""
        if what in self._under_way:
            return
        self._under_way.add(what)
        try:
            await work()
        except Exception:
            log.exception("reap_failed", of=what)
        finally:
            self._under_way.discard(what)
