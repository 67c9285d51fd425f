# SPDX-License-Identifier: Apache-2.0
"""The warm pool: machines that run already and wait to become an environment.

`LocalHost` claims them and makes new ones; the composition root says how many there may be now and
how much memory the host has. Knows kinds, counts and machines; nothing of owners, environments and
how a machine is made.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import anyio
import anyio.abc
import structlog

from waggle.domain.errors import WaggleError
from waggle.infra.host.memory import Outlook
from waggle.service.local.blueprint import MachineParts
from waggle.service.local.warm_machine import Endings, Trouble, Warm, WarmKind, next_kind

TICK: Final = 5.0
"""Seconds between two checks of the host's memory."""
SETTLE: Final = 3.0
"""Seconds after a claim in which nothing is made, for its client's first calls."""
STEADY: Final = 600.0
"""A machine that lived for so many seconds did not die of a fault in its making."""
log = structlog.get_logger(__name__)


_W = TypeVar("_W", bound=Warm)


@dataclass(eq=False, slots=True)
class _Ready(Generic[_W]):
    kind: WarmKind
    machine: _W
    since: float
    watch: anyio.CancelScope = field(default_factory=anyio.CancelScope)


@dataclass(eq=False, slots=True)
class _Filling:
    kind: WarmKind
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)


class WarmPool(Generic[_W]):
    """Keeps the wanted number of machines ready. `run` it, claim from it, `aclose` it."""

    def __init__(
        self,
        wanted: Mapping[WarmKind, int],
        *,
        room: Callable[[], int],
        outlook: Callable[[], Outlook],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`room` returns how many machines the pool may have now; `clock` is in seconds."""
        self._wanted = wanted
        self._room = room
        self._outlook = outlook
        self._sleep = sleep
        self._clock = clock
        self._ready: list[_Ready[_W]] = []
        self._filling: _Filling | None = None
        self._endings = Endings(sleep)
        self._troubles: dict[WarmKind, Trouble] = {}
        self._changed = anyio.Event()
        self._claims = 0
        self._closed = False
        self._tasks: anyio.abc.TaskGroup | None = None

    def counts(self) -> Mapping[str, int]:
        """Return how many machines wait, by runtime."""
        counts = Counter(ready.kind.runtime for ready in self._ready)
        return {kind.runtime.value: counts[kind.runtime] for kind in self._wanted}

    @property
    def size(self) -> int:
        """The number of machines, those being made or ended included."""
        return self._standing + len(self._endings)

    @property
    def _standing(self) -> int:
        return len(self._ready) + (self._filling is not None)

    def claim(self, kind: WarmKind, parts: MachineParts) -> _W | None:
        """Return a machine of exactly these parts, which the caller owns now; None without one.

        Machines of that kind with other parts, such as an image that was rebuilt since, are ended.
        """
        found: _W | None = None
        for ready in [ready for ready in self._ready if ready.kind == kind]:
            if ready.machine.parts != parts:
                log.info("warm_machine_outdated", runtime=kind.runtime)
                self._give_up(ready)
            elif found is None and ready.machine.is_alive:
                found = self._remove(ready)
                self._claims += 1
                self._troubles.pop(kind, None)
        return found

    async def make_room(self) -> None:
        """End machines until the pool has no more than there is room for."""
        while self._standing > max(self._room(), 0):
            await self._drop_one()
        await self._endings.tried()

    async def run(self, make: Callable[[WarmKind], Awaitable[_W]]) -> None:
        """Fill it, and empty it when memory is short, until closed. No failure stops it."""
        async with anyio.create_task_group() as self._tasks:
            if self._closed:
                return
            self._tasks.start_soon(self._watch_memory)
            claims = 0
            while not self._closed:
                if self._claims != claims:
                    claims = self._claims
                    await self._sleep(SETTLE)
                elif (kind := self._next()) is not None:
                    await self._fill(kind, make)
                else:
                    await self._pause()

    async def aclose(self) -> None:
        """End all machines, however many tries it takes, and make no more. Idempotent."""
        self._closed = True
        while self._standing:
            await self._drop_one()
        await self._endings.gone()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def _next(self) -> WarmKind | None:
        if self.size >= self._room() or self._outlook() is not Outlook.FILL:
            return None
        have = (ready.kind for ready in self._ready)
        return next_kind(self._wanted, have, self._troubles, self._clock())

    async def _pause(self) -> None:
        """Wait until something has changed, or for a TICK."""
        self._changed = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._tick, group.cancel_scope)
            await self._changed.wait()
            group.cancel_scope.cancel()

    async def _tick(self, scope: anyio.CancelScope) -> None:
        await self._sleep(TICK)
        scope.cancel()

    async def _watch_memory(self) -> None:
        while True:
            await self._sleep(TICK)
            if self._standing and self._outlook() is Outlook.DRAIN:
                log.warning("warm_pool_drained", machines=self._standing)
                while self._standing:
                    await self._drop_one()

    async def _fill(self, kind: WarmKind, make: Callable[[WarmKind], Awaitable[_W]]) -> None:
        filling = self._filling = _Filling(kind)
        try:
            with filling.scope:
                ready = _Ready(kind, await make(kind), self._clock())
                self._ready.append(ready)  # without an await: nothing else holds the machine
                self._running().start_soon(self._watch, ready)
        except Exception as error:
            if not isinstance(error, WaggleError | OSError):
                log.exception("warm_machine_broke", runtime=kind.runtime)
            self._failed(kind, str(error))
        finally:
            self._filling = None
            filling.done.set()

    async def _watch(self, ready: _Ready[_W]) -> None:
        """Wait for the machine's death, and end it then."""
        with ready.watch:
            cause = await ready.machine.wait()
            if ready not in self._ready:  # claimed at the same time: the claimer handles it
                return
            if self._clock() - ready.since >= STEADY:
                self._troubles.pop(ready.kind, None)
            self._failed(ready.kind, f"The machine died: {cause}")
            self._give_up(ready)

    def _failed(self, kind: WarmKind, why: str) -> None:
        trouble = self._troubles[kind] = Trouble.after(self._troubles.get(kind), self._clock())
        record = log.warning if trouble.times == 1 else log.debug
        record("warm_machine_failed", runtime=kind.runtime, error=why)

    async def _drop_one(self) -> None:
        """Drop one machine: the one that is being made, else the newest."""
        if (filling := self._filling) is not None:
            filling.scope.cancel()
            await filling.done.wait()
        else:
            self._give_up(self._ready[-1])

    def _remove(self, ready: _Ready[_W]) -> _W:
        self._ready.remove(ready)
        ready.watch.cancel()
        self._changed.set()
        return ready.machine

    def _give_up(self, ready: _Ready[_W]) -> None:
        machine = self._remove(ready)
        self._endings.start(machine, self._running())

    def _running(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise RuntimeError("The pool does not run.")
        return self._tasks
