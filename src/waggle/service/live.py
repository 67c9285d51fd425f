# SPDX-License-Identifier: Apache-2.0
"""One environment from its reservation to its end, with the guest it works in.

The only place that moves an environment through its states and frees its guest. Used by
`EnvironmentService`; calls an `EnvironmentHost` for the machine and an `EnvironmentStore` for
memory. Knows nothing of owners, limits or the other environments.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import NotFound, NotRunning
from waggle.domain.host import EnvironmentHost, Guest, Progress
from waggle.domain.protocols import Clock, EnvironmentStore
from waggle.domain.usage import ExposedPort, Usage
from waggle.service.death import cause_of, death
from waggle.service.records import record_end

log = structlog.get_logger(__name__)


class LiveEnvironment:
    """An environment that is not destroyed yet. Build it reserved, then `bring_up` once.

    A change of state never straddles an await unless `_ending` is held, so what `environment`
    shows is always true. `changed` is called, without an await, when it has failed, died or been
    destroyed.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        store: EnvironmentStore,
        clock: Clock,
        changed: Callable[[LiveEnvironment], None],
    ) -> None:
        self.environment: Environment = environment
        self._store = store
        self._clock = clock
        self._changed = changed
        self._guest: Guest | None = None
        self._creation = anyio.CancelScope()
        self._settled = anyio.Event()
        self._ending = anyio.Lock()

    async def bring_up(
        self, host: EnvironmentHost, progress: Progress, tasks: anyio.abc.TaskGroup
    ) -> Environment:
        """Boot it and return it running, with a task in `tasks` that notices its death.

        When that fails or is cancelled, or `end` is called meanwhile, everything is undone first.
        Raises NotFound when it was ended meanwhile, and what `host` and the store raise.
        """
        try:
            self.environment = await self._boot(host, progress)
            tasks.start_soon(self._watch)
        except BaseException as error:
            await self._undo(error)
            raise
        finally:
            self._settled.set()
        log.info("environment_created", environment=self.environment.id)
        return self.environment

    async def _boot(self, host: EnvironmentHost, progress: Progress) -> Environment:
        """Boot and record. It shows as running only once that is on record and was not undone."""
        with self._creation:
            await self._store.save(self.environment)
            guest = self._guest = await host.create(self.environment, progress)
            self.environment = self.environment.with_machine(
                guest.machine,
                ssh_port=guest.ssh_port,
                booted_from=guest.booted_from,
                directory=guest.directory,
            )
            running = replace(self.environment.to(State.RUNNING), last_used_at=self._clock())
            await self._store.save(running)
            if not self._creation.cancel_called:
                return running
        raise NotFound(f"Environment {self.environment.id} was destroyed while it was created.")

    async def _undo(self, error: BaseException) -> None:
        """Free what a failed create holds. If even that fails, it stays, in ERROR."""
        with anyio.CancelScope(shield=True):
            async with self._ending:
                with contextlib.suppress(Exception):  # logged; the first failure is the one to tell
                    await self._tear_down(reason=f"Create failed: {cause_of(error)}")

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncGenerator[tuple[Environment, Guest]]:
        """Hold it for the length of a call: it counts as active until the end.

        Raises NotRunning.
        """
        self.environment.require_running()
        if self._guest is None:
            raise NotRunning(f"Environment {self.environment.id} has no machine.")
        self.environment = self.environment.call_started(self._clock())
        try:
            yield self.environment, self._guest
        finally:
            self.environment = self.environment.call_ended(self._clock())

    def touch(self) -> None:
        """Count a look after its programs as use: the idle time of a running one starts anew."""
        if self.environment.state is State.RUNNING:
            self.environment = self.environment.used(self._clock())

    async def extend(self, idle_timeout: timedelta) -> Environment:
        """Let it stay unused for so long from now on, on record too; return it so.

        Raises NotRunning, or what the store raises. Finishes when the caller is cancelled.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                self.environment.require_running()
                self.environment = self.environment.extended(idle_timeout, self._clock())
                await self._store.save(self.environment)
        return self.environment

    async def usage(self) -> Usage | None:
        """What its machine takes, if there is one. Does not count as use."""
        return None if self._guest is None else await self._guest.usage()

    @property
    def exposed(self) -> tuple[ExposedPort, ...]:
        """Its exposed ports."""
        return () if self._guest is None else self._guest.exposed

    async def end(self, *, wanted: Callable[[Environment], bool] | None = None) -> bool:
        """Destroy it, unless it is destroyed already or no longer `wanted` when its turn comes.

        Returns whether this call destroyed it. A create in progress is cancelled and undone.
        Finishes when the caller is cancelled. When the guest cannot be destroyed, the environment
        stays in ERROR, for another try, and what the guest raised is raised.
        """
        ended = False
        with anyio.CancelScope(shield=True):
            if self.environment.state is State.CREATING:
                self._creation.cancel()
                await self._settled.wait()
            async with self._ending:
                still = wanted is None or wanted(self.environment)
                if still and self.environment.state is not State.DESTROYED:
                    await self._tear_down(reason=None)
                    ended = True
        return ended

    async def _tear_down(self, *, reason: str | None) -> None:
        """Free the guest, record the end, be gone. Only with `_ending` held."""
        self.environment = self.environment.to(State.DESTROYING)
        try:
            await self._free_guest()
        except BaseException as error:
            self.environment = self.environment.to(
                State.ERROR, error=f"Destroy failed: {cause_of(error)}"
            )
            log.exception("environment_destroy_failed", environment=self.environment.id)
            self._changed(self)
            raise
        try:
            await record_end(self._store, self.environment.to(State.DESTROYED, error=reason))
        finally:
            self.environment = self.environment.to(State.DESTROYED, error=reason)
            self._changed(self)
            log.info("environment_destroyed", environment=self.environment.id, reason=reason)

    async def _free_guest(self) -> None:
        if self._guest is not None:
            await self._guest.destroy()
            self._guest = None
            self.environment = self.environment.without_machine()

    async def _watch(self) -> None:
        """Notice a machine that dies by itself, free what it held, and keep the cause to show."""
        if self._guest is None:
            return
        cause = await death(self._guest)
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self.environment.state not in (State.RUNNING, State.PAUSED):
                    return
                self.environment = self.environment.to(
                    State.ERROR, error=f"The machine died: {cause}"
                )
                log.warning("environment_died", environment=self.environment.id, cause=cause)
                self._changed(self)
                try:
                    await self._free_guest()
                except Exception:
                    log.exception("environment_cleanup_failed", environment=self.environment.id)
                await record_end(self._store, self.environment)
