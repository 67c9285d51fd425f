# SPDX-License-Identifier: Apache-2.0
"""The restart of an environment whose machine is of no use any more: another boots from its disk.

`Restarting` is the part of `LiveEnvironment` that does so, or ends it as gently; `Restarts` has
checked the owner. It knows nothing of owners, limits or how a machine ends.

A restart holds `_ending` like every change of state, and its slot: the environment is RESUMING
until it runs, so calls wait for that, and an end comes after it. Whatever keeps a machine from
booting is asked for first, while nothing is lost. From the end of the old machine on, a failure is
an ERROR with the cause, and frees what the machine held, its disk included. A call that waited
while another restarted the environment gets that one's result.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from dataclasses import dataclass

import anyio
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import DiskFull, GuestLost
from waggle.domain.host import Guest, Progress
from waggle.service.environments.ending import cause_of, save_if_possible
from waggle.service.environments.noticing import Noticing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Restarted:
    """An environment that was restarted. `gracefully`: its guest ended by itself, disk and all.

    If not, the machine was killed, and what was not yet on its disk is lost, as in a power cut.
    """

    environment: Environment
    gracefully: bool
    seconds: float


class Restarting(Noticing):
    """An environment that can be restarted."""

    _restarts: tuple[Restarted, ...] = ()
    """The last one, once it has ended."""

    @abstractmethod
    def _hang_up(self) -> None:
        """End the visits of its ports, which stay."""

    async def restart(self, progress: Progress, *, grace: float) -> Restarted:
        """Boot another machine from its disk. Finishes when cancelled.

        Programs have `grace` seconds to end. A machine that is paused in memory is restarted, too.
        Raises NotRunning or DiskFull, or BootFailed if
        a part of it is gone; then it continues as before. After what else the host and the guest
        raise, it is in ERROR.
        """
        before = self._restarts
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self.environment.state is not State.PAUSED:
                    self.environment.require_running()
                if self._restarts is before:  # else another call has restarted it meanwhile
                    guest = self._the_guest()
                    if self._stalled is not None:
                        raise DiskFull(self._stalled.message, hint=self._stalled.hint)
                    self._host.require_restart(guest)
                    self._restarts = (await self._restart(guest, progress, grace),)
        return self._restarts[-1]

    async def _restart(self, guest: Guest, progress: Progress, grace: float) -> Restarted:
        began, was_paused = self._clock(), self.environment.state is State.PAUSED
        if not was_paused:
            self.environment = self.environment.to(State.PAUSED)
        self.environment = self.environment.to(State.RESUMING)  # calls wait from now on
        self._hang_up()
        try:
            await progress(0.1, "Ending the machine")
            gracefully = await guest.end_machine(grace)
            self._hooks.lose(self.environment.id, _lost())
            await progress(0.3, "Booting the machine")
            self._take_in(await self._host.restart(self.environment, guest, progress))
        except BaseException as error:
            await self._give_up(error)
            raise
        self.may_have_left = False
        self.environment = self.environment.resumed(self._clock())
        self._tasks.start_soon(self._watch, self._the_guest())
        seconds = (self._clock() - began).total_seconds()
        restarted = Restarted(self.environment, gracefully, seconds)
        await save_if_possible(self._store, self.environment)
        self._changed(self.environment)
        log.info(
            "environment_restarted",
            environment=self.environment.id,
            gracefully=gracefully,
            seconds=round(seconds, 1),
        )
        return restarted

    async def end_gently(self, grace: float) -> None:
        """Give its programs so many seconds to end, if it runs; then do what `end` does."""
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self.environment.state is State.RUNNING:
                    self.environment = self.environment.to(State.PAUSED).to(State.RESUMING)
                    with contextlib.suppress(Exception):  # it is destroyed in any case
                        await self._the_guest().end_machine(grace)
                    await self._tear_down(reason=None)
                    return
            await self.end()

    async def _give_up(self, error: BaseException) -> None:
        """Note that it has no machine any more, and free what that had."""
        why = f"Restart failed: {cause_of(error)}"
        log.warning("environment_not_restarted", environment=self.environment.id, why=why)
        self.environment = self.environment.to(State.ERROR, error=why)
        self._changed(self.environment)
        with contextlib.suppress(Exception):
            self._hooks.lose(self.environment.id, GuestLost(why))
        try:
            await self._free_guest()
        except Exception:
            log.exception("environment_cleanup_failed", environment=self.environment.id)
        await save_if_possible(self._store, self.environment)


def _lost() -> GuestLost:
    return GuestLost(
        "The environment was restarted before this job's end.",
        hint="Its files are kept: run it again, if it is still wanted.",
    )
