# SPDX-License-Identifier: Apache-2.0
"""One environment from its reservation to its end, with the guest it works in.

With `life`, its base, the only place that moves an environment through its states and frees its
guest. Used by `EnvironmentService`; calls an `EnvironmentHost` for the machine and an
`EnvironmentStore` for memory. Knows nothing of owners, limits or the other environments.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import anyio
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import (
    DiskFull,
    GuestLost,
    GuestMisbehaves,
    NotFound,
    WaggleError,
)
from waggle.domain.host import Guest, Moment, Progress
from waggle.domain.network import ExposedPort, Usage
from waggle.domain.programs.execution import NOTHING_LEFT, Left
from waggle.service.environments.ending import Life, cause_of, save_if_possible

log = structlog.get_logger(__name__)


class LiveEnvironment(Life):
    """An environment that is not destroyed yet. Build it reserved, then `bring_up` once.

    Or build it asleep, as an earlier server has left it. Ports that are exposed when it is paused
    or rolled back are exposed again afterwards.
    """

    _doors: Sequence[ExposedPort] = ()
    _stalled: DiskFull | None = None
    _misconduct: str | None = None
    sleep_again_at: datetime | None = None
    """When an idle one whose state could not be written may be tried again."""

    async def bring_up(self, progress: Progress, moment: Moment | None = None) -> Environment:
        """Boot it, or go on from a moment, and return it running. A task notices its death.

        When that fails or is cancelled, or `end` is called meanwhile, everything is undone first.
        Raises NotFound when it was ended meanwhile, and what `host` and the store raise.
        """
        self.may_have_left = moment is not None
        try:
            self.environment = await self._boot(progress, moment)
            self._tasks.start_soon(self._watch, self._the_guest())
        except BaseException as error:
            await self._undo(error)
            raise
        finally:
            self._settled.set()
        template = self.environment.booted_from.get("template")
        log.info("environment_created", environment=self.environment.id, template=template)
        return self.environment

    async def _boot(self, progress: Progress, moment: Moment | None) -> Environment:
        """Boot and record. It shows as running only once that is on record and was not undone."""
        with self._creation:
            await self._store.save(self.environment)
            self._take_in(await self._host.create(self.environment, progress, moment))
            running = replace(self.environment.to(State.RUNNING), last_used_at=self._clock())
            await self._store.save(running)
            if not self._creation.cancel_called:
                return running
        raise NotFound(f"Environment {self.environment.id} was destroyed while it was created.")

    def _take_in(self, guest: Guest) -> None:
        super()._take_in(guest)
        self._stalled = self._misconduct = None
        guest.when_misbehaves(self._misbehaves)
        guest.when_visited(self._visited)
        guest.when_stalled(self._stands_still)

    def _stands_still(self, why: DiskFull | None) -> None:
        """The server's disk refuses a write of its machine's, or with None, no longer."""
        self._stalled = why
        if self.environment.state not in (State.RUNNING, State.PAUSED):
            return
        self.environment = self.environment.noticing(why.message if why else self._misconduct)
        if why is None:
            self.touch()  # nobody could use it
            log.info("environment_goes_on", environment=self.environment.id)
        else:
            log.error("environment_stands_still", environment=self.environment.id, why=why.message)
        self._changed(self.environment)

    def _misbehaves(self, error: GuestMisbehaves) -> None:
        """Its owner should see that it is of no use any more, also without calling it."""
        self._misconduct = str(error)
        if self.environment.state in (State.RUNNING, State.PAUSED):
            self.environment = self.environment.noticing(self._misconduct)
            how = error.message
            log.warning("environment_misbehaves", environment=self.environment.id, how=how)
            self._changed(self.environment)

    @property
    def is_stalled(self) -> bool:
        """Whether its machine stands still until the server's disk takes its write."""
        return self._stalled is not None and self.environment.state is State.RUNNING

    def _visited(self) -> None:
        """Somebody is connected to an exposed port."""
        if self.environment.state is State.RUNNING:
            self.environment = self.environment.visited(self._clock())

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncGenerator[tuple[Environment, Guest]]:
        """Hold it for the length of a call: it counts as active until the end.

        Raises NotRunning, or DiskFull while its machine stands still for that.
        """
        self.environment.require_running()
        guest = self._the_guest()
        if self._stalled is not None:
            raise DiskFull(self._stalled.message, hint=self._stalled.hint)
        noticing = self.environment.noticing(self._misconduct)
        self.environment = noticing.call_started(self._clock())
        try:
            yield self.environment, guest
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
                extended = self.environment.extended(idle_timeout, self._clock())
                await self._store.save(extended)
                self.environment = self.environment.extended(idle_timeout, self._clock())
        return self.environment

    async def pause(
        self, *, asleep_for: timedelta | None = None, notice: str | None = None
    ) -> Environment:
        """Have it stand still, or with a time, sleep on the disk for so long. Idempotent.

        `notice` is for its owner, where nobody asked that it stand still. Raises
        Busy, NotRunning, or what the guest raises; then it goes on. Finishes when cancelled.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self.environment.state is State.RUNNING:
                    self.environment.require_quiet()
                    self._doors = self.exposed
                    self.environment = self.environment.to(State.PAUSED)  # calls wait from now on
                    await self._or_go_on(self._the_guest().pause)
                self.environment.require(State.PAUSED)
                if asleep_for is not None and not self.environment.is_asleep:
                    await self._or_go_on(self._the_guest().hibernate)
                    self._guest = None
                    self.environment = self.environment.asleep(self._clock() + asleep_for)
                if notice is not None:
                    self.environment = self.environment.noticing(notice)
                await save_if_possible(self._store, self.environment)
                self._changed(self.environment)
                on_disk = self.environment.is_asleep
                log.info("environment_paused", environment=self.environment.id, on_disk=on_disk)
        return self.environment

    async def _or_go_on(self, obey: Callable[[], Awaitable[None]]) -> None:
        try:
            await obey()
        except BaseException:
            self.environment = self.environment.to(State.RESUMING).to(State.RUNNING)
            with contextlib.suppress(GuestLost, GuestMisbehaves):  # `_watch` tells
                await self._the_guest().unpause()
                await self._open_again(self._doors)
            raise

    async def resume(self, progress: Progress, admit: Callable[[], None]) -> Environment:
        """Have a paused one go on. Idempotent. Finishes when cancelled.

        `admit` takes a slot for it, without an await, or raises. Raises that, NotRunning, or what
        the host or the guest raise; then it stays paused.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self.environment.state is State.PAUSED:
                    if self._guest is None:
                        admit()
                    self.environment = self.environment.to(State.RESUMING)
                    try:
                        await self._go_on(progress)
                    except BaseException:
                        self.environment = self.environment.to(State.PAUSED)
                        raise
                    self.environment = self.environment.awake(self._clock())
                    await save_if_possible(self._store, self.environment)
                    self._changed(self.environment)
                    log.info("environment_resumed", environment=self.environment.id)
                self.environment.require_running()
        return self.environment

    async def _go_on(self, progress: Progress) -> None:
        if self._guest is not None:
            await self._guest.unpause()
        else:
            self._take_in(await self._host.wake(self.environment, progress))
            self._tasks.start_soon(self._watch, self._the_guest())
        await self._open_again(self._doors)

    async def _open_again(self, doors: Sequence[ExposedPort]) -> None:
        """Expose what was exposed, on the same ports of the server where they are free."""
        for door in doors:
            with contextlib.suppress(WaggleError):
                await self._the_guest().expose(door.port, door.local_port)

    async def roll_back(self, progress: Progress, moment: Moment) -> Environment:
        """Go on from a moment instead of from where it is. Finishes when cancelled.

        Raises Busy, NotRunning, or what the host raises; it is in ERROR then.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                self.environment.require_running()
                self.environment.require_quiet()
                self.environment = self.environment.to(State.PAUSED)
                doors = self.exposed
                try:
                    await self._free_guest()
                    self.environment = self.environment.to(State.RESUMING)
                    self._take_in(await self._host.create(self.environment, progress, moment))
                    self.may_have_left = True
                    await self._open_again(doors)
                except BaseException as error:
                    why = f"Rollback failed: {cause_of(error)}"
                    self.environment = self.environment.to(State.ERROR, error=why)
                    self._changed(self.environment)
                    await save_if_possible(self._store, self.environment)
                    raise
                self.environment = self.environment.awake(self._clock())
                self._tasks.start_soon(self._watch, self._the_guest())
                await save_if_possible(self._store, self.environment)
                self._changed(self.environment)
        return self.environment

    async def usage(self) -> Usage | None:
        """What its machine takes, if there is one. Does not count as use."""
        return None if self._guest is None else await self._guest.usage()

    async def left(self, *, always: bool) -> Left:
        """What calls have left running in it; unless `always`, only if something may be there.

        Does not count as use, and is nothing while it does not run. Raises GuestLost.
        """
        guest = self._guest
        self.may_have_left |= always
        if guest is None or self.environment.state is not State.RUNNING or not self.may_have_left:
            return NOTHING_LEFT
        self.may_have_left = False  # what is left meanwhile is noted anew
        try:
            left = await guest.left_running()
        except BaseException:
            self.may_have_left = True
            raise
        self.may_have_left |= left.count > 0
        return left

    @property
    def exposed(self) -> tuple[ExposedPort, ...]:
        """Its exposed ports."""
        return () if self._guest is None else self._guest.exposed
