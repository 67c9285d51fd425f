# SPDX-License-Identifier: Apache-2.0
"""Environments as a client knows them: create, use, list, destroy.

Decides who may do what and whether there is room; `LiveEnvironment` does the rest. Called by
`waggle.mcp`, the reaper and the CLI's server side; calls an `EnvironmentHost` for machines and an
`EnvironmentStore` for memory. Knows nothing of hypervisors, SSH or MCP.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import AsyncGenerator

import anyio
import anyio.abc

from waggle.domain.environment import Environment, State, parse_id, parse_timeout
from waggle.domain.errors import NotFound
from waggle.domain.host import EnvironmentHost, Guest, Progress, no_progress
from waggle.domain.observer import Observer
from waggle.domain.protocols import Clock, EnvironmentStore, NewId
from waggle.service.inspection import Inspection
from waggle.service.live import LiveEnvironment
from waggle.service.news import News
from waggle.service.records import recover
from waggle.service.registry import Registry
from waggle.service.request import CreateRequest, Limits

__all__ = ["CreateRequest", "EnvironmentService", "Limits"]


class EnvironmentService:
    """Use cases of environments. Build one per server, inside the task group it is given.

    All methods are safe to call concurrently from one event loop. `aclose` destroys everything.
    """

    def __init__(
        self,
        *,
        host: EnvironmentHost,
        store: EnvironmentStore,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
        tasks: anyio.abc.TaskGroup,
        observer: Observer | None = None,
    ) -> None:
        self._host = host
        self._store = store
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._tasks = tasks
        self._observer = observer or Observer()
        self.news = News(self._observer, clock)
        """Told of what comes, changes and goes."""
        self._registry = Registry(limits.max_environments, limits.per_owner)

    def _changed(self, live: LiveEnvironment) -> None:
        if live.environment.state is State.DESTROYED:
            self._registry.remove(live)
        self.news.tell(live.environment)

    async def recover(self) -> int:
        """Remove what an earlier server left behind; see `records.recover`."""
        return await recover(self._host, self._store)

    async def create(
        self, request: CreateRequest, *, owner: str, progress: Progress = no_progress
    ) -> Environment:
        """Boot a new environment and return it running.

        Capacity is reserved before any work; a failed or cancelled create frees it and leaves
        nothing. Raises MaxEnvironments, QuotaExceeded, InvalidArgument, NotFound when it is
        destroyed meanwhile, and what `EnvironmentHost.create` raises.
        """
        environment = self._limits.describe(
            request, environment_id=self._new_id(), owner=owner, now=self._clock()
        )
        live = LiveEnvironment(
            environment, store=self._store, clock=self._clock, changed=self._changed
        )
        self._registry.admit(live)
        with self.news.creating():
            environment = await live.bring_up(self._host, progress, self._tasks)
        self.news.tell(environment)
        return environment

    # `builtins.list` because this class has a `list` of its own.
    def list(self, *, owner: str) -> builtins.list[Environment]:
        """The owner's live environments, oldest first, failed ones included."""
        return [each for each in self._registry.environments() if each.owner == owner]

    def all(self) -> builtins.list[Environment]:
        """Every live environment, for the reaper and the operator."""
        return [*self._registry.environments()]

    def get(self, environment_id: str, *, owner: str) -> Environment:
        """One environment. Raises InvalidArgument (malformed id) or NotFound."""
        return self._owned(environment_id, owner).environment

    async def inspect(self, environment_id: str, *, owner: str) -> Inspection:
        """All that is known of it, without its guest. Not a use. Raises as `get` does."""
        live = self._owned(environment_id, owner)
        usage = await live.usage()
        return Inspection(live.environment, self._clock(), usage, live.exposed)

    def touch(self, environment_id: str, *, owner: str) -> Environment:
        """Restart its idle time if it runs, and return it. Raises as `get` does."""
        live = self._owned(environment_id, owner)
        live.touch()
        return live.environment

    async def extend(self, environment_id: str, minutes: int, *, owner: str) -> Environment:
        """Let it stay unused for so many minutes from now on.

        Raises NotFound, NotRunning, or InvalidArgument outside 1 to 60 minutes.
        """
        return await self._owned(environment_id, owner).extend(parse_timeout(minutes, "minutes"))

    def _owned(self, environment_id: str, owner: str) -> LiveEnvironment:
        live = self._registry.find(parse_id(environment_id))
        if live is None or live.environment.owner != owner:
            raise NotFound(f"There is no environment {parse_id(environment_id)}.")
        return live

    def using(
        self, environment_id: str, *, owner: str
    ) -> contextlib.AbstractAsyncContextManager[tuple[Environment, Guest]]:
        """Hold an environment for the length of a call: it counts as active until the end.

        Raises NotFound, InvalidArgument or, on entry, NotRunning.
        """
        return self._owned(environment_id, owner).using()

    @contextlib.asynccontextmanager
    async def temporary(
        self, request: CreateRequest, *, owner: str, progress: Progress = no_progress
    ) -> AsyncGenerator[Environment]:
        """An environment for the length of a block: destroyed at its end, however that comes.

        One that cannot be destroyed is left to the reaper. Raises as `create` does.
        """
        environment = await self.create(request, owner=owner, progress=progress)
        try:
            yield environment
        finally:
            if live := self._registry.find(environment.id):
                await _end_quietly(live)

    async def destroy(self, environment_id: str, *, owner: str) -> Environment:
        """Destroy an environment and return it destroyed. Idempotent while it is remembered.

        A create in progress is cancelled. Finishes even when the caller is cancelled. Raises
        NotFound, InvalidArgument, or what kept the machine from being destroyed; then the
        environment stays, in ERROR, and the reaper tries again.
        """
        try:
            live = self._owned(environment_id, owner)
        except NotFound:
            known = await self._store.get(parse_id(environment_id))
            if known is None or known.owner != owner or known.state is not State.DESTROYED:
                raise
            return known
        await live.end()
        return live.environment

    async def destroy_expired(self, environment_id: str) -> bool:
        """The reaper's destroy: does nothing if the environment was used since it looked."""
        live = self._registry.find(environment_id)
        if live is None or not live.environment.is_expired(self._clock()):
            return False
        ended = await live.end(wanted=lambda environment: environment.is_expired(self._clock()))
        if ended:
            self._observer.environment_reaped()
        return ended

    async def aclose(self) -> None:
        """Refuse new creates and destroy every environment, in parallel. Idempotent.

        Creates in progress are cancelled and undone. What cannot be destroyed is logged and stays
        on record for the next start. Like `destroy`, it is not cut short by a caller's deadline;
        what bounds it is that `Guest.destroy` is bounded.
        """
        self._registry.close()
        async with anyio.create_task_group() as group:
            for live in self._registry.everything():
                group.start_soon(_end_quietly, live)

    async def not_ready(self) -> str | None:
        """Why a create would fail right now, or None: capacity first, then the host."""
        refusal = self._registry.refusal()
        return refusal.message if refusal else await self._host.not_ready()


async def _end_quietly(live: LiveEnvironment) -> None:
    with contextlib.suppress(Exception):  # logged where it happened
        await live.end()
