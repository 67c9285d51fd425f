# SPDX-License-Identifier: Apache-2.0
"""When environments are paused, resumed and reaped, and whether they may be.

`Pauses` is used by `EnvironmentService`, which has checked the owner; `LiveEnvironment` does the
work. An idle environment is never destroyed because it cannot be paused to disk: it is paused in
memory, and later sweeps try again. The composition root runs the `Reaper`, a loop that has the
service retire environments which were idle for too long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog

from waggle.domain.access import Quota
from waggle.domain.environment import Environment, State
from waggle.domain.errors import QuotaExceeded, WaggleError
from waggle.domain.host import EnvironmentHost, Progress, no_progress
from waggle.domain.observer import Clock
from waggle.service.environments.creating import Pausing
from waggle.service.environments.ending import cause_of
from waggle.service.environments.events import SETTLES_IN_TURN, Events
from waggle.service.environments.halting import PutOff, always
from waggle.service.environments.live import LiveEnvironment
from waggle.service.environments.registry import DiskShares, Registry
from waggle.service.sharing import Turns

if TYPE_CHECKING:
    from waggle.service.environments.service import EnvironmentService

log = structlog.get_logger(__name__)
TRY_AGAIN = timedelta(minutes=2)
"""After a state could not be written: every try stops the machine and writes for a while."""
TRY_AGAIN_AT_MOST = timedelta(hours=1)
"""TRY_AGAIN doubles up to this with every try that wakes one that is paused in memory."""
AT_ONCE = 2
"""How many idle ones are paused to disk at once: one may write gigabytes. One of each owner."""
_DOUBLINGS = 10
Wanted = Callable[[Environment], bool]


class Pauses:
    """The operator's rules for pauses. The host knows whether machines can be paused to disk."""

    def __init__(
        self,
        registry: Registry,
        pausing: Pausing,
        clock: Clock,
        host: EnvironmentHost,
        disk: DiskShares,
        events: Events,
    ) -> None:
        self._registry = registry
        self._events = events
        self._pausing = pausing
        self._clock = clock
        self._host = host
        self._disk = disk
        self._pausing_to_disk: list[LiveEnvironment] = []
        """Those that are being paused to disk: they count towards the quota already."""
        self._own = Turns()
        self._at_once = anyio.CapacityLimiter(AT_ONCE)
        self._quota = Quota(
            "environments paused to disk",
            pausing.max_on_disk,
            "WAGGLE_MAX_PAUSED",
            "Destroy one of yours that is paused, or resume it with any call.",
        )

    def pauses_when_idle(self, hypervisor: str = "") -> bool:
        """Whether idle environments of that hypervisor are paused to disk instead of destroyed."""
        pausing = self._pausing
        able = self._host.can_freeze(hypervisor)
        return able and pausing.when_idle and pausing.max_on_disk > 0

    async def pause(self, live: LiveEnvironment, *, to_disk: bool) -> Environment:
        """Pause it: it uses no processor, and with `to_disk` no memory and no slot. Idempotent.

        Raises Busy, NotRunning, QuotaExceeded, Unsupported, BootFailed, GuestLost, DiskFull or
        SnapshotFailed; then it continues to run, or without its turn or memory to freeze it, is as
        it was.
        """
        if to_disk:
            return await self._to_disk(live)
        await self._settle(live)
        return await live.pause()

    async def _settle(self, live: LiveEnvironment, at_most: float | None = None) -> None:
        """Wait until its guest has what was just started."""
        if live.environment.state is State.RUNNING:
            await self._events.settle(live.environment.id, at_most)

    async def _to_disk(self, live: LiveEnvironment, wanted: Wanted = always) -> Environment:
        """Pause it to disk, if that is `wanted` once it has its turn; it is usable until then.

        Raises as `pause` does, or OSError.
        """
        environment, keep = live.environment, self._pausing.keep
        if environment.is_on_disk:
            return await live.pause(keep_for=keep)
        memory = environment.resources.memory_mib << 20
        with self._place(live):
            await self._settle(live)
            async with self._disk.room(environment.owner, memory), live.turn_to_freeze() as turn:
                await self._settle(live, SETTLES_IN_TURN)
                return await live.pause(keep_for=keep, turn=turn, wanted=wanted)

    @contextlib.contextmanager
    def _place(self, live: LiveEnvironment) -> Generator[None]:
        """Count it towards its owner's quota while it is being paused. Raises QuotaExceeded."""
        owner = live.environment.owner
        coming = (other.environment for other in self._pausing_to_disk)
        held = self._registry.on_disk(owner) | {
            other.id for other in coming if other.owner == owner
        }
        others = held - {live.environment.id}
        self._quota.require(owner, len(others))
        self._pausing_to_disk.append(live)
        try:
            yield
        finally:
            self._pausing_to_disk.remove(live)

    async def resume(self, live: LiveEnvironment, progress: Progress = no_progress) -> Environment:
        """Resume a paused one, in a free slot. Idempotent.

        Raises NotRunning, MaxEnvironments, QuotaExceeded, and what the host raises.
        """
        admit = self._registry.require_room_for
        return await live.resume(progress, lambda: admit(live.environment))

    def may_keep(self, environment: Environment) -> bool:
        """Return whether an idle one is kept, on the disk or else in memory, not destroyed.

        One that is paused in memory is kept as long as it would have been on the disk.
        """
        if not self.pauses_when_idle(environment.hypervisor) or environment.is_on_disk:
            return False
        if environment.state is State.PAUSED and environment.notice is not None:
            return self._clock() < environment.expires_at() + self._pausing.keep
        return environment.state in (State.RUNNING, State.PAUSED)

    async def keep(self, live: LiveEnvironment) -> bool:
        """Pause an idle one to disk, or else in memory; return whether it is on the disk now.

        Does not raise. A later call tries again, after TRY_AGAIN or more if the state was not
        written. At most AT_ONCE together, of different owners; the others wait.
        """
        async with self._own.turn(live.environment.owner), self._at_once:
            now = self._clock()
            is_idle = live.environment.is_expired(now) and self.may_keep(live.environment)
            if live.is_stalled or not is_idle:
                return False  # its disk is full, or it was used or destroyed while it waited
            if live.put_off is not None and now < live.put_off.until:
                if live.environment.state is State.RUNNING:  # it was used since
                    await self._keep_in_memory(live, live.put_off.cause)
                return False
            was_paused = live.environment.state is State.PAUSED
            try:
                await self._to_disk(live, self._is_idle)
            except (WaggleError, OSError) as error:
                is_idle = live.environment.is_expired(now)  # or a call used it meanwhile
                if is_idle and not live.is_stalled:
                    cause = _cause_of(error)
                    if not isinstance(error, QuotaExceeded):
                        live.put_off = self._put_off(live, cause, now, was_paused)
                    await self._keep_in_memory(live, cause)
            else:
                live.put_off = None
            return live.environment.is_on_disk

    def _is_idle(self, environment: Environment) -> bool:
        return environment.is_expired(self._clock())

    def _put_off(
        self, live: LiveEnvironment, cause: str, now: datetime, was_paused: bool
    ) -> PutOff:
        woken = live.put_off.woken if live.put_off else 0
        if was_paused and live.environment.state is State.RUNNING:
            woken += 1
        wait = min(TRY_AGAIN * 2 ** min(woken, _DOUBLINGS), TRY_AGAIN_AT_MOST)
        return PutOff(now + wait, cause, woken)

    async def _keep_in_memory(self, live: LiveEnvironment, cause: str) -> None:
        why = f"It is idle, and paused in memory until it can be paused to disk: {cause}"
        known = live.environment.notice
        if known == why:
            return
        try:
            if live.environment.state is State.PAUSED:
                await live.amend(partial(_still_paused, why))
            else:
                await live.pause(notice=why, wanted=self._is_idle)
        except (WaggleError, OSError) as failure:
            log.warning("pause_failed", environment=live.environment.id, error=str(failure))
        else:
            if known is None and live.environment.notice == why:  # numbers in it change
                log.warning("idle_kept_in_memory", environment=live.environment.id, why=why)


def _cause_of(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or cause_of(error)


def _still_paused(why: str, environment: Environment) -> Environment:
    return environment.noticing(why) if environment.state is State.PAUSED else environment


def expired(environments: Iterable[Environment], now: datetime) -> list[str]:
    """Return the ids to retire at `now`, longest expired first. Pure."""
    due = [environment for environment in environments if environment.is_expired(now)]
    return [
        environment.id
        for environment in sorted(due, key=lambda environment: environment.expires_at())
    ]


class Reaper:
    """Sweeps every `interval` seconds until cancelled. `sleep` and `clock` are injected."""

    def __init__(
        self,
        environments: EnvironmentService,
        *,
        interval: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        expire: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`expire` removes other things that are kept for a limited time: snapshots."""
        self._environments = environments
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._expire = expire
        self._under_way: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled. No environment stops the others, nor the sweeps that follow."""
        async with anyio.create_task_group() as sweeps:
            while True:
                await self._sleep(self._interval)
                sweeps.start_soon(self.sweep)

    async def sweep(self) -> list[str]:
        """Retire what has expired, all at once; return the ids of what is destroyed or on the disk.

        It leaves alone what an earlier sweep still retires.
        """
        removed: list[str] = []

        async def retire(environment_id: str) -> None:
            if await self._environments.retire(environment_id):
                removed.append(environment_id)

        async with anyio.create_task_group() as group:
            for environment_id in expired(self._environments.all(), self._clock()):
                group.start_soon(self._once, environment_id, partial(retire, environment_id))
            if self._expire is not None:
                group.start_soon(self._once, "snapshots", self._expire)
        return removed

    async def _once(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do the work, unless it is under way already; log its failure."""
        if what in self._under_way:
            return
        self._under_way.add(what)
        try:
            await work()
        except Exception:
            log.exception("reap_failed", of=what)
        finally:
            self._under_way.discard(what)
