# SPDX-License-Identifier: Apache-2.0
"""Environments that come up, one or several at once: all of them or none.

Used by `EnvironmentService`, which says what they are. Takes their slots before any work; where
there are none, what its callers gave up makes room.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc

from waggle.domain.environment import Environment, State
from waggle.domain.errors import MaxEnvironments, QuotaExceeded, WaggleError
from waggle.domain.host import EnvironmentHost, Moment, Progress, no_progress
from waggle.domain.observer import Clock, EnvironmentStore
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.news import News
from waggle.service.environments.registry import Registry
from waggle.together import together


class Arrivals:
    """Makes environments. `changed` is told of each whose state is another later."""

    def __init__(
        self,
        host: EnvironmentHost,
        store: EnvironmentStore,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        *,
        registry: Registry,
        news: News,
        changed: Callable[[Environment], None],
        make_room: Callable[[str, WaggleError], Awaitable[bool]],
    ) -> None:
        self._host = host
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._registry = registry
        self._news = news
        self._changed = changed
        self._make_room = make_room

    async def bring_up(
        self,
        described: Sequence[Environment],
        progress: Progress = no_progress,
        moment: Moment | None = None,
    ) -> list[Environment]:
        """Have environments of one owner come up, at once; from a moment if one is given.

        All of them or none. Raises as `create` does.
        """
        lives = [self.live(environment) for environment in described]
        try:
            self._registry.admit(*lives)
        except (MaxEnvironments, QuotaExceeded) as refusal:
            if not await self._make_room(described[0].owner, refusal):
                raise
            self._registry.admit(*lives)
        try:
            async with together() as group:
                for live in lives:
                    group.start_soon(self._bring_up, live, progress, moment)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for live in lives:
                    if live.environment.state is State.RUNNING:
                        await end_quietly(live)
            raise
        for live in lives:
            self._news.tell(live.environment)
        return [live.environment for live in lives]

    async def _bring_up(
        self, live: LiveEnvironment, progress: Progress, moment: Moment | None
    ) -> None:
        with self._news.creating():
            await live.bring_up(progress, moment)

    def live(self, environment: Environment) -> LiveEnvironment:
        """One to be brought up, or one that sleeps."""
        return LiveEnvironment(
            environment,
            host=self._host,
            store=self._store,
            clock=self._clock,
            tasks=self._tasks,
            changed=self._changed,
        )


async def end_quietly(live: LiveEnvironment) -> None:
    """Destroy it; what fails is logged where it happens."""
    with contextlib.suppress(Exception):  # logged where it happened
        await live.end()
