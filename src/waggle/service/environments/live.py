# SPDX-License-Identifier: Apache-2.0
"""The life of one environment, and the guest that its calls work in.

`EnvironmentService` keeps one per environment; the base class, `ending.Life`, has the ways to end.
An `EnvironmentHost` provides the machine, an `EnvironmentStore` keeps the record. It knows nothing
of owners, limits or other environments.

The states and their moves are in `domain.environment`. PAUSED has a guest if the machine is in
memory, and none if its state is on the disk. The lock `_ending` is held for every change of state
but CREATING to RUNNING, so pauses, resumes, rollbacks, ends and deaths happen one after the other;
they finish even when the caller is cancelled. Without the lock only counts and times of use and the
notice change in `environment`, in one step without an await, so that it is always right.

Create: CREATING is recorded first, and RUNNING is visible only once it is recorded. A create that
fails or is cancelled, by its caller or by `end`, frees its guest and is DESTROYED with the cause;
if the guest cannot be freed, it is in ERROR and keeps its machine, and the reaper tries again.
Pause, resume and rollback are in `halting`, a restart in `restarting`.
Death: `_watch` waits for the machine. If its guest is still in use and the state is RUNNING or
PAUSED, the environment goes to ERROR with the cause, and what the machine held is freed.
A record that cannot be saved is only logged, but for create and extend: the next start recovers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Unpack

import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import NotFound
from waggle.domain.exposure import ExposedPort
from waggle.domain.guest_agent import GuestLoad, GuestReport
from waggle.domain.host import FrozenMachine, Guest, Progress
from waggle.domain.programs import NOTHING_LEFT, Left
from waggle.domain.use import ResourceUse
from waggle.service.environments.ending import Parts, save_if_possible
from waggle.service.environments.exposed import ExposedPorts
from waggle.service.environments.halting import Halting, PutOff

log = structlog.get_logger(__name__)


class LiveEnvironment(Halting):
    """An environment that is not destroyed yet.

    Build it CREATING and call `create` once, or build it as paused to disk by an earlier server.
    """

    put_off: PutOff | None = None
    """Why it is not on the disk although it was idle."""

    def __init__(
        self,
        environment: Environment,
        *,
        wake: Callable[[LiveEnvironment], Awaitable[object]],
        **parts: Unpack[Parts],
    ) -> None:
        """`wake` resumes it for a visitor of one of its ports."""
        super().__init__(environment, **parts)
        listeners = parts["host"].listeners
        self.ports = ExposedPorts(self, listeners, lambda: wake(self), parts["clock"])

    async def create(self, progress: Progress, frozen: FrozenMachine | None = None) -> Environment:
        """Boot it, or resume `frozen`, and return it running. A task watches for its death.

        If that fails or is cancelled, or `end` is called meanwhile, everything is undone first.
        Raises NotFound if `end` was called, and what the host and the store raise.
        """
        self.may_have_left = frozen is not None
        try:
            self.environment = await self._boot(progress, frozen)
            self._tasks.start_soon(self._watch, self._the_guest())
        except BaseException as error:
            await self._undo(error)
            raise
        finally:
            self._settled.set()
        template = self.environment.booted_from.get("template")
        log.info("environment_created", environment=self.environment.id, template=template)
        return self.environment

    async def _boot(self, progress: Progress, frozen: FrozenMachine | None) -> Environment:
        """Boot, record, and return the environment as running, unless `end` was called."""
        with self._creation:
            await self._store.save(self.environment)
            self._take_in(await self._host.create(self.environment, progress, frozen))
            guest = self._the_guest()
            if frozen is not None:
                await self._hooks.adopt(self.environment, guest, anew=True)
            self.environment = await self._hooks.equip(self.environment, guest, frozen is not None)
            running = replace(self.environment.to(State.RUNNING), last_used_at=self._clock())
            await self._store.save(running)
            if not self._creation.cancel_called:
                return running
        raise NotFound(f"Environment {self.environment.id} was destroyed while it was created.")

    async def record(self, exposed: tuple[ExposedPort, ...]) -> None:
        """Set and record its exposed ports; for `ExposedPorts`."""
        self.environment = replace(self.environment, exposed=exposed)
        if self.environment.state in (State.RUNNING, State.PAUSED, State.RESUMING):
            await save_if_possible(self._store, self.environment)

    def visited(self) -> None:
        """Count a connection to an exposed port as use."""
        if self.environment.state is State.RUNNING:
            self.environment = self.environment.visited(self._clock())

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncGenerator[tuple[Environment, Guest]]:
        """Hold it for the length of a call: it counts as active until the end.

        Raises NotRunning, or DiskFull while its machine is stopped by a full disk.
        """
        self.environment.require_running()
        guest = self._the_guest()
        self.require_unstalled()
        noticing = self.environment.noticing(self._misconduct)
        self.environment = noticing.call_started(self._clock())
        try:
            yield self.environment, guest
        finally:
            self.environment = self.environment.call_ended(self._clock())

    def touch(self) -> Environment:
        """Restart the idle time if it runs, because a client looked at its programs; return it."""
        if self.environment.state is State.RUNNING:
            self.environment = self.environment.used(self._clock())
        return self.environment

    async def extend(self, idle_timeout: timedelta) -> Environment:
        """Set its idle timeout, and restart its idle time. Raises as `amend`, and NotRunning."""

        def extended(environment: Environment) -> Environment:
            environment.require_running()
            return environment.extended(idle_timeout, self._clock())

        return await self.amend(extended)

    async def resource_use(self) -> ResourceUse | None:
        """Return what its machine uses, if there is one. Does not count as use."""
        return None if self._guest is None else await self._guest.resource_use()

    async def report(self) -> GuestReport | None:
        """Return what its guest says of itself, if it runs and does so. Raises GuestLost."""
        return None if (guest := self._running_guest) is None else await guest.report()

    async def load(self) -> GuestLoad | None:
        """Return how busy its guest says it is; as `report`."""
        return None if (guest := self._running_guest) is None else await guest.load()

    @property
    def _running_guest(self) -> Guest | None:
        return self._guest if self.environment.state is State.RUNNING else None

    async def left(self, *, always: bool) -> Left:
        """Return what calls have left running; unless `always`, ask only if there may be any.

        Does not count as use. Nothing while it does not run. Raises GuestLost.
        """
        self.may_have_left |= always
        if (guest := self._running_guest) is None or not self.may_have_left:
            return NOTHING_LEFT
        self.may_have_left = False  # calls that end meanwhile set it again
        try:
            left = await guest.left_running()
        except BaseException:
            self.may_have_left = True
            raise
        self.may_have_left |= left.count > 0
        return left

    async def end_unless_on_disk(self) -> None:
        """End it, or as the server stops, at least its listeners."""
        await super().end_unless_on_disk()
        await self.ports.aclose()

    def _hang_up(self) -> None:
        self.ports.hang_up()

    async def _free_guest(self) -> None:
        """Free the guest with all visits, and unless it gets another one, its listeners."""
        if self.environment.state is State.PAUSED:
            self.ports.hang_up()
        else:
            await self.ports.aclose()
        await super()._free_guest()
