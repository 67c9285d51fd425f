# SPDX-License-Identifier: Apache-2.0
"""A fake guest: files in a dict, and code in a tiny line language (see `FakePrograms.run`).

Tests set attributes to cause failures and set events to end waits, so nothing here ever sleeps.
Lists record everything that happened. Made by `tests.support.fakes.FakeHost`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
from tests.support.fake_contexts import FakeContext
from tests.support.guest_files import FakeFile
from tests.support.guest_programs import FakePrograms
from tests.support.kept_jobs import KeptJob, copies

from waggle.domain.errors import DiskFull, GuestLost, GuestMisbehaves
from waggle.domain.exposure import ByteStream
from waggle.domain.guest_agent import GuestFilesystem, GuestLoad, GuestReport, RunsPrograms
from waggle.domain.host import Turn
from waggle.domain.network import Network
from waggle.domain.network.registries import Registries, registry_rules
from waggle.domain.network.rules import Rule
from waggle.domain.use import ResourceUse
from waggle.infra.net import Stream

SAID = GuestReport(
    system="Pretend 1",
    kernel="6.1",
    hostname="pretend",
    uptime=5.0,
    clock=0,
    load=GuestLoad(256 << 20, 128 << 20, 0.5, 12, 3.25, None),
    filesystems=(GuestFilesystem("/", 64 << 20, 8 << 20),),
    addresses=(),
    users=(RunsPrograms("root", 3),),
)
USED = ResourceUse(cpu_seconds=1.5, memory_bytes=200 << 20, disk_bytes=3 << 20)


@dataclass(slots=True)
class FakeFrozenMachine:
    """A copy of a guest's files, jobs and contexts; `ended` once its block is left."""

    files: dict[str, FakeFile]
    kept: dict[str, KeptJob] = field(default_factory=dict[str, KeptJob])
    contexts: dict[str, FakeContext] = field(default_factory=dict[str, FakeContext])
    ended: bool = False
    directory: Path = Path("/nowhere")


class FakeTurn:
    """The turn of a guest that waits for none."""

    def copied(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class FakeGuest(FakePrograms):
    """A guest. Set `destroy_error` or `freeze_error` to make those calls fail.

    `listening` holds the guest's ports that answer, `tried_ports` those that `answers` tried, with
    the seconds. `servers` leads from its ports to servers of the test on loopback, and
    `connected_ports` lists the connections to them, which `connect_hold` keeps waiting.
    """

    destroy_error: Exception | None = None
    used: ResourceUse = USED
    said: GuestReport | None = SAID
    servers: dict[int, int] = field(default_factory=dict[int, int])
    connected_ports: list[int] = field(default_factory=list[int])
    connect_hold: anyio.Event | None = None
    stall: Callable[[DiskFull | None], None] = lambda _why: None
    misbehave: Callable[[GuestMisbehaves], None] = lambda _error: None
    listening: set[int] = field(default_factory=set[int])
    tried_ports: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    destroys: int = 0
    ends: list[float] = field(default_factory=list[float])
    """The seconds that its programs had, for each time that its machine was ended."""
    ends_by_itself: bool = True
    end_error: Exception | None = None
    freeze_error: Exception | None = None
    obeyed: list[str] = field(default_factory=list[str])
    configured: Sequence[str] = ()
    """The registries that its package managers answer with, as texts of rules."""
    asked: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    """The variables that were ignored, for each time that it was asked for them."""
    is_late: bool = False
    """Whether a package manager does not answer in time."""
    network_renewals: int = 0
    networks: list[tuple[str, tuple[str, ...]]] = field(
        default_factory=list[tuple[str, tuple[str, ...]]]
    )
    """The networks and registries that were set, as texts."""
    open_connections: int = 0
    registries_error: Exception | None = None

    async def registries(self, network: Network, ignoring: Collection[str]) -> Registries:
        await anyio.lowlevel.checkpoint()
        self.asked.append(tuple(ignoring))
        if self.registries_error is not None:
            raise self.registries_error
        rules = registry_rules(self.configured)
        return Registries(rules, is_complete=bool(rules) and not self.is_late)

    def set_network(self, network: Network, registries: Sequence[Rule]) -> int:
        self.networks.append((str(network), tuple(map(str, registries))))
        closed, self.open_connections = self.open_connections, 0
        return closed

    async def renew_network(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.network_renewals += 1

    async def load(self) -> GuestLoad:
        return (await self.report()).load

    async def report(self) -> GuestReport:
        await anyio.lowlevel.checkpoint()
        if self.dead.is_set() or self.said is None:
            raise GuestLost("The guest's agent does not answer.")
        return self.said

    async def resource_use(self) -> ResourceUse | None:
        await anyio.lowlevel.checkpoint()
        return None if self.dead.is_set() else self.used

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        self.stall = notify

    def when_misbehaves(self, notify: Callable[[GuestMisbehaves], None]) -> None:
        self.misbehave = notify

    async def connect_to(self, port: int) -> ByteStream | None:
        await anyio.lowlevel.checkpoint()
        self.connected_ports.append(port)
        if self.connect_hold is not None:
            await self.connect_hold.wait()
        if port not in self.servers:
            return None
        made = await asyncio.open_connection("127.0.0.1", self.servers[port])
        return Stream(*made)

    async def answers(self, port: int, seconds: float) -> bool:
        await anyio.lowlevel.checkpoint()
        self.tried_ports.append((port, seconds))
        return port in self.listening

    async def end_machine(self, grace: float) -> bool:
        self.detached.set()
        self.hang_up()
        self.ends.append(grace)
        await anyio.lowlevel.checkpoint()
        if self.end_error is not None:
            raise self.end_error
        self.die("ended")
        return self.ends_by_itself

    async def wait_dead(self) -> str:
        await self.dead.wait()
        return self.cause

    async def pause(self) -> None:
        self.detached.set()
        self.hang_up()
        await self._obey("pause")

    async def unpause(self) -> None:
        await self._obey("unpause")
        self.detached = anyio.Event()

    @asynccontextmanager
    async def turn_to_freeze(self) -> AsyncGenerator[FakeTurn]:
        await anyio.lowlevel.checkpoint()
        yield FakeTurn()

    @asynccontextmanager
    async def freeze(self, turn: Turn) -> AsyncGenerator[FakeFrozenMachine]:
        await self._obey("freeze")
        taken = FakeFrozenMachine(copy.deepcopy(self.files), copies(self.kept), self.contexts)
        try:
            yield taken
        finally:
            taken.ended = True

    async def pause_to_disk(self, turn: Turn) -> None:
        self.detached.set()
        await self._obey("pause_to_disk")
        self.die("paused to disk")

    async def _obey(self, what: str) -> None:
        """Record an order. Fails if `freeze_error` is set."""
        await anyio.lowlevel.checkpoint()
        if self.freeze_error is not None:
            raise self.freeze_error
        self.obeyed.append(what)

    async def destroy(self) -> None:
        self.destroys += 1
        if self.destroy_error is not None:
            raise self.destroy_error
        if not self.dead.is_set():
            self.die("destroyed")
