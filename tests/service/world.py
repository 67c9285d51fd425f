# SPDX-License-Identifier: Apache-2.0
"""A whole service over parts that stop where a test wants, for tests of races and failures.

A test holds a `World`. Its host, guests and store pass a gate at every await; a closed gate parks
them until it opens, so the test decides the order of events and nothing sleeps. Leaving `world()`
closes the service and checks that every machine was destroyed exactly once.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
from tests.support.fakes import FakeGuest
from tests.support.guest import FakeFrozenMachine, FakeTurn
from tests.support.kept_jobs import copies
from tests.support.listening import FakeListeners

from waggle.domain.environment import Environment, State
from waggle.domain.errors import DiskFull
from waggle.domain.exposure import Visit
from waggle.domain.host import FrozenMachine, Progress, Turn
from waggle.domain.host import Guest as AnyGuest
from waggle.domain.machine import Resources, VmmProcess
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.use import DiskUse
from waggle.infra.shared.spool import Spool
from waggle.service.environments.creating import Pausing
from waggle.service.environments.reaching import OperatorNetwork
from waggle.service.environments.service import CreateRequest, EnvironmentService, Limits
from waggle.service.programs.jobs import JobService

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = "alice"
RESOURCES = Resources(cpus=1, memory_mib=512, disk_mib=1024)
IDLE = timedelta(minutes=30)
PYTHON = CreateRequest(RuntimeName.PYTHON)
LONG = 10.0
"""Seconds after which a test counts as hanging; no test waits that long."""


class Broken(Exception):
    """A failure that is no WaggleError, such as an adapter may raise."""


async def settle() -> None:
    """Run every task that can run until all of them wait."""
    for _ in range(40):
        await anyio.lowlevel.checkpoint()


@dataclass(slots=True)
class Clock:
    """A clock that the test moves."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(slots=True, eq=False)
class Parked:
    """A task that waits at a gate."""

    place: str
    environment: str
    go: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True)
class Gates:
    """The gates `create`, `undo`, `end`, `destroy`, `turn`, `discard`, `disk` and `save STATE`.

    `closed` holds the places that park a task; with `all_closed`, every place does. `errors` are
    raised at a place after the wait.
    """

    closed: set[str] = field(default_factory=set[str])
    errors: dict[str, BaseException] = field(default_factory=dict[str, BaseException])
    all_closed: bool = False
    parked: list[Parked] = field(default_factory=list[Parked])
    _arrival: anyio.Event = field(default_factory=anyio.Event)

    async def enter(self, place: str, environment: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self.all_closed or place in self.closed:
            await self._park(place, environment)
        if place in self.errors:
            raise self.errors[place]

    async def _park(self, place: str, environment: str) -> None:
        waiting = Parked(place, environment)
        self.parked.append(waiting)
        self._arrival.set()
        self._arrival = anyio.Event()
        try:
            await waiting.go.wait()
        finally:
            self.parked.remove(waiting)

    async def reached(self, place: str) -> Parked:
        """Wait until a task is parked at `place`."""
        while True:
            for waiting in self.parked:
                if waiting.place == place and not waiting.go.is_set():
                    return waiting
            await self._arrival.wait()

    def open(self, place: str) -> None:
        self.closed.discard(place)
        for waiting in self.parked:
            if waiting.place == place:
                waiting.go.set()

    def open_all(self) -> None:
        self.closed.clear()
        self.all_closed = False
        for waiting in self.parked:
            waiting.go.set()


@dataclass(slots=True)
class Guest(FakeGuest):
    """A guest that records its end. `freed` counts how often its machine was freed."""

    gates: Gates = field(default_factory=Gates)
    on_disk: set[str] = field(default_factory=set[str])
    """The host's set of environments that are paused to disk."""
    freed: int = 0
    watch_error: Exception | None = None
    pause_error: Exception | None = None

    async def destroy(self) -> None:
        self.destroys += 1
        with anyio.CancelScope(shield=True):
            await self.gates.enter("destroy", self.environment.id)
        if self.destroy_error is not None:
            raise self.destroy_error
        self.freed += 1
        self.die("destroyed")

    async def end_machine(self, grace: float) -> bool:
        try:
            await self.gates.enter("end", self.environment.id)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await FakeGuest.end_machine(self, 0.0)  # it is killed
            raise
        return await FakeGuest.end_machine(self, grace)

    async def pause(self) -> None:
        if self.pause_error is not None:
            raise self.pause_error
        await FakeGuest.pause(self)

    @contextlib.asynccontextmanager
    async def turn_to_freeze(self) -> AsyncGenerator[FakeTurn]:
        await self.gates.enter("turn", self.environment.id)
        yield FakeTurn()

    async def pause_to_disk(self, turn: Turn) -> None:
        with anyio.CancelScope(shield=True):
            await self.gates.enter("pause_to_disk", self.environment.id)
        if self.pause_error is not None:
            raise self.pause_error
        await FakeGuest.pause_to_disk(self, turn)
        self.freed += 1
        self.on_disk.add(self.environment.id)

    async def wait_dead(self) -> str:
        await self.dead.wait()
        if self.watch_error is not None:
            raise self.watch_error
        return self.cause


@dataclass(slots=True)
class Host:
    """An EnvironmentHost that keeps the contract: a failed or cancelled create leaves nothing.

    `late` makes a create ignore cancellation until it has passed its gate.
    """

    gates: Gates
    guests: dict[str, Guest] = field(default_factory=dict[str, Guest])
    booting: set[str] = field(default_factory=set[str])
    discarded: list[str] = field(default_factory=list[str])
    create_error: Exception | None = None
    discard_errors: dict[str, Exception] = field(default_factory=dict[str, Exception])
    reason: str | None = None
    late: bool = False
    freezes: bool = True
    on_disk: set[str] = field(default_factory=set[str])
    disk_error: DiskFull | None = None
    free: int = 1 << 40
    used: dict[str, int] = field(default_factory=dict[str, int])
    disks: dict[str, int] = field(default_factory=dict[str, int])
    prepare: Callable[[Guest], None] = lambda _guest: None
    listening: list[FakeListeners] = field(default_factory=list[FakeListeners])
    """Those of all environments, also of ended ones."""

    def hypervisor_for(self, *, snapshots: bool) -> str:
        return "fake"

    def can_freeze(self, _hypervisor: str = "", /) -> bool:
        return self.freezes

    @property
    def only(self) -> Guest:
        (guest,) = self.guests.values()
        return guest

    @property
    def machines(self) -> int:
        """The number of machines that exist or may exist."""
        kept = {guest.environment.id for guest in self.guests.values() if not guest.freed}
        return len(self.booting | kept)  # of a restart, one ends before the other boots

    async def create(
        self,
        environment: Environment,
        progress: Progress,
        frozen_machine: FrozenMachine | None = None,
    ) -> Guest:
        self.booting.add(environment.id)
        try:
            with anyio.CancelScope(shield=self.late):
                await self.gates.enter("create", environment.id)
            await progress(1.0, "ready")
            if self.create_error is not None:
                raise self.create_error
            number = len(self.guests)
            guest = Guest(
                environment=environment,
                ssh_port=10_000 + number,
                machine=VmmProcess(pid=4_000_000 + number, started=number, boot_id="fake"),
                booted_from={"image": "sha256:fake"},
                gates=self.gates,
                on_disk=self.on_disk,
            )
            if isinstance(frozen_machine, FakeFrozenMachine):
                guest.kept = copies(frozen_machine.kept)
            self.prepare(guest)
            self.guests[environment.id] = guest
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.gates.enter("undo", environment.id)
            self.booting.discard(environment.id)
            raise
        self.booting.discard(environment.id)
        return guest

    async def resume(self, environment: Environment, progress: Progress) -> Guest:
        assert environment.id in self.on_disk
        before = self.guests.get(environment.id)
        frozen = FakeFrozenMachine({}, before.kept) if before else None
        guest = await self.create(environment, progress, frozen)
        self.on_disk.remove(environment.id)
        return guest

    def require_restart(self, guest: AnyGuest) -> None:
        if self.disk_error is not None:
            raise self.disk_error

    async def restart(self, environment: Environment, guest: AnyGuest, progress: Progress) -> Guest:
        assert isinstance(guest, Guest)
        assert guest.dead.is_set()
        again = await self.create(environment, progress)
        again.ssh_port, again.files = guest.ssh_port, guest.files
        guest.freed += 1
        return again

    def listeners(self, visit: Visit) -> FakeListeners:
        self.listening.append(FakeListeners(visit))
        return self.listening[-1]

    def require_disk(self) -> None:
        if self.disk_error is not None:
            raise self.disk_error

    async def recover(self, environment: Environment) -> bool:
        return environment.id in self.on_disk

    async def discard(self, environment: Environment) -> None:
        await self.gates.enter("discard", environment.id)
        if environment.id in self.discard_errors:
            raise self.discard_errors[environment.id]
        self.on_disk.discard(environment.id)
        self.discarded.append(environment.id)

    async def disk_use(self) -> DiskUse:
        await self.gates.enter("disk", "")
        return DiskUse(self.free, self.used, self.used | self.disks)

    async def not_ready(self) -> str | None:
        await anyio.lowlevel.checkpoint()
        return self.reason


@dataclass(slots=True)
class Store:
    """An EnvironmentStore in memory. `history` holds every saved record; `broken` states fail."""

    gates: Gates
    records: dict[str, Environment] = field(default_factory=dict[str, Environment])
    history: list[Environment] = field(default_factory=list[Environment])
    broken: set[State] = field(default_factory=set[State])

    async def save(self, environment: Environment) -> None:
        await self.gates.enter(f"save {environment.state}", environment.id)
        if environment.state in self.broken:
            raise Broken("the disk is full")
        self.records[environment.id] = environment
        self.history.append(environment)

    async def get(self, environment_id: str) -> Environment | None:
        await anyio.lowlevel.checkpoint()
        return self.records.get(environment_id)

    async def unfinished(self) -> Sequence[Environment]:
        await anyio.lowlevel.checkpoint()
        return [record for record in self.records.values() if record.state is not State.DESTROYED]

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    def states(self, environment_id: str) -> list[State]:
        return [record.state for record in self.history if record.id == environment_id]


class Job(Generic[T]):
    """A call that runs beside the test and keeps its outcome."""

    def __init__(self, call: Coroutine[object, object, T]) -> None:
        self._call = call
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._value: list[T] = []
        self.error: BaseException | None = None

    async def run(self) -> None:
        try:
            with self._scope:
                self._value.append(await self._call)
        except Exception as error:
            self.error = error
        finally:
            self._done.set()

    def cancel(self) -> None:
        self._scope.cancel()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @property
    def was_cancelled(self) -> bool:
        return self._scope.cancelled_caught

    async def wait(self) -> None:
        await self._done.wait()

    async def result(self) -> T:
        await self._done.wait()
        if self.error is not None:
            raise self.error
        (value,) = self._value
        return value


@dataclass(slots=True)
class World:
    """A service and everything around it."""

    service: EnvironmentService
    host: Host
    store: Store
    clock: Clock
    gates: Gates
    tasks: anyio.abc.TaskGroup

    def start(self, call: Coroutine[object, object, T]) -> Job[T]:
        job = Job(call)
        self.tasks.start_soon(job.run)
        return job

    def create(self, request: CreateRequest = PYTHON, owner: str = OWNER) -> Job[Environment]:
        return self.start(self.service.create(request, owner=owner))

    async def created(self, request: CreateRequest = PYTHON, owner: str = OWNER) -> Environment:
        return await self.service.create(request, owner=owner)

    def destroy(self, environment_id: str, owner: str = OWNER) -> Job[Environment]:
        return self.start(self.service.destroy(environment_id, owner=owner))

    def get(self, environment_id: str) -> Environment:
        return self.service.get(environment_id, owner=OWNER)

    def states(self) -> list[State]:
        return [environment.state for environment in self.service.all()]

    def jobs(self, *, keep: int = 1_000, view: int = 1_000) -> JobService:
        """Return a job service whose streams keep `keep` bytes and show `view`."""
        return JobService(
            self.service,
            record=lambda: Spool(Path("/tmp"), keep=keep, view=view),
            clock=self.clock,
            tasks=self.tasks,
        )

    async def close(self) -> None:
        """Destroy everything and check that nothing is left."""
        self.gates.open_all()
        await self.service.aclose()
        for environment in self.service.all():
            if environment.is_on_disk:  # as an operator would: it outlives the server
                await self.service.destroy(environment.id, owner=environment.owner)
        await settle()
        assert self.service.all() == []
        assert self.host.machines == 0
        assert {guest.freed for guest in self.host.guests.values()} <= {1}
        assert all(listeners.open == {} for listeners in self.host.listening)


class Ids:
    """Environment ids that count up."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"{self.count:08x}-0000-4000-8000-000000000000"


def build(
    tasks: anyio.abc.TaskGroup,
    *,
    capacity: int = 2,
    pausing: Pausing | None = None,
    several_owners: bool = False,
    per_owner: int = 0,
    disk_mib: int = 0,
    rules: OperatorNetwork | None = None,
) -> World:
    """Build a world whose watchers run in `tasks`."""
    gates = Gates()
    host, store, clock = Host(gates), Store(gates), Clock()
    service = EnvironmentService(
        host=host,
        store=store,
        limits=Limits(
            max_environments=capacity,
            resources=RESOURCES,
            idle_timeout=IDLE,
            network=PUBLIC_NETWORK,
            images={name: f"waggle/{name}" for name in RuntimeName},
            pausing=pausing or Pausing(),
            per_owner=per_owner,
            disk_mib=disk_mib,
            several_owners=lambda: several_owners,
            most=replace(RESOURCES, memory_mib=2 * RESOURCES.memory_mib),
            rules=rules or OperatorNetwork(),
        ),
        clock=clock,
        new_id=Ids(),
        tasks=tasks,
    )
    return World(service, host, store, clock, gates, tasks)


@contextlib.asynccontextmanager
async def world(
    *,
    capacity: int = 2,
    pausing: Pausing | None = None,
    several_owners: bool = False,
    disk_mib: int = 0,
    rules: OperatorNetwork | None = None,
) -> AsyncGenerator[World]:
    """Open a world for one test; close and check it at the end."""
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            here = build(
                tasks,
                capacity=capacity,
                pausing=pausing,
                several_owners=several_owners,
                disk_mib=disk_mib,
                rules=rules,
            )
            yield here
            await here.close()
            tasks.cancel_scope.cancel()
