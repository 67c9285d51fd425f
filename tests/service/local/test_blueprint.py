# SPDX-License-Identifier: Apache-2.0
"""What a start that fails or is not wanted any more does to its directory and its template."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.service.local.pretended import PretendMachine

from waggle.domain.errors import BootFailed, GuestLost
from waggle.infra.guest.boot import VmmKilled
from waggle.infra.rootfs.machine_disks import RENEWED
from waggle.service.local.blueprint import Blueprint, LocalMachines, StartedMachine
from waggle.service.local.frozen.templates import NoTemplates

pytestmark = pytest.mark.anyio


class SlowCopy:
    """A frozen machine whose disks take until `go` to copy."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.is_copied = False

    def copy_disks(self, _scratch: Path, _identity: Path) -> None:
        self.begun.set()
        self.is_copied = self.go.wait(10)


async def test_a_cancelled_start_ends_after_the_copy_of_its_disks(tmp_path: Path) -> None:
    unused: Any = None
    image = SimpleNamespace(disk=tmp_path / "root")
    parts: Any = SimpleNamespace(kit=tmp_path / "kit", image=image)

    async def launch(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    launcher: Any = SimpleNamespace(launch=launch)
    machines = LocalMachines(unused, launcher, unused, unused, NoTemplates())
    frozen, ends = SlowCopy(), list[bool]()

    async def start() -> None:
        try:
            await machines.start(Blueprint(parts, {}, tmp_path), cast("Any", frozen))
        finally:
            ends.append(frozen.is_copied)

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        assert await anyio.to_thread.run_sync(frozen.begun.wait, 10)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert ends == []  # its directory would be removed now
            frozen.go.set()
    assert ends == [True]


class Store:
    """One template, which is found even after it was rejected."""

    def __init__(self) -> None:
        self.rejected: list[str] = []

    @contextlib.asynccontextmanager
    async def frozen_for(self, _blueprint: Blueprint) -> AsyncGenerator[object]:
        yield SimpleNamespace(directory=Path("one"), copy_disks=max)

    def reject(self, template: str) -> None:
        self.rejected.append(template)

    def want(self, _blueprint: Blueprint) -> None:
        """Do nothing."""


def _blueprint(files: Path) -> Blueprint:
    image = SimpleNamespace(disk=files / "root")
    own: Any = SimpleNamespace(
        kit=files / "kit", image=image, resources=SimpleNamespace(disk_mib=1)
    )
    return Blueprint(own, {}, files)


def _machines(store: Store, launch: object, boot: object) -> LocalMachines:
    async def made(*_: object) -> None:
        """Do nothing."""

    hypervisor: Any = SimpleNamespace(boot=boot)
    launcher: Any = SimpleNamespace(launch=launch)
    parts: Any = SimpleNamespace(scratch=SimpleNamespace(make=made))
    unused: Any = None
    return LocalMachines(hypervisor, launcher, parts, unused, cast("Any", store))


KILLED, FAILED, WORKED = VmmKilled, BootFailed, None


@pytest.mark.parametrize(
    "ends, dropped",
    [
        ([FAILED], 1),
        ([KILLED, KILLED], 0),
        ([KILLED, KILLED, KILLED], 1),
        ([KILLED, KILLED, WORKED, KILLED, KILLED], 0),
        ([KILLED, KILLED, FAILED, KILLED, KILLED], 1),
        ([KILLED] * 6, 2),
    ],
)
async def test_a_template_is_dropped_if_it_fails_or_its_copies_are_killed_time_and_again(
    tmp_path: Path, ends: list[type[BootFailed] | None], dropped: int
) -> None:
    """The machine boots in any case."""
    left = iter(ends)

    async def launch(blueprint: Blueprint, start: object, **__: object) -> StartedMachine:
        if start is not boot and (failed := next(left)) is not None:
            raise failed("It was not to be.")
        return StartedMachine(blueprint, unused, unused)

    boot = object()
    unused: Any = None
    store = Store()
    machines = _machines(store, launch, boot)
    for end in ends:
        started = await machines.start(_blueprint(tmp_path))
        assert started.template == ("one" if end is None else None)
    assert store.rejected == ["one"] * dropped


async def test_copies_that_begin_together_and_are_killed_together_count_once(
    tmp_path: Path,
) -> None:
    """Too little memory for a short time says nothing of a template."""
    store, boot, unused = Store(), object(), cast("Any", None)
    begun: list[Blueprint] = []
    all_begun = anyio.Event()

    async def launch(blueprint: Blueprint, start: object, **__: object) -> StartedMachine:
        if start is boot:
            return StartedMachine(blueprint, unused, unused)
        begun.append(blueprint)
        if len(begun) >= 5:
            all_begun.set()
        await all_begun.wait()
        raise VmmKilled("It was not to be.")

    machines = _machines(store, launch, boot)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(machines.start, _blueprint(tmp_path))
        await machines.start(_blueprint(tmp_path))
        assert store.rejected == []
        await machines.start(_blueprint(tmp_path))
        assert store.rejected == ["one"]


class Copy(PretendMachine):
    """A copy whose guest does not answer when it is renewed; `killed` says that its VMM was."""

    killed = False

    async def was_killed(self, seconds: float = 0.0) -> bool:
        assert seconds, "its channels may break before it has ended"
        assert not self.log, "it would have killed it itself"
        return self.killed


@pytest.mark.parametrize("killed", [False, True])
async def test_a_copy_that_is_killed_while_it_is_renewed_says_nothing_of_its_template(
    tmp_path: Path, killed: bool
) -> None:
    """By a person, or by the kernel for lack of memory."""
    copy, unused = Copy([]), cast("Any", None)
    copy.killed = killed

    async def resume(*_: object) -> Copy:
        return copy

    async def launch(_blueprint: object, start: Any, **_: object) -> object:
        return await start(unused)

    machines = LocalMachines(
        unused,
        cast("Any", SimpleNamespace(launch=launch)),
        unused,
        cast("Any", SimpleNamespace(resume=resume)),
        NoTemplates(),
    )
    image = SimpleNamespace(disk=tmp_path / "root")
    own = cast("Any", SimpleNamespace(kit=tmp_path / "kit", image=image))
    identity: dict[str, bytes] = dict.fromkeys([*RENEWED], b"")
    frozen = cast("Any", SimpleNamespace(copy_disks=max))
    with pytest.raises(VmmKilled if killed else GuestLost, match="cannot be renewed"):
        await machines.start(Blueprint(own, identity, tmp_path), frozen)
    assert copy.log == ["machine"], "it is stopped"
