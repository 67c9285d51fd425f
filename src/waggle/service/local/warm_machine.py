# SPDX-License-Identifier: Apache-2.0
"""Warm machines (up, connected, runtime run once, no owner yet), and the rules of their pool.

`start` makes them, `warm_pool` keeps them. `next_kind` says which to make next; `Endings` ends
machines in tasks until they are gone. A warm machine's keys stay when it is claimed; it holds no
other secret.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.abc
import structlog

from waggle.domain.environment import Environment
from waggle.domain.machine import Resources
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.ssh import EnvironmentKeys, SshConnection
from waggle.service.local.blueprint import MachineParts, StartedMachine
from waggle.tasks import finish


@dataclass(frozen=True, eq=False, slots=True)
class WarmMachine:
    """Implements `Warm`. The claimer owns all of it."""

    started: StartedMachine
    keys: EnvironmentKeys
    connection: SshConnection

    @property
    def parts(self) -> MachineParts:
        """Its parts."""
        return self.started.blueprint.parts

    @property
    def is_alive(self) -> bool:
        """False once its VMM has ended."""
        return self.started.machine.is_alive

    async def wait(self) -> str:
        """Return when it is dead, with the cause."""
        return await self.started.machine.wait()

    def moved(self, files: Path) -> WarmMachine:
        """Rename its directory to `files`; return it with that one. Raises OSError."""
        blueprint = self.started.blueprint
        blueprint.files.rename(files)
        moved = replace(self.started, blueprint=replace(blueprint, files=files))
        return replace(self, started=moved)

    def identified(self, identity: Mapping[str, bytes]) -> WarmMachine:
        """Return it with the identity that it is given."""
        owned = replace(self.started.blueprint, identity=identity)
        return replace(self, started=replace(self.started, blueprint=owned))

    async def destroy(self) -> None:
        """End it and remove its files. Idempotent; finishes when cancelled.

        Raises TimedOut if it does not die: its port is kept then, and a later call tries again.
        """
        await finish(self._destroy())

    async def _destroy(self) -> None:
        try:
            await self.started.machine.stop()
        finally:
            await self.connection.aclose()
        await asyncio.to_thread(shutil.rmtree, self.started.blueprint.files, True)
        self.started.lease.release()


FIRST_DELAY: Final = 5.0
LONGEST_DELAY: Final = 300.0


@dataclass(frozen=True, slots=True)
class WarmKind:
    """The request that a machine of the pool can serve."""

    runtime: RuntimeName
    image: str
    """The reference, as the operator wrote it."""
    resources: Resources


def kind_of(environment: Environment) -> WarmKind:
    """Return the kind that can serve an environment."""
    return WarmKind(environment.runtime, environment.image, environment.resources)


@dataclass(frozen=True, slots=True)
class Trouble:
    """How often machines of a kind failed in a row, and when the next may be made."""

    times: int
    until: float

    @staticmethod
    def after(earlier: Trouble | None, now: float) -> Trouble:
        """Count one more failure; every one doubles the delay, up to LONGEST_DELAY."""
        times = earlier.times + 1 if earlier else 1
        # The exponent is bounded: 2.0 to a large power overflows.
        delay = min(FIRST_DELAY * 2.0 ** min(times - 1, 30), LONGEST_DELAY)
        return Trouble(times, now + delay)


def next_kind(
    wanted: Mapping[WarmKind, int],
    have: Iterable[WarmKind],
    troubles: Mapping[WarmKind, Trouble],
    now: float,
) -> WarmKind | None:
    """Return the kind with the smallest share of its wanted number, if any is short. Pure."""
    count = Counter(have)
    short = [
        kind
        for kind, number in wanted.items()
        if count[kind] < number and (kind not in troubles or troubles[kind].until <= now)
    ]
    return min(short, key=lambda kind: count[kind] / wanted[kind], default=None)


AGAIN: Final = 5.0
"""Seconds between two tries to end a machine."""
log = structlog.get_logger(__name__)


class Warm(Protocol):
    """A machine that waits in a pool."""

    @property
    def parts(self) -> MachineParts:
        """Its parts."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once it is dead."""
        ...

    async def wait(self) -> str:
        """Return when it is dead, with the cause. Safe to cancel."""
        ...

    async def destroy(self) -> None:
        """End it and remove what it used. Idempotent; finishes when cancelled.

        If it raises, the caller calls it again.
        """
        ...


class Endings:
    """Machines that the pool ends and that are not gone yet; they still count."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._tried: set[anyio.Event] = set()
        self._fewer = anyio.Event()

    def __len__(self) -> int:
        return len(self._tried)

    def start(self, machine: Warm, tasks: anyio.abc.TaskGroup) -> None:
        """End it in a task, with retries."""
        tried = anyio.Event()
        self._tried.add(tried)
        tasks.start_soon(self._end, machine, tried)

    async def _end(self, machine: Warm, tried: anyio.Event) -> None:
        try:
            while True:
                try:
                    await machine.destroy()
                    return
                except Exception:
                    log.exception("warm_machine_not_ended")
                tried.set()
                await self._sleep(AGAIN)
        finally:
            tried.set()
            self._tried.discard(tried)
            self._fewer.set()

    async def tried(self) -> None:
        """Return when all machines known now are gone, or one try to end them has failed."""
        for tried in [*self._tried]:
            await tried.wait()

    async def gone(self) -> None:
        """Return when all machines are gone."""
        while self._tried:
            self._fewer = anyio.Event()
            await self._fewer.wait()
