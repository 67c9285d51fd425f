# SPDX-License-Identifier: Apache-2.0
"""Freezes machines, keeps frozen machines on the disk, and resumes copies of them.

Where machines cannot be frozen, `CannotFreeze` takes the place of `Freezer`. A `FrozenMachine` is a
directory (`infra.store.frozen_files`: memory, devices, scratch disk, identity disk, manifest) and,
while copies start from it, its memory in this process. This module knows no owners and names.

Freezing: the machine is paused, and it copies its memory and devices to files in memory; the
scratch disk is cloned while the machine is paused. The identity disk is an empty file of the same
size, so no key reaches a copy by disk. `freeze` lets the machine continue at once, even after a
failure; after a failed `pause_to_disk`, `LiveEnvironment` lets it continue.
Keeping: memory and devices are written, and the manifest with checksums of all files last. `keep`
links the files into a workspace and renames that to its target; `pause_to_disk` links the scratch
disk instead of cloning it, renames, and only then stops the machine. If the machine cannot be
stopped, the directory is removed, because the machine could still write to that disk. Facts in the
manifest name kernel, kit, root disk and the VMM.
Verifying: `opened` and `check` read all files and compare checksums, unless inode, size and time
are those that this process sealed or verified before. They refuse a state that is locked to another
program or processor, or whose kernel, kit or root disk is gone.
Sharing: copies of one directory share its memory, read once and sealed, and copy what they write;
`manifest.Loaded` keeps up to three without users. With `alone`, it is read anew for the one machine
that resumes, which may write to it in place: so an environment resumes from the disk. A VMM that
maps memory privately then maps the file itself, which stays among the machine's files: the next
pause to disk only writes there what has changed.
Resuming: a copy gets a clone of the scratch disk and starts with the origin's identity.
`LocalMachines` renews it (identity, random state, time) and drops its old connections before it is
used.
Crash: files that were not renamed yet lie in workspaces, which `sweep` removes, as does the host
when it clears the environment's directory. A renamed directory is whole, and the next server
finds it: `LocalHost.recover` for a paused environment, `LocalSnapshots` for a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from waggle.domain import host
from waggle.domain.errors import FrozenMachineUnusable, SnapshotFailed
from waggle.domain.machine import (
    IDENTITY,
    RAM,
    SCRATCH,
    FreezingHypervisor,
    FrozenState,
    Machine,
    MachineSpec,
)
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.shared.files import remove_directory
from waggle.infra.shared.sparse import clone
from waggle.infra.shared.work import place, sweep
from waggle.infra.store import frozen_files
from waggle.service.local.blueprint import Blueprint, GuestParts, MachineParts, StartedMachine
from waggle.service.local.frozen.cannot import CannotFreeze
from waggle.service.local.frozen.files import add_disks, blank, lend, link, new_directory
from waggle.service.local.frozen.manifest import (
    Loaded,
    Shelves,
    closing_with,
    from_facts,
    hypervisor_of,
    to_facts,
    vmm_of,
)
from waggle.service.local.frozen.turns import Turns
from waggle.tasks import finish

__all__ = ["CannotFreeze", "Freezer", "Freezing", "FrozenMachine", "frozen_by", "frozen_in"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FrozenMachine:
    """A frozen machine that copies can start from; if `alone`, only one of them may."""

    directory: Path
    hypervisor: str
    parts: MachineParts
    state: FrozenState
    alone: bool = False

    def copy_disks(self, scratch: Path, identity: Path) -> None:
        """Make the disks of a copy. Blocks. Raises OSError."""
        clone(self.directory / SCRATCH, scratch)
        blank(self.directory / IDENTITY, identity)

    def lend_memory(self, files: Path) -> None:
        """Have what its one machine will map among its files, before it starts. Blocks; OSError."""
        if self.state.is_on_disk:
            os.link(self.directory / RAM, files / RAM)


class Freezer:
    """Freezes, keeps and resumes machines. `directory` is for those that are being frozen."""

    def __init__(
        self,
        hypervisor: FreezingHypervisor,
        directory: Path,
        disks: Path,
        parts: GuestParts,
        room: DiskRoom | None = None,
        loaded: Loaded | None = None,
        *,
        turns: Turns | None = None,
    ) -> None:
        """`disks` has the root disks; states are written to the disk of `room`. Close `loaded`."""
        self._room = room or DiskRoom("the directory of frozen machines", directory, 0)
        self.hypervisor = hypervisor
        self.loaded = loaded or Loaded()
        self._verified = frozen_files.Verified()
        self.turns = turns or Turns()
        self._directory = directory
        self._disks = disks
        self._parts = parts

    @contextlib.asynccontextmanager
    async def freeze(
        self, started: StartedMachine, turn: host.Turn
    ) -> AsyncGenerator[FrozenMachine]:
        """Freeze a running machine, which continues; removed with the block unless it was kept.

        In its `turn`, which ends after the block.

        Raises BootFailed, GuestLost, DiskFull or SnapshotFailed.
        """
        with self._writing():
            async with new_directory(self._directory) as work, contextlib.AsyncExitStack() as held:
                state = await finish(closing_with(held, self._freeze(started, work, turn)))
                yield self._frozen(work, started.blueprint.parts, state)

    @property
    def keeps_connections(self) -> bool:
        """Whether a machine that is frozen keeps its connections."""
        return self.hypervisor.capabilities.keeps_connections

    def _frozen(
        self, directory: Path, parts: MachineParts, state: FrozenState, *, alone: bool = False
    ) -> FrozenMachine:
        return FrozenMachine(directory, self.hypervisor.name, parts, state, alone)

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        """Turn errors of the disk into errors for the client."""
        try:
            with self._room.errors():
                yield
        except OSError as error:
            log.exception("state_not_written")
            raise SnapshotFailed(
                f"The machine's state could not be written: {error.strerror or error}.",
                hint="The environment continues. The operator finds the reason in the log.",
            ) from error

    async def _freeze(self, started: StartedMachine, work: Path, turn: host.Turn) -> FrozenState:
        machine, disks = started.machine, started.blueprint.disks
        with contextlib.ExitStack() as undo:
            try:
                state = await machine.freeze(disks)
                undo.callback(state.close)
                turn.copied()
                await finish(asyncio.to_thread(add_disks, clone, disks, work))
            finally:
                if machine.is_alive:
                    await machine.unpause()
            undo.pop_all()
            return state

    def turn(self, started: StartedMachine) -> AbstractAsyncContextManager[host.Turn]:
        """Wait for a machine's turn to be frozen, and hold it for a block; see `Turns.turn`."""
        blueprint = started.blueprint
        return self.turns.turn(blueprint.parts.resources, blueprint.owner)

    async def pause_to_disk(
        self, started: StartedMachine, hang_up: Callable[[], Awaitable[None]], turn: host.Turn
    ) -> None:
        """Stop a machine and keep it frozen among its files. `hang_up` ends its connections.

        In its `turn`. If that fails, it may stay paused until the caller unpauses it. Raises
        BootFailed, GuestLost, DiskFull, SnapshotFailed or TimedOut. Not to be cancelled.
        """
        blueprint, disks = started.blueprint, started.blueprint.disks
        with self._writing():
            await hang_up()  # the guest ends what served them while all else is prepared
            async with new_directory(blueprint.files) as work:
                await asyncio.to_thread(lend, blueprint.memory, work)
                state = await started.machine.freeze(disks, work, turn.copied)
                turn.copied()
                try:
                    await finish(asyncio.to_thread(self._write, work, blueprint, state))
                    await started.machine.stop()
                except BaseException:  # it may still run, and its disk is a part of the state
                    await asyncio.to_thread(remove_directory, frozen_in(blueprint.files))
                    raise
        for path in (disks.scratch, disks.identity, blueprint.memory):
            with contextlib.suppress(OSError):  # the next start of the machine removes it
                path.unlink()

    def _write(self, work: Path, blueprint: Blueprint, state: FrozenState) -> None:
        """Write what is kept of a machine that is about to end, all or nothing. OSError."""
        with contextlib.closing(state):
            state.save(work)
        add_disks(os.link, blueprint.disks, work)
        facts = self._facts(blueprint.parts, state)
        self._verified.seal(work, facts, state.changed, will_change=state.is_on_disk)
        place(work, frozen_in(blueprint.files))

    def _facts(self, parts: MachineParts, state: FrozenState) -> dict[str, object]:
        return to_facts(parts, self.hypervisor.name, self.hypervisor.fingerprint(state))

    async def keep(self, frozen: FrozenMachine, target: Path, facts: Mapping[str, object]) -> None:
        """Write a machine that was just frozen to `target`, with `facts`. Raises OSError."""
        whole = {**self._facts(frozen.parts, frozen.state), **facts}
        await asyncio.to_thread(frozen.state.save, frozen.directory)
        await asyncio.to_thread(self._verified.seal, frozen.directory, whole)
        await asyncio.to_thread(link, frozen.directory, target)

    async def resume(self, spec: MachineSpec, frozen: FrozenMachine) -> Machine:
        """Start a copy, not renewed yet; see `FreezingHypervisor.resume`."""
        return await self.hypervisor.resume(spec, frozen.state, alone=frozen.alone)

    @contextlib.asynccontextmanager
    async def opened(
        self, directory: Path, *, alone: bool = False
    ) -> AsyncGenerator[FrozenMachine]:
        """Hold a kept machine, verified and in memory, for the length of a block.

        For one machine `alone` it is read anew; otherwise it is shared. Raises
        FrozenMachineUnusable with the reason if it cannot be resumed on this host now.
        """
        parts, vmm = await asyncio.to_thread(self._inspect, directory)
        load = partial(self.hypervisor.load, directory, vmm, alone=alone)
        async with contextlib.AsyncExitStack() as stack:
            try:
                if alone:
                    state = await finish(closing_with(stack, asyncio.to_thread(load)))
                else:
                    state = await stack.enter_async_context(self.loaded.using(directory, load))
            except OSError as error:
                why = f"Its state cannot be read: {error.strerror}."
                raise FrozenMachineUnusable(why) from error
            yield self._frozen(directory, parts, state, alone=alone)

    def check(self, directory: Path) -> MachineParts:
        """Verify a kept machine and return its parts. Blocks.

        Raises FrozenMachineUnusable with the reason, or SetupIncomplete without kernel or kit.
        """
        return self._inspect(directory)[0]

    def _inspect(self, directory: Path) -> tuple[MachineParts, Mapping[str, str]]:
        """Return the parts as `check` does, and what the state is locked to."""
        if (why := self._verified.problem(directory)) is not None:
            raise FrozenMachineUnusable(f"Its state cannot be used: {why}.")
        with frozen_files.understanding():
            facts = frozen_files.facts(directory)
            maker = hypervisor_of(facts)
            shelves = Shelves(self._disks, self._parts.kernel().parent, self._parts.kit().parent)
            parts = from_facts(facts, shelves)
            vmm = vmm_of(facts)
        if maker != self.hypervisor.name:
            raise FrozenMachineUnusable(f"It was not frozen by {self.hypervisor.name}.")
        if (another := self.hypervisor.lock(vmm)) is not None:
            raise FrozenMachineUnusable(
                f"Its state is locked to another {another}.",
                hint="Machines resume only where they were frozen: WAGGLE_QEMU_OLDER names a QEMU, "
                "'waggle vmm add' brings a VMM, WAGGLE_GUEST_KERNEL decides the kind of QEMU's.",
            )
        if (gone := parts.missing()) is not None:
            raise FrozenMachineUnusable(f"One of its parts is gone: {gone}.")
        return parts, vmm

    def sweep(self) -> None:
        """Remove workspaces of a killed server. Call it at start, when nothing runs yet."""
        sweep(self._directory)


Freezing = Freezer | CannotFreeze


def frozen_by(hypervisor: str, frozen: host.FrozenMachine) -> FrozenMachine:
    """Return a machine that this hypervisor froze. Raises FrozenMachineUnusable."""
    if not isinstance(frozen, FrozenMachine) or frozen.hypervisor != hypervisor:
        raise FrozenMachineUnusable("It was not frozen by the environment's hypervisor.")
    return frozen


def frozen_in(files: Path) -> Path:
    """Return the directory of the frozen machine of an environment that is paused to disk."""
    return files / "frozen"
