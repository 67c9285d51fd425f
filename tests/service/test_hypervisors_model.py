# SPDX-License-Identifier: Apache-2.0
"""Histories of two owners, on a server that runs now these hypervisors and now others.

Whatever they do, an environment, its forks and its snapshots stay with the hypervisor that made it;
what needs one that the server does not run is refused, and is there again when the server runs it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fakes import FakeHost, MemoryShelf, MemoryStore
from tests.support.guest import FakeGuest

from waggle.domain.environment import Environment, State
from waggle.domain.errors import FrozenMachineUnusable, Unsupported, WaggleError
from waggle.domain.host import EnvironmentHost, FrozenMachine, Guest, Progress
from waggle.domain.hypervisor import ByHypervisor
from waggle.domain.machine import Capabilities, Hypervisor, Resources
from waggle.domain.network import NO_NETWORK
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.creating import CopyRequest, CreateRequest, Limits
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService

NOW = datetime(2026, 3, 4, tzinfo=UTC)
FREEZES = {"plain": False, "one": True, "two": True}


@dataclass(frozen=True)
class Vmm:
    name: str

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(freezes=FREEZES[self.name], stops_when_full=False)

    @property
    def hypervisor(self) -> Hypervisor:
        return cast("Any", self)


@dataclass(slots=True)
class RoutedHost(FakeHost):
    """A host with some of the hypervisors. `made` has that of each guest ever made."""

    vmms: ByHypervisor[Vmm] = field(default_factory=lambda: ByHypervisor(Vmm("one")))
    made: dict[str, str] = field(default_factory=dict[str, str])

    def hypervisor_for(self, *, snapshots: bool) -> str:
        return self.vmms.for_new(snapshots=snapshots).name

    def can_freeze(self, hypervisor: str = "", /) -> bool:
        return hypervisor in self.vmms and FREEZES[self.vmms.of(hypervisor).name]

    async def create(
        self,
        environment: Environment,
        progress: Progress,
        frozen_machine: FrozenMachine | None = None,
    ) -> FakeGuest:
        name = self.vmms.of(environment.hypervisor).name
        assert self.made.setdefault(environment.id, name) == name, "it went to another one"
        guest = await FakeHost.create(self, environment, progress, frozen_machine)
        if not FREEZES[name]:
            guest.freeze_error = Unsupported(f"{name} cannot freeze machines.")
        return guest

    async def restart(
        self, environment: Environment, guest: Guest, progress: Progress
    ) -> FakeGuest:
        self.vmms.of(environment.hypervisor)
        return await FakeHost.restart(self, environment, guest, progress)


@dataclass
class Server:
    """What outlives a server, and the use cases of the one that runs."""

    names: Sequence[str]
    host: RoutedHost = field(default_factory=RoutedHost)
    store: MemoryStore = field(default_factory=MemoryStore)
    shelf: MemoryShelf = field(default_factory=MemoryShelf)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new_id(self) -> str:
        return f"{next(self.numbers):08x}-0000-4000-8000-00000000000a"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[tuple[EnvironmentService, SnapshotService]]:
        self.host.vmms = ByHypervisor(*map(Vmm, self.names))
        async with anyio.create_task_group() as tasks:
            limits = Limits(
                99, Resources(1, 512, 64), timedelta(minutes=30), NO_NETWORK,
                {RuntimeName.SHELL: "waggle/shell"}, per_owner=50,
            )  # fmt: skip
            environments = EnvironmentService(
                host=cast("EnvironmentHost", self.host),
                store=self.store,
                limits=limits,
                clock=lambda: NOW,
                new_id=self.new_id,
                tasks=tasks,
            )
            await environments.recover()
            kept = SnapshotLimits(50)
            yield (
                environments,
                SnapshotService(
                    environments, self.shelf, kept, clock=lambda: NOW, new_id=self.new_id
                ),
            )
            await environments.aclose()
            tasks.cancel_scope.cancel()


STEPS = st.tuples(
    st.sampled_from(
        ("create", "create", "snapshots", "fork", "snapshot", "copy", "roll back", "pause", "use")
    ),
    st.sampled_from(("ann", "bob")),
    st.integers(0, 7),
)
SERVERS = st.lists(
    st.tuples(st.permutations([*FREEZES]), st.integers(1, 3), st.lists(STEPS, max_size=7)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(SERVERS)
def test_everything_stays_with_the_hypervisor_that_made_it(
    servers: list[tuple[list[str], int, list[tuple[str, str, int]]]],
) -> None:
    async def history() -> None:
        server = Server(())
        for order, count, steps in servers:
            server.names = order[:count]
            async with server.running() as (environments, snapshots):
                for what, owner, number in steps:
                    await step(server, environments, snapshots, what, owner, number)
                    agree(server, environments, snapshots)
                for one in [*environments.all()]:  # what can be kept is
                    with contextlib.suppress(WaggleError):
                        await environments.pause(one.id, owner=one.owner, to_disk=True)

    anyio.run(history)


async def step(
    server: Server,
    environments: EnvironmentService,
    snapshots: SnapshotService,
    what: str,
    owner: str,
    number: int,
) -> None:
    """Take a step, which succeeds or is refused as the hypervisors say."""
    if what in ("create", "snapshots"):
        wish = CreateRequest(RuntimeName.SHELL, snapshots=what == "snapshots")
        able = [name for name in server.names if FREEZES[name] or what == "create"]
        with refused_unless(bool(able)):
            made = await environments.create(wish, owner=owner)
            assert made.hypervisor == able[0]
        return
    own = environments.list(owner=owner)
    shots = snapshots.list(owner=owner)
    if what == "copy" and shots:
        shot = shots[number % len(shots)]
        with refused_unless(shot.hypervisor in server.names):
            copy = await snapshots.create(shot.id, CopyRequest(), owner=owner)
            assert copy.hypervisor == shot.hypervisor
        return
    if not own or what == "copy":
        return
    one = own[number % len(own)]
    of_it = [shot for shot in shots if shot.origin == one.id]
    if what == "roll back" and not of_it:
        return
    runs = one.hypervisor in server.names
    is_done = what == "pause" and one.is_on_disk
    with refused_unless(is_done or (runs and (what == "use" or FREEZES[one.hypervisor]))):
        if what == "use":
            async with environments.using(one.id, owner=owner) as (held, _):
                assert held.hypervisor == one.hypervisor
        elif what == "fork":
            (fork,) = await snapshots.fork(one.id, 1, owner=owner)
            assert fork.hypervisor == one.hypervisor
        elif what == "snapshot":
            assert (await snapshots.take(one.id, owner=owner)).hypervisor == one.hypervisor
        elif what == "roll back":
            await snapshots.roll_back(one.id, of_it[0].id, owner=owner)
        else:
            await environments.pause(one.id, owner=owner, to_disk=True)


@contextlib.contextmanager
def refused_unless(possible: bool) -> Generator[None]:
    """Require that the block is refused with a next step, or if it is `possible`, that it works."""
    if possible:
        yield
        return
    with pytest.raises((Unsupported, FrozenMachineUnusable)) as refusal:
        yield
    assert refusal.value.hint


def agree(server: Server, environments: EnvironmentService, snapshots: SnapshotService) -> None:
    """Compare what is said, what is recorded and what was made."""
    for one in environments.all():
        assert one.state in (State.RUNNING, State.PAUSED)
        assert one.hypervisor == server.host.made[one.id]
        assert server.store.records[one.id].hypervisor == one.hypervisor
        if one.hypervisor not in server.names:
            assert one.is_on_disk, "a machine of a hypervisor that is not there"
    for shot in snapshots.all():
        assert FREEZES[shot.hypervisor]
