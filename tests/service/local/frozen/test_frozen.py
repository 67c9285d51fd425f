# SPDX-License-Identifier: Apache-2.0
"""A pause to disk that fails at its end; `tests/vm/test_freezing.py` has real machines."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.support.waiting import until

from waggle.domain.environment import Resources
from waggle.domain.errors import GuestLost, SnapshotFailed, TimedOut
from waggle.domain.host import NoMemory
from waggle.domain.image import BootImage
from waggle.domain.machine import RAM, STATE
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.host.memory import Memory
from waggle.infra.store import frozen_files
from waggle.service.local.blueprint import Blueprint, GuestParts, MachineParts, StartedMachine
from waggle.service.local.frozen import Freezer, FrozenMachine, frozen_in
from waggle.service.local.frozen.turns import FREEZING, MARGIN_MIB, Turns

pytestmark = pytest.mark.anyio


class FrozenState:
    """A state of two small files."""

    is_closed = False
    is_on_disk = False
    changed = None

    def save(self, directory: Path) -> None:
        for name in (STATE,) if self.is_on_disk else (RAM, STATE):
            (directory / name).write_bytes(b"x")

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Machine:
    """A machine that records the calls of its methods.

    With `stubborn` it cannot be stopped; a `late` one's guest does not answer when it runs on.
    """

    stubborn: bool = False
    late: bool = False
    state: FrozenState = field(default_factory=FrozenState)
    goes_on: anyio.Event | None = None
    calls: list[str] = field(default_factory=list[str])
    is_alive: bool = True

    async def hang_up(self) -> None:
        self.calls.append("hang up")

    async def freeze(self, disks: object, *_: object) -> FrozenState:
        self.calls.append("freeze")
        if self.goes_on is not None:
            await self.goes_on.wait()
        return self.state

    async def unpause(self) -> None:
        self.calls.append("unpause")
        if self.late:
            raise GuestLost("The guest does not answer.")

    async def stop(self) -> None:
        self.calls.append("stop")
        if self.stubborn:
            raise TimedOut("It does not die.")
        self.is_alive = False


class Vmm:
    """A hypervisor that only has a name and a fingerprint."""

    name = "one"

    def fingerprint(self, frozen: FrozenState) -> Mapping[str, str]:
        return {"vmm": "one"}


def started(
    tmp_path: Path, machine: Machine, name: str = "environment", owner: str | None = None
) -> StartedMachine:
    files = tmp_path / name
    files.mkdir()
    image = BootImage("image", "sha256:1", Path("/image"), {})
    parts = MachineParts(
        RuntimeName.SHELL, image, Path("/kernel"), Path("/kit"), Resources(1, 128, 64)
    )
    blueprint = Blueprint(parts, {}, files, owner)
    for disk in (blueprint.disks.scratch, blueprint.disks.identity):
        disk.write_bytes(b"disk")
    return StartedMachine(blueprint, cast("Any", machine), cast("Any", None))


def freezer(tmp_path: Path, turns: Turns | None = None) -> Freezer:
    parts = cast("GuestParts", None)
    return Freezer(cast("Any", Vmm()), tmp_path / "frozen", tmp_path, parts, turns=turns)


async def paused(one: Freezer, hers: StartedMachine, machine: Machine) -> None:
    async with one.turn(hers) as turn:
        await one.pause_to_disk(hers, machine.hang_up, turn)


async def frozen(one: Freezer, hers: StartedMachine, _machine: object = None) -> None:
    async with one.turn(hers) as turn, one.freeze(hers, turn):
        pass


def with_free(*mib: int) -> Turns:
    """Return the turns of a server that has so much memory at each look."""
    looks = iter(mib)
    return Turns(lambda: Memory(64 << 30, next(looks) << 20))


async def test_a_machine_paused_to_disk_is_stopped_and_its_state_is_whole(tmp_path: Path) -> None:
    machine = Machine()
    hers = started(tmp_path, machine)
    await paused(freezer(tmp_path), hers, machine)
    assert machine.calls == ["hang up", "freeze", "stop"]
    assert [path.name for path in hers.blueprint.files.iterdir()] == ["frozen"]
    assert frozen_files.problem(frozen_in(hers.blueprint.files)) is None


async def test_memory_that_a_machine_maps_goes_with_it_and_comes_back(tmp_path: Path) -> None:
    """Only what has changed is written then, and no other link of the file is left."""
    machine = Machine()
    hers = started(tmp_path, machine)
    memory = hers.blueprint.memory
    memory.write_bytes(b"pages")
    inode = memory.stat().st_ino
    machine.state.is_on_disk = True
    await paused(freezer(tmp_path), hers, machine)
    kept = frozen_in(hers.blueprint.files)
    assert [path.name for path in hers.blueprint.files.iterdir()] == ["frozen"]
    assert (kept / RAM).stat().st_ino == inode
    frozen = FrozenMachine(kept, "one", hers.blueprint.parts, cast("Any", machine.state), True)
    frozen.lend_memory(hers.blueprint.files)
    assert {*hers.blueprint.files.iterdir()} == {memory, kept}
    assert memory.stat().st_ino == inode


async def test_no_state_is_left_beside_a_machine_that_cannot_be_stopped(tmp_path: Path) -> None:
    """It could run on and write to the disk that is a part of that state."""
    machine = Machine(stubborn=True)
    hers = started(tmp_path, machine)
    with pytest.raises(TimedOut):
        await paused(freezer(tmp_path), hers, machine)
    assert machine.calls == ["hang up", "freeze", "stop"], "its owner has it continue"
    disks = hers.blueprint.disks
    assert {*hers.blueprint.files.iterdir()} == {disks.scratch, disks.identity}
    assert disks.scratch.stat().st_nlink == 1


async def test_a_state_that_cannot_get_its_name_leaves_none_behind(tmp_path: Path) -> None:
    """An old state beside a machine that continues would be resumed after a crash."""
    machine = Machine()
    hers = started(tmp_path, machine)
    target = frozen_in(hers.blueprint.files)
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(SnapshotFailed):
        await paused(freezer(tmp_path), hers, machine)
    assert machine.calls == ["hang up", "freeze"]
    assert not target.exists()
    assert hers.blueprint.disks.scratch.stat().st_nlink == 1


@pytest.mark.parametrize("is_late", [False, True])
async def test_the_state_of_a_machine_is_closed_also_if_that_does_not_run_on(
    tmp_path: Path, is_late: bool
) -> None:
    """It holds the whole memory."""
    machine = Machine(late=is_late)
    hers = started(tmp_path, machine)
    (tmp_path / "frozen").mkdir()
    with pytest.raises(GuestLost) if is_late else contextlib.nullcontext():
        one = freezer(tmp_path)
        async with one.turn(hers) as turn, one.freeze(hers, turn) as copy:
            assert copy.state is machine.state
            assert not machine.state.is_closed
    assert machine.calls == ["freeze", "unpause"]
    assert machine.state.is_closed
    assert not list((tmp_path / "frozen").iterdir())


async def test_few_machines_are_frozen_at_once_and_the_others_run_on_meanwhile(
    tmp_path: Path,
) -> None:
    """Each takes its memory once more, whether for a snapshot or a pause to disk."""
    goes_on = anyio.Event()
    machines = [Machine(goes_on=goes_on) for _ in range(2 * FREEZING + 2)]
    one = freezer(tmp_path)
    (tmp_path / "frozen").mkdir()

    def under_way() -> int:
        return sum("freeze" in machine.calls for machine in machines)

    async with anyio.create_task_group() as group:
        for at, machine in enumerate(machines):
            hers = started(tmp_path, machine, f"{at}")
            group.start_soon(paused if at % 2 else frozen, one, hers, machine)
        await until(lambda: under_way() >= FREEZING)
        await anyio.wait_all_tasks_blocked()
        assert under_way() == FREEZING
        goes_on.set()
    assert under_way() == len(machines)


async def test_an_owner_whose_machines_are_slow_leaves_a_turn_to_the_others(tmp_path: Path) -> None:
    """A VMM that was taken over can let its freeze last."""
    goes_on = anyio.Event()
    slow = [Machine(goes_on=goes_on) for _ in range(2 * FREEZING)]
    other = Machine()
    one = freezer(tmp_path)
    async with anyio.create_task_group() as group:
        for at, machine in enumerate(slow):
            hers = started(tmp_path, machine, f"{at}", "ann")
            group.start_soon(paused, one, hers, machine)
        await until(lambda: any("freeze" in machine.calls for machine in slow))
        await paused(one, started(tmp_path, other, "other", "bob"), other)
        assert sum("freeze" in machine.calls for machine in slow) == 1
        goes_on.set()
    assert all(machine.calls == ["hang up", "freeze", "stop"] for machine in [*slow, other])


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_machine_is_not_frozen_without_memory_for_it(tmp_path: Path, to_disk: bool) -> None:
    """The kernel would kill a machine, or the server. With memory, the next try succeeds."""
    machine = Machine()
    hers = started(tmp_path, machine)
    (tmp_path / "frozen").mkdir()
    enough = 128 + MARGIN_MIB
    one = freezer(tmp_path, with_free(enough - 1, enough))

    async def again() -> None:
        if to_disk:
            await paused(one, hers, machine)
        else:
            await frozen(one, hers)

    with pytest.raises(NoMemory) as refused:
        await again()
    assert f"it takes {enough} MiB for a short time, and {enough - 1} MiB are" in str(refused.value)
    assert "Try again later" in refused.value.hint
    assert refused.value.retryable
    assert not machine.calls, "nothing was disturbed"
    assert not list((tmp_path / "frozen").iterdir())
    await again()
    assert "freeze" in machine.calls


ROOM_FOR_ONE = 2 * 128 + MARGIN_MIB - 1


async def test_a_machine_waits_for_the_memory_of_one_that_is_being_frozen(tmp_path: Path) -> None:
    """That is there again in seconds: it would be refused for nothing."""
    goes_on = anyio.Event()
    first, other = Machine(goes_on=goes_on), Machine()
    one = freezer(tmp_path, Turns(lambda: Memory(64 << 30, ROOM_FOR_ONE << 20)))
    async with anyio.create_task_group() as group:
        group.start_soon(paused, one, started(tmp_path, first), first)
        await until(lambda: "freeze" in first.calls)
        group.start_soon(paused, one, started(tmp_path, other, "second"), other)
        await anyio.wait_all_tasks_blocked()
        assert not other.calls
        goes_on.set()
    assert other.calls == ["hang up", "freeze", "stop"]


async def test_a_machine_that_does_not_fit_alone_is_refused_after_the_wait(tmp_path: Path) -> None:
    goes_on = anyio.Event()
    first, other = Machine(goes_on=goes_on), Machine()
    one = freezer(tmp_path, with_free(128 + MARGIN_MIB, 0, 0, 0))
    async with anyio.create_task_group() as group:
        group.start_soon(paused, one, started(tmp_path, first), first)
        await until(lambda: "freeze" in first.calls)
        goes_on.set()
        with pytest.raises(NoMemory, match=f"it takes {128 + MARGIN_MIB} MiB .* and 0 MiB"):
            await paused(one, started(tmp_path, other, "second"), other)
    assert not other.calls


async def test_a_machine_waits_for_memory_in_bounds(tmp_path: Path) -> None:
    """A VMM that was taken over delays its own freeze."""
    goes_on = anyio.Event()
    first, other = Machine(goes_on=goes_on), Machine()
    turns = Turns(lambda: Memory(64 << 30, ROOM_FOR_ONE << 20), patience=0)
    one = freezer(tmp_path, turns)
    async with anyio.create_task_group() as group:
        group.start_soon(paused, one, started(tmp_path, first), first)
        await until(lambda: "freeze" in first.calls)
        with pytest.raises(NoMemory, match=f"it takes {2 * 128 + MARGIN_MIB} MiB"):
            await paused(one, started(tmp_path, other, "second"), other)
        goes_on.set()
    assert not other.calls
