# SPDX-License-Identifier: Apache-2.0
"""The restart of an environment whose machine is of no use any more: another boots from its disk.

`Restarting` is the part of `LiveEnvironment` that does so, or ends it as gently; `Restarts` has
checked the owner. It knows nothing of owners, limits or how a machine ends.

A restart holds `_ending` like every change of state, and its slot: the environment is RESUMING
until it runs, so calls wait for that, and visitors of its ports are refused. Whatever keeps a
machine from booting is asked for first, while nothing is lost. From the end of the old machine on,
a failure is an ERROR with the cause, and frees what the machine held, its disk included. An end
cuts it short: its disk is not wanted any more, so the machine is killed and no other is waited for.
A call that waited while another restarted the environment gets that one's result.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

import anyio
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import Busy, GuestLost, NotFound
from waggle.domain.host import Guest, Progress
from waggle.domain.programs.guest_job import EndedByRestart
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
    _under_way: tuple[anyio.CancelScope, ...] = ()
    """What an end cuts short: the restart, or the time that programs have before an end."""
    _is_restarting = False
    _ends = 0
    """How many calls wait to end it."""

    @abstractmethod
    def _hang_up(self) -> None:
        """End the visits of its ports, which stay."""

    def unreachable(self) -> Busy | None:
        """Return why visitors of its ports are refused at once, if it is being restarted."""
        if not self._is_restarting:
            return None
        return Busy("The environment is being restarted.", hint="Try again in some seconds.")

    async def restart(
        self, progress: Progress, *, grace: float, turn: AbstractAsyncContextManager[None]
    ) -> Restarted:
        """Boot another machine from its disk, in its `turn`. Finishes when cancelled after that.

        Programs have `grace` seconds to end. A machine that is paused in memory is restarted, too.
        Raises NotRunning or DiskFull, or BootFailed if a part of it is gone; then it continues as
        before. Raises NotFound if it was destroyed meanwhile. After what else the host and the
        guest raise, it is in ERROR.
        """
        before = self._restarts
        async with turn:
            with anyio.CancelScope(shield=True):
                async with self._ending:
                    if self._ends:
                        raise self._destroyed()
                    if self.environment.state is not State.PAUSED:
                        self.environment.require_running()
                    if self._restarts is before:  # else another call has restarted it meanwhile
                        guest = self._the_guest()
                        self.require_unstalled()
                        self._host.require_restart(guest)
                        self._restarts = (await self._restart(guest, progress, grace),)
        return self._restarts[-1]

    async def _restart(self, guest: Guest, progress: Progress, grace: float) -> Restarted:
        began, was_paused = self._clock(), self.environment.state is State.PAUSED
        if not was_paused:
            self.environment = self.environment.to(State.PAUSED)
        self.environment = self.environment.to(State.RESUMING)  # calls wait from now on
        self._is_restarting, gracefully = True, False
        self._hang_up()
        try:
            with self._until_cut() as cut:
                await progress(0.1, "Ending the machine")
                gracefully = await guest.end_machine(grace)
                self._hooks.lose(self.environment.id, _lost(self._clock()))
                await progress(0.3, "Booting the machine")
                self._take_in(await self._host.restart(self.environment, guest, progress))
        except BaseException as error:
            await self._give_up(error)
            raise
        finally:
            self._is_restarting = False
        if cut.cancel_called:
            with contextlib.suppress(Exception):  # whoever ends it tries again, and raises
                await self._tear_down(reason=None)
            raise self._destroyed()
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

    @contextlib.contextmanager
    def _until_cut(self) -> Generator[anyio.CancelScope]:
        """Run a block that an end cancels. Call it only with `_ending` held."""
        with anyio.CancelScope() as cut:
            self._under_way = (cut,)
            try:
                yield cut
            finally:
                self._under_way = ()

    @contextlib.contextmanager
    def _overtaking(self, *, cut: bool) -> Generator[None]:
        """Have no restart begin while the block waits to end it; `cut` what is under way."""
        self._ends += 1
        if cut:
            for scope in self._under_way:
                scope.cancel()
        try:
            yield
        finally:
            self._ends -= 1

    async def end(self, *, wanted: Callable[[Environment], bool] | None = None) -> bool:
        """Destroy it; see `Life.end`. A restart, and the time before another end, are cut short."""
        if wanted is not None and not wanted(self.environment):
            return False
        with self._overtaking(cut=True):
            return await super().end(wanted=wanted)

    async def end_gently(self, grace: float) -> None:
        """Give its programs so many seconds to end, if it runs; then do what `end` does."""
        with (
            anyio.CancelScope(shield=True),
            self._overtaking(cut=self._is_restarting),  # its programs have had their time
        ):
            async with self._ending:
                if self.environment.state is State.RUNNING:
                    self.environment = self.environment.to(State.PAUSED).to(State.RESUMING)
                    with self._until_cut(), contextlib.suppress(Exception):
                        await self._the_guest().end_machine(grace)
                    await self._tear_down(reason=None)
                    return
            await self.end()

    def _destroyed(self) -> NotFound:
        return NotFound(f"Environment {self.environment.id} was destroyed before its restart.")

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


def _lost(now: datetime) -> EndedByRestart:
    return EndedByRestart(f"It was ended by a restart of the environment at {now:%F %T} UTC.")
