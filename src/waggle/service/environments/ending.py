# SPDX-License-Identifier: Apache-2.0
"""How an environment ends: by its owner, the reaper, a failed create, or the death of its machine.

`Life` is the base of `LiveEnvironment`. The functions save records and phrase causes for owners.
It knows nothing of owners, limits or other environments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypedDict, Unpack

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment, Origin, State
from waggle.domain.errors import GuestLost, NotRunning, WaggleError
from waggle.domain.host import EnvironmentHost, Guest
from waggle.domain.observer import Clock, EnvironmentStore


class Adopt(Protocol):
    """Called with a guest that has jobs of another machine or server, before it is used.

    `anew` says that the environment's jobs are those of the guest, whatever was known of them. It
    must not raise, and is bounded in time.
    """

    async def __call__(self, environment: Environment, guest: Guest, *, anew: bool) -> None:
        """Take over the guest's jobs."""
        ...


Equip = Callable[[Environment, Guest, bool], Awaitable[Environment]]
"""Asks a new guest, before programs run in it, for what its record needs. True for a copy."""


async def equip_nothing(environment: Environment, _guest: Guest, _is_copy: bool) -> Environment:
    """Ask for nothing."""
    return environment


async def save_if_possible(store: EnvironmentStore, environment: Environment) -> None:
    """Save a change that has happened already; a failure of the store is only logged.

    The old record then says unfinished, and the next start of the server looks at what exists.
    """
    try:
        await store.save(environment)
    except Exception:
        log.exception("environment_record_failed", environment=environment.id)


async def death(guest: Guest) -> str:
    """Wait for the guest's death and return the cause. One that cannot be watched is dead."""
    try:
        return await guest.wait_dead()
    except Exception as error:
        log.exception("guest_watch_failed")
        return f"it could not be watched any more ({cause_of(error)})"


def cause_of(error: BaseException) -> str:
    """Return what a client may read of an error; the rest is in the log."""
    if isinstance(error, WaggleError):
        return error.message
    crash = f"internal error ({type(error).__name__})"
    return crash if isinstance(error, Exception) else "cancelled"


log = structlog.get_logger(__name__)
LIVING = (State.RUNNING, State.PAUSED)


class Hooks(Protocol):
    """What is called with a guest that has come up."""

    @property
    def adopt(self) -> Adopt:
        """Takes over its jobs."""
        ...

    @property
    def equip(self) -> Equip:
        """Asks it for what the record needs."""
        ...

    def lose(self, environment_id: str, error: WaggleError) -> None:
        """Note that what ran in it is gone."""
        ...


class Parts(TypedDict):
    """What an environment's life is built with."""

    host: EnvironmentHost
    store: EnvironmentStore
    clock: Clock
    tasks: anyio.abc.TaskGroup
    changed: Callable[[Environment], None]
    hooks: Hooks


class Life:
    """An environment, the guest it works in, and the lock under which it changes.

    A change of state never spans an await unless `_ending` is held, so `environment` is always
    right. `changed` is called, without an await, when state or notice has changed; see `Adopt`.
    """

    def __init__(self, environment: Environment, **parts: Unpack[Parts]) -> None:
        self._environment = environment
        self._moved = anyio.Event()
        self._host = parts["host"]
        self._store = parts["store"]
        self._clock = parts["clock"]
        self._tasks = parts["tasks"]
        self._changed = parts["changed"]
        self._hooks = parts["hooks"]
        self._guest: Guest | None = None
        self.may_have_left = environment.state is not State.CREATING
        """Whether programs of ended calls may still run in it, so that the guest must list them."""
        self._creation = anyio.CancelScope()
        self._settled = anyio.Event()
        self._ending = anyio.Lock()
        if environment.state is not State.CREATING:
            self._settled.set()

    @property
    def environment(self) -> Environment:
        """The environment as it is now."""
        return self._environment

    @environment.setter
    def environment(self, now: Environment) -> None:
        has_moved = now.state is not self._environment.state
        self._environment = now
        if has_moved:
            self._moved.set()
            self._moved = anyio.Event()

    def _take_in(self, guest: Guest) -> None:
        """Use that guest from now on."""
        self._guest = guest
        self.environment = self.environment.with_machine(
            guest.machine,
            ssh_port=guest.ssh_port,
            booted_from=guest.booted_from,
            directory=guest.directory,
        )

    async def _undo(self, error: BaseException) -> None:
        """Free what a failed create holds. If that fails too, it stays in ERROR."""
        with anyio.CancelScope(shield=True):
            async with self._ending:
                with contextlib.suppress(Exception):  # logged; the first failure is raised
                    await self._tear_down(reason=f"Create failed: {cause_of(error)}")

    def _the_guest(self) -> Guest:
        if self._guest is None:
            raise NotRunning(f"Environment {self.environment.id} has no machine.")
        return self._guest

    async def running_guest(self) -> Guest:
        """Return the guest that it has while it runs; wait for that while it is paused.

        Not a use of it. Raises GuestLost when it has ended or failed.
        """
        while self.environment.state in (State.CREATING, State.PAUSED, State.RESUMING):
            await self._moved.wait()
        if lost := self.lost():
            raise lost
        return self._the_guest()

    async def amend(self, change: Callable[[Environment], Environment]) -> Environment:
        """Record a change that leaves its state as it is; return the environment.

        Raises what `change` and the store raise; nothing has changed then. Finishes when cancelled.
        """
        with anyio.CancelScope(shield=True):
            async with self._ending:
                await self._store.save(change(self.environment))  # its counts may change meanwhile
                before, self.environment = self.environment, change(self.environment)
                if self.environment.has_other_notice_than(before):
                    self._changed(self.environment)
        return self.environment

    async def take_name(self, origin: Origin) -> Environment:
        """Record its original's name as its own, and return it; the host name inside stays.

        Raises what the store raises, or NotRunning.
        """
        async with self._ending:
            if self.environment.state is not State.PAUSED:
                self.environment.require_running()
            if self.environment.name != origin.name:
                await self._store.save(replace(self.environment, name=origin.name, fork_of=origin))
                self.environment = replace(self.environment, name=origin.name, fork_of=origin)
                self._changed(self.environment)
        return self.environment

    def lost(self) -> GuestLost | None:
        """Return why it has no guest any more and will have none, if that is so."""
        if self.environment.state not in (State.ERROR, State.DESTROYING, State.DESTROYED):
            return None
        return GuestLost(self.environment.error or "The environment is being destroyed.")

    def continues_without(self, guest: Guest) -> bool:
        """Whether it is paused, or runs in another guest than this."""
        is_paused = self.environment.state in (State.PAUSED, State.RESUMING)
        return is_paused or (self.environment.state is State.RUNNING and self._guest is not guest)

    def set_jobs(self, count: int, last: int) -> None:
        """Note how many jobs run in it, and the number of the last."""
        self.environment = self.environment.with_jobs(count, last, self._clock())

    @property
    def current_guest(self) -> Guest | None:
        """Its guest, if it runs."""
        return self._guest if self.environment.state is State.RUNNING else None

    @property
    def held_guest(self) -> Guest | None:
        """Its guest, also while its machine is paused in memory."""
        return self._guest

    async def end(self, *, wanted: Callable[[Environment], bool] | None = None) -> bool:
        """Destroy it, unless it is destroyed already or `wanted` is false once the lock is held.

        Returns whether this call destroyed it. A create in progress is cancelled and undone.
        Finishes when the caller is cancelled. If the guest cannot be destroyed, the environment
        stays in ERROR, for another try, and the guest's error is raised.
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

    async def end_quietly(self) -> None:
        """Do `end`, but do not raise."""
        with contextlib.suppress(Exception):  # logged where it happened
            await self.end()

    async def end_unless_on_disk(self) -> None:
        """Do `end_quietly`, unless it is paused to disk."""
        with contextlib.suppress(Exception):
            await self.end(wanted=lambda environment: not environment.is_on_disk)

    async def _tear_down(self, *, reason: str | None) -> None:
        """Free the guest and record the end. Call it only with `_ending` held."""
        self.environment = self.environment.to(State.DESTROYING)
        try:
            await self._free_guest()
        except BaseException as error:
            why = f"Destroy failed: {cause_of(error)}"
            self.environment = self.environment.to(State.ERROR, error=why)
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
        """Wait for the machine's death, free what it held, and keep the cause to show."""
        cause = await death(guest)
        with anyio.CancelScope(shield=True):
            async with self._ending:
                if self._guest is not guest or self.environment.state not in LIVING:
                    return
                why = f"The machine died: {cause}"
                self.environment = self.environment.to(State.ERROR, error=why)
                log.warning("environment_died", environment=self.environment.id, cause=cause)
                self._changed(self.environment)
                try:
                    await self._free_guest()
                except Exception:
                    log.exception("environment_cleanup_failed", environment=self.environment.id)
                await save_if_possible(self._store, self.environment)
