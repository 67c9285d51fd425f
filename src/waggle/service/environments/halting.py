# SPDX-License-Identifier: Apache-2.0
"""How an environment stops for a while, continues, or goes back to an earlier state of it.

`Halting` is the part of `LiveEnvironment` that does so; `Pauses` and `EnvironmentService` have
checked that it may. It knows nothing of owners, limits or how a machine is frozen.

Pause: to disk, it waits for its turn to be frozen before anything, without the lock, so calls use
it meanwhile and it can be destroyed. Then PAUSED is set first, so that new calls wait for the lock.
If the machine cannot be paused or ended, or its state cannot be written, it runs again, even if it
was paused in memory before.
Resume: the paused machine continues, or the host starts another from the state on the disk, in a
slot that `admit` takes. After a failure it is PAUSED as before.
Rollback: the old machine and its state are destroyed first, so a failure ends in ERROR.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import anyio
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import Busy, GuestLost, GuestMisbehaves
from waggle.domain.host import IN_TURN, UNDISTURBED, FrozenMachine, Progress, Turn
from waggle.service.environments.ending import cause_of, save_if_possible
from waggle.service.environments.restarting import Restarting
from waggle.tasks import holding

log = structlog.get_logger(__name__)
_SOON = "Nothing was disturbed: try again in some seconds."


def always(_environment: Environment) -> bool:
    """Pause it, whatever it is by then."""
    return True


@dataclass(frozen=True, slots=True)
class PutOff:
    """Why an idle one could not be paused to disk, and when to try again.

    `woken` counts the tries that woke it, although it was paused in memory.
    """

    until: datetime
    cause: str
    woken: int = 0


class Halting(Restarting):
    """An environment that can be paused, resumed and rolled back."""

    @contextlib.asynccontextmanager
    async def turn_to_freeze(self) -> AsyncGenerator[Turn | None]:
        """Wait for its turn to be frozen, while it can be used, and hold it for the block.

        None once it is on the disk. Raises Busy, NotRunning, or what the guest raises. Safe to
        cancel.
        """
        async with self._ending:  # until it is what it is about to be
            if self.environment.state is State.RUNNING:
                self.environment.require_quiet()
            else:
                self.environment.require(State.PAUSED)
            guest = self._guest
        if guest is None:
            yield None
            return
        async with guest.turn_to_freeze() as turn:
            yield turn

    async def pause(
        self,
        *,
        keep_for: timedelta | None = None,
        turn: Turn | None = None,
        notice: str | None = None,
        wanted: Callable[[Environment], bool] = always,
    ) -> Environment:
        """Pause it in memory, or with `keep_for`, to disk for that time. Idempotent.

        `turn` is from `turn_to_freeze`: without one, only what is on the disk is paused to disk.
        `notice` is the reason to show if the owner did not ask for it. Nothing is done unless
        `wanted` is true once the lock is held, for which it waits with a turn for IN_TURN at most.
        Raises Busy, NotRunning, DiskFull while its machine is stopped by a full disk, or what the
        guest raises. After an error of the guest that is not of UNDISTURBED it runs, otherwise it
        is as it was. Finishes when cancelled, once it has the lock.
        """
        changes = Busy("Another call changes the environment.", hint=_SOON)
        async with holding(self._ending, None if turn is None else IN_TURN, changes):
            with anyio.CancelScope(shield=True):
                if not wanted(self.environment):
                    return self.environment
                if keep_for is not None and not self.environment.is_on_disk:
                    if turn is None:
                        raise Busy("It was resumed meanwhile.", hint=_SOON)
                    self.require_unstalled()  # its disk may have filled while it waited
                if is_running := self.environment.state is State.RUNNING:
                    self.environment.require_quiet()
                    self.environment = self.environment.to(State.PAUSED)  # calls wait from now on
                    self._hang_up()
                self.environment.require(State.PAUSED)
                if keep_for is not None and turn is not None and not self.environment.is_on_disk:
                    to_disk = partial(self._the_guest().pause_to_disk, turn)
                    await self._or_run_again(to_disk, is_running)
                    self._guest = None
                    self.environment = self.environment.paused_to_disk(self._clock() + keep_for)
                elif is_running:
                    await self._or_run_again(self._the_guest().pause, is_running)
                if notice is not None:
                    self.environment = self.environment.noticing(notice)
                await save_if_possible(self._store, self.environment)
                self._changed(self.environment)
                now = self.environment
                log.info("environment_paused", environment=now.id, on_disk=now.is_on_disk)
        return self.environment

    async def _or_run_again(self, pause: Callable[[], Awaitable[None]], was_running: bool) -> None:
        try:
            await pause()
        except BaseException as error:
            disturbed = not isinstance(error, UNDISTURBED)
            if disturbed or was_running:
                self.environment = self.environment.to(State.RESUMING).to(State.RUNNING)
            if disturbed:
                with contextlib.suppress(GuestLost, GuestMisbehaves):  # `_watch` reports it
                    await self._the_guest().unpause()
            raise

    async def resume(self, progress: Progress, admit: Callable[[], None]) -> Environment:
        """Resume it if it is paused. Idempotent. Finishes when cancelled, once it has its turn.

        If it is paused to disk, `admit` takes a slot without an await, or raises. Raises what
        `admit`, the host or the guest raise, and stays paused then; or NotRunning.
        """
        async with self._ending:
            with anyio.CancelScope(shield=True):
                if self.environment.state is State.PAUSED:
                    if self._guest is None:
                        admit()
                    self.environment = self.environment.to(State.RESUMING)
                    try:
                        await self._continue(progress)
                    except BaseException:
                        self.environment = self.environment.to(State.PAUSED)
                        raise
                    self.environment = self.environment.resumed(self._clock())
                    await save_if_possible(self._store, self.environment)
                    self._changed(self.environment)
                    log.info("environment_resumed", environment=self.environment.id)
                self.environment.require_running()
        return self.environment

    async def _continue(self, progress: Progress) -> None:
        if self._guest is not None:
            await self._guest.unpause()
        else:
            self._take_in(await self._host.resume(self.environment, progress))
            self._tasks.start_soon(self._watch, self._the_guest())
            await self._hooks.adopt(self.environment, self._the_guest(), anew=False)

    async def roll_back(self, progress: Progress, frozen: FrozenMachine) -> Environment:
        """Replace its machine with a copy of `frozen`. Finishes when cancelled.

        Raises Busy or NotRunning, or what the host raises; after that it is in ERROR.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                self.environment.require_running()
                self.environment.require_quiet()
                self.environment = self.environment.to(State.PAUSED)
                try:
                    await self._free_guest()
                    self.environment = self.environment.to(State.RESUMING)
                    self._take_in(await self._host.create(self.environment, progress, frozen))
                    await self._hooks.adopt(self.environment, self._the_guest(), anew=True)
                    self.may_have_left = True
                except BaseException as error:
                    why = f"Rollback failed: {cause_of(error)}"
                    self.environment = self.environment.to(State.ERROR, error=why)
                    self._changed(self.environment)
                    await save_if_possible(self._store, self.environment)
                    raise
                self.environment = self.environment.resumed(self._clock())
                self._tasks.start_soon(self._watch, self._the_guest())
                await save_if_possible(self._store, self.environment)
                self._changed(self.environment)
        return self.environment
