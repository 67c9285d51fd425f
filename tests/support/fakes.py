# SPDX-License-Identifier: Apache-2.0
"""A fake EnvironmentHost and in-memory stores for tests of service, mcp and web.

No machine, no time, no network: `FakeHost` makes `FakeGuest`s (see `tests.support.guest`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel
from tests.support.guest import FakeFrozenMachine, FakeGuest
from tests.support.guest_files import FakeFile
from tests.support.guest_programs import output
from tests.support.kept_jobs import copies
from tests.support.listening import FakeListeners

from waggle.domain.access import KeyedCall, KnownCall
from waggle.domain.environment import Environment
from waggle.domain.errors import DiskFull, FrozenMachineUnusable, Unsupported, WaggleError
from waggle.domain.exposure import Listeners, Visit
from waggle.domain.host import FrozenMachine, Guest, Progress
from waggle.domain.machine import VmmProcess
from waggle.domain.snapshot import Snapshot
from waggle.domain.use import DiskUse

__all__ = [
    "FakeFile",
    "FakeGuest",
    "FakeHost",
    "MemoryCalls",
    "MemoryShelf",
    "MemoryStore",
    "output",
]


@dataclass(slots=True)
class FakeHost:
    """Makes guests. Set `create_error` to fail every create, `hold` to keep creates waiting.

    They wait before their last step. `creating` is set when a create begins; `guests` holds every
    guest ever made, by environment id; `discarded` and `undone` hold the ids of `discard` calls and
    of failed or cancelled creates.
    """

    guests: dict[str, FakeGuest] = field(default_factory=dict[str, FakeGuest])
    create_error: Exception | None = None
    hold: anyio.Event | None = None
    creating: anyio.Event = field(default_factory=anyio.Event)
    reason: str | None = None
    discard_error: Exception | None = None
    discarded: list[str] = field(default_factory=list[str])
    undone: list[str] = field(default_factory=list[str])
    create_undone: anyio.Event = field(default_factory=anyio.Event)
    steps: Sequence[tuple[float, str]] = ((0.1, "preparing"), (0.5, "booting"), (1.0, "ready"))
    freezes: bool = True
    prepare: Callable[[FakeGuest], None] = lambda _guest: None
    disk_error: DiskFull | None = None
    restart_refusal: WaggleError | None = None
    listeners: Callable[[Visit], Listeners] = FakeListeners

    @property
    def only(self) -> FakeGuest:
        """The only guest."""
        (guest,) = self.guests.values()
        return guest

    async def create(
        self,
        environment: Environment,
        progress: Progress,
        frozen_machine: FrozenMachine | None = None,
    ) -> FakeGuest:
        self.creating.set()
        try:
            *first, last = self.steps
            for share, message in first:
                await progress(share, message)
            if self.hold is not None:
                await self.hold.wait()
            await progress(*last)
            await anyio.lowlevel.checkpoint()
            if self.create_error is not None:
                raise self.create_error
        except BaseException:
            self.undone.append(environment.id)
            self.create_undone.set()
            raise
        number = len(self.guests)
        guest = FakeGuest(
            environment=environment,
            ssh_port=10_000 + number,
            machine=VmmProcess(pid=4_000_000 + number, started=number, boot_id="fake"),
            booted_from={"image": "sha256:fake", "kernel": "fake"},
        )
        if isinstance(frozen_machine, FakeFrozenMachine):
            guest.files = copy.deepcopy(frozen_machine.files)
            guest.kept = copies(frozen_machine.kept)
            living = frozen_machine.contexts.items()
            guest.contexts = {name: context.copy() for name, context in living}
        self.prepare(guest)
        self.guests[environment.id] = guest
        return guest

    async def resume(self, environment: Environment, progress: Progress) -> FakeGuest:
        on_disk = self.guests[environment.id]
        return await self.create(
            environment,
            progress,
            FakeFrozenMachine(on_disk.files, on_disk.kept, on_disk.contexts),
        )

    def hypervisor_for(self, *, snapshots: bool) -> str:
        if snapshots and not self.freezes:
            raise Unsupported("Nothing here takes snapshots.", hint="Leave out snapshots.")
        return "fake"

    def can_freeze(self, _hypervisor: str = "", /) -> bool:
        return self.freezes

    def require_disk(self) -> None:
        if self.disk_error is not None:
            raise self.disk_error

    def require_restart(self, guest: Guest) -> None:
        if self.restart_refusal is not None:
            raise self.restart_refusal

    async def restart(
        self, environment: Environment, guest: Guest, progress: Progress
    ) -> FakeGuest:
        assert isinstance(guest, FakeGuest)
        assert guest.dead.is_set()
        files = FakeFrozenMachine({**guest.files})
        again = await self.create(environment, progress, files)
        again.ssh_port = guest.ssh_port
        return again

    async def recover(self, environment: Environment) -> bool:
        return environment.id in self.guests

    async def discard(self, environment: Environment) -> None:
        await anyio.lowlevel.checkpoint()
        if self.discard_error is not None:
            raise self.discard_error
        self.discarded.append(environment.id)

    async def disk_use(self) -> DiskUse:
        await anyio.lowlevel.checkpoint()
        nothing = dict.fromkeys(self.guests, 0)
        return DiskUse(1 << 40, nothing, nothing)

    async def not_ready(self) -> str | None:
        await anyio.lowlevel.checkpoint()
        return self.reason


@dataclass(slots=True)
class MemoryStore:
    """An EnvironmentStore in memory. `save_error` makes saving fail."""

    records: dict[str, Environment] = field(default_factory=dict[str, Environment])
    save_error: Exception | None = None
    closed: bool = False

    async def save(self, environment: Environment) -> None:
        await anyio.lowlevel.checkpoint()
        if self.save_error is not None:
            raise self.save_error
        self.records[environment.id] = environment

    async def get(self, environment_id: str) -> Environment | None:
        await anyio.lowlevel.checkpoint()
        return self.records.get(environment_id)

    async def unfinished(self) -> Sequence[Environment]:
        await anyio.lowlevel.checkpoint()
        return [e for e in self.records.values() if e.state != "destroyed"]

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


@dataclass(slots=True)
class MemoryCalls:
    """A CallStore in memory. `error` makes every write fail."""

    known: dict[tuple[str, str], KnownCall] = field(
        default_factory=dict[tuple[str, str], KnownCall]
    )
    error: Exception | None = None

    async def find(self, call: KeyedCall) -> KnownCall | None:
        await anyio.lowlevel.checkpoint()
        return self.known.get((call.owner, call.key))

    async def begin(self, call: KeyedCall) -> None:
        await self._set(call, None)

    async def finish(self, call: KeyedCall, result: str) -> None:
        await self._set(call, result)

    async def forget(self, call: KeyedCall) -> None:
        await anyio.lowlevel.checkpoint()
        self.known.pop((call.owner, call.key), None)

    async def _set(self, call: KeyedCall, result: str | None) -> None:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.known[call.owner, call.key] = KnownCall(call.fingerprint, result)


@dataclass(slots=True)
class MemoryShelf:
    """A SnapshotShelf in memory. `error` makes keeping fail."""

    kept: dict[str, tuple[Snapshot, FakeFrozenMachine]] = field(
        default_factory=dict[str, tuple[Snapshot, FakeFrozenMachine]]
    )
    error: Exception | None = None
    unusable: bool = False

    def all(self) -> list[Snapshot]:
        return [snapshot for snapshot, _ in self.kept.values()]

    async def keep(self, frozen_machine: FrozenMachine, snapshot: Snapshot) -> Snapshot:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        assert isinstance(frozen_machine, FakeFrozenMachine)
        kept = replace(snapshot, size=1000)
        self.kept[kept.id] = kept, frozen_machine
        return kept

    @contextlib.asynccontextmanager
    async def opened(self, snapshot: Snapshot) -> AsyncGenerator[FrozenMachine]:
        await anyio.lowlevel.checkpoint()
        if self.unusable:
            raise FrozenMachineUnusable("Its state cannot be used: ram is corrupt.")
        yield self.kept[snapshot.id][1]

    async def remove(self, snapshot_id: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.kept.pop(snapshot_id, None)
