# SPDX-License-Identifier: Apache-2.0
"""How an environment ends, whatever ends it: its owner, the reaper, a failure, its own machine.

The base of `live`, which is what else happens in its life. Knows nothing of owners, limits or the
other environments.

Records of environments at their end, and what is done about those that have none.

Used by `EnvironmentService` at the server's start and by `LiveEnvironment` at an end.

What an environment's owner is told of its end. Used by `LiveEnvironment` only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, State
from waggle.domain.errors import NotRunning, WaggleError
from waggle.domain.host import EnvironmentHost, Guest
from waggle.domain.observer import Clock, EnvironmentStore

_MAY_SLEEP = (State.RUNNING, State.PAUSED, State.RESUMING)


async def recover(
    host: EnvironmentHost, store: EnvironmentStore, asleep_until: datetime
) -> tuple[int, list[Environment]]:
    """Remove what an earlier server left behind; how many that were, and those that sleep.

    One that fell asleep as the server died sleeps `asleep_until`. It sleeps whether or not that can
    be recorded: the next start finds it as this one did. One that fails stays on record, with all
    that it has, for the next start and stops nothing.
    """
    removed, asleep = 0, list[Environment]()
    for environment in await store.unfinished():
        try:
            if environment.state in _MAY_SLEEP and await host.salvage(environment):
                found = environment.after_restart()
                paused = found if found.state is State.PAUSED else found.to(State.PAUSED)
                kept = paused.asleep(environment.paused_until or asleep_until)
                asleep.append(kept)
                if kept != environment:
                    await save_if_possible(store, kept)
                continue
            await host.discard(environment)
            ending = environment.after_restart().without_machine()
            if ending.state is not State.DESTROYING:
                ending = ending.to(State.DESTROYING)
            why = environment.error or "The server was restarted."
            gone = ending.to(State.DESTROYED, error=why)
            await store.save(gone)
        except Exception:
            log.exception("environment_recovery_failed", environment=environment.id)
        else:
            removed += 1
            log.info("environment_removed_at_start", environment=environment.id)
    return removed, asleep


async def save_if_possible(store: EnvironmentStore, environment: Environment) -> None:
    """Save what has become of one; a store that fails cannot undo it, so that is only logged.

    The old record then says unfinished, and the next start of the server looks what is there.
    """
    try:
        await store.save(environment)
    except Exception:
        log.exception("environment_record_failed", environment=environment.id)


async def death(guest: Guest) -> str:
    """The cause, once the guest is dead. A guest that cannot be watched counts as dead."""
    try:
        return await guest.wait_dead()
    except Exception as error:
        log.exception("guest_watch_failed")
        return f"it could not be watched any more ({cause_of(error)})"


def cause_of(error: BaseException) -> str:
    """What a client may read of an error; the rest is in the log."""
    if isinstance(error, WaggleError):
        return error.message
    return (
        f"internal error ({type(error).__name__})" if isinstance(error, Exception) else "cancelled"
    )


log = structlog.get_logger(__name__)
_LIVING = (State.RUNNING, State.PAUSED)


class Life:
    """An environment, the guest it works in, and the lock under which it changes.

    A change of state never straddles an await unless `_ending` is held, so what `environment`
    shows is always true. `changed` is called, without an await, when another state was reached.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        host: EnvironmentHost,
        store: EnvironmentStore,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
        changed: Callable[[Environment], None],
    ) -> None:
        self.environment: Environment = environment
        self._host = host
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._changed = changed
        self._guest: Guest | None = None
        self.may_have_left = environment.state is not State.CREATING
        """Whether programs of ended calls may run in it: then its guest is worth asking."""
        self._creation = anyio.CancelScope()
        self._settled = anyio.Event()
        self._ending = anyio.Lock()
        if environment.state is not State.CREATING:
            self._settled.set()

    def _take_in(self, guest: Guest) -> None:
        """Work in that guest from now on."""
        self._guest = guest
        self.environment = self.environment.with_machine(
            guest.machine,
            ssh_port=guest.ssh_port,
            booted_from=guest.booted_from,
            directory=guest.directory,
        )

    async def _undo(self, error: BaseException) -> None:
        """Free what a failed create holds. If even that fails, it stays, in ERROR."""
        with anyio.CancelScope(shield=True):
            async with self._ending:
                with contextlib.suppress(Exception):  # logged; the first failure is the one to tell
                    await self._tear_down(reason=f"Create failed: {cause_of(error)}")

    def _the_guest(self) -> Guest:
        if self._guest is None:
            raise NotRunning(f"Environment {self.environment.id} has no machine.")
        return self._guest

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
            self._changed(self.environment)
            raise
        try:
            await save_if_possible(self._store, self.environment.to(State.DESTROYED, error=reason))
        finally:
            self.environment = self.environment.to(State.DESTROYED, error=reason)
            self._changed(self.environment)
            log.info("environment_destroyed", environment=self.environment.id, reason=reason)

    async def _free_guest(self) -> None:
        if self._guest is not None:
            await self._guest.destroy()
            self._guest = None
            self.environment = self.environment.without_machine()
        elif self.environment.paused_until is not None:
            await self._host.discard(self.environment)

    async def _watch(self, guest: Guest) -> None:
        """Notice a machine that dies by itself, free what it held, and keep the cause to show."""
        cause = await death(guest)
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self._guest is not guest or self.environment.state not in _LIVING:
                    return
                self.environment = self.environment.to(
                    State.ERROR, error=f"The machine died: {cause}"
                )
                log.warning("environment_died", environment=self.environment.id, cause=cause)
                self._changed(self.environment)
                try:
                    await self._free_guest()
                except Exception:
                    log.exception("environment_cleanup_failed", environment=self.environment.id)
                await save_if_possible(self._store, self.environment)
