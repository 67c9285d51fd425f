# SPDX-License-Identifier: Apache-2.0
"""Freezes machines, keeps frozen machines on the disk, and resumes copies of them.

Called by `host`, `start`, `guest` and `snapshots`, which need not ask whether machines can be
frozen: where they cannot, `CannotFreeze` takes the place of `Moments`. A frozen machine is a
directory (`infra.store.frozen_files`: memory, devices, scratch disk, identity disk, manifest) and,
while copies start from it, its memory in this process. It knows nothing of owners and names.

Freezing: the machine is paused and its hypervisor copies memory and devices to files in memory; the
scratch disk is cloned while the machine is paused. The identity disk is an empty file of the same
size, so no key reaches a copy by disk. After `taken` the machine continues, even after a failure;
after a `hibernate` that failed, `LiveEnvironment` has it continue.
Keeping: memory and devices are written, and the manifest with digests of all files last. `keep`
links the files into a private directory and renames that to its target; `hibernate` links the
scratch disk instead of cloning it, renames, and only then stops the machine. If the machine cannot
be stopped, the directory is removed, because the machine could still write to that disk. Facts in
the manifest name kernel, kit, root disk and the VMM.
Verifying: `recalled` and `check` read all files and compare digests, unless inode, size and time
are those that this process sealed or verified before. They refuse a state that is locked to
another QEMU or processor, or whose kernel, kit or root disk is gone.
Sharing: copies of one directory share its memory, read once and sealed, and copy what they write;
`manifest.Loaded` keeps up to three without users. With `alone`, the one machine that resumes
reads it anew and writes to it in place, which is how an environment resumes from the disk.
Resuming: a copy gets a clone of the scratch disk and starts as a twin. `LocalMachines` renews its
identity, seeds its random state anew and drops its old connections before it is used.
Crash: files that were not renamed yet lie in workspaces, which `sweep` removes, as does the host
when it clears the environment's directory. A renamed directory is whole, and the next server
finds it: `LocalHost.salvage` for a paused environment, `LocalSnapshots` for a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from waggle.domain.errors import FrozenMachineUnusable, SnapshotFailed, Unsupported
from waggle.domain.machine import (
    IDENTITY,
    SCRATCH,
    FreezingHypervisor,
    FrozenState,
    GuestDisks,
    Machine,
    MachineSpec,
)
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.shared.files import clone, remove_directory
from waggle.infra.shared.work import place, sweep, workspace
from waggle.infra.store import frozen_files
from waggle.service.local.blueprint import GuestParts, MachineParts, StartedMachine
from waggle.service.local.frozen.manifest import (
    Loaded,
    Shelves,
    closing_with,
    from_facts,
    to_facts,
    vmm_of,
)
from waggle.tasks import finish

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FrozenMachine:
    """A frozen machine that copies can start from; if `alone`, only one of them may."""

    directory: Path
    parts: MachineParts
    frozen: FrozenState
    alone: bool = False

    def copy_disks(self, scratch: Path, identity: Path) -> None:
        """Make the disks of a copy. Blocks. Raises OSError."""
        clone(self.directory / SCRATCH, scratch)
        _blank(self.directory / IDENTITY, identity)


class Freezer:
    """Freezes, keeps and resumes machines. `directory` is for those that are being frozen."""

    can_freeze = True

    def __init__(
        self,
        hypervisor: FreezingHypervisor,
        directory: Path,
        disks: Path,
        parts: GuestParts,
        room: DiskRoom | None = None,
    ) -> None:
        """`disks` has the root disks; `room` is that of the disk that states are written to."""
        self._room = room or DiskRoom("the directory of moments", directory, 0)
        self.hypervisor = hypervisor
        self.loaded = Loaded()
        self._verified = frozen_files.Verified()
        self._directory = directory
        self._disks = disks
        self._parts = parts

    @contextlib.asynccontextmanager
    async def freeze(self, started: StartedMachine) -> AsyncGenerator[FrozenMachine]:
        """Freeze a running machine, which continues; removed with the block unless it was kept.

        Raises BootFailed, GuestLost, DiskFull or SnapshotFailed.
        """
        with self._writing():
            stack = contextlib.ExitStack()
            work = stack.enter_context(workspace(self._directory, 0o700)) / "moment"
            try:
                work.mkdir(mode=0o700)
                with contextlib.ExitStack() as held:
                    frozen = await finish(closing_with(held, self._take(started, work)))
                    yield FrozenMachine(work, started.blueprint.parts, frozen)
            finally:
                await finish(asyncio.to_thread(stack.close))

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
                hint="The environment goes on. The operator finds the reason in the server's log.",
            ) from error

    async def _take(self, started: StartedMachine, work: Path) -> FrozenState:
        machine, disks = started.machine, started.blueprint.disks
        try:
            frozen = await machine.freeze(disks)
            try:
                await asyncio.to_thread(_add_disks, clone, disks, work)
            except BaseException:
                frozen.close()
                raise
        finally:
            if machine.is_alive:
                await machine.unpause()
        return frozen

    async def pause_to_disk(self, started: StartedMachine) -> None:
        """Stop a machine and keep it frozen among its files.

        If that fails, it may stay paused: the caller continues it. Raises BootFailed, GuestLost,
        DiskFull, SnapshotFailed or TimedOut. Not to be cancelled.
        """
        with self._writing():
            await self._pause_to_disk(started)

    async def _pause_to_disk(self, started: StartedMachine) -> None:
        blueprint = started.blueprint
        disks = blueprint.disks
        stack = contextlib.ExitStack()
        work = stack.enter_context(workspace(blueprint.files)) / "state"
        try:
            work.mkdir(mode=0o700)
            frozen = await started.machine.freeze(disks)
            with contextlib.closing(frozen):
                await asyncio.to_thread(frozen.save, work)
            await asyncio.to_thread(_add_disks, os.link, disks, work)  # it is about to end
            facts = to_facts(blueprint.parts, self.hypervisor.fingerprint(frozen))
            await asyncio.to_thread(self._verified.seal, work, facts)
            await asyncio.to_thread(place, work, frozen_in(blueprint.files))
        finally:
            await asyncio.to_thread(stack.close)
        try:
            await started.machine.stop()
        except BaseException:  # it may run on, and its disk is a part of the state
            await asyncio.to_thread(remove_directory, frozen_in(blueprint.files))
            raise
        for disk in (disks.scratch, disks.identity):
            with contextlib.suppress(OSError):  # the next start of the machine removes it
                disk.unlink()

    async def keep(
        self, frozen_machine: FrozenMachine, directory: Path, facts: Mapping[str, object]
    ) -> None:
        """Write a machine that was just frozen to `directory`, with `facts`. Raises OSError.

        A crash leaves a workspace, which `sweep` removes.
        """
        vmm = self.hypervisor.fingerprint(frozen_machine.frozen)
        whole = {**to_facts(frozen_machine.parts, vmm), **facts}
        await asyncio.to_thread(frozen_machine.frozen.save, frozen_machine.directory)
        await asyncio.to_thread(self._verified.seal, frozen_machine.directory, whole)
        await asyncio.to_thread(_link, frozen_machine.directory, directory)

    async def resume(self, spec: MachineSpec, frozen_machine: FrozenMachine) -> Machine:
        """Start a copy, not renewed yet; see `FreezingHypervisor.resume`."""
        return await self.hypervisor.resume(spec, frozen_machine.frozen, alone=frozen_machine.alone)

    @contextlib.asynccontextmanager
    async def opened(
        self, directory: Path, *, alone: bool = False
    ) -> AsyncGenerator[FrozenMachine]:
        """Hold what was kept, verified and in memory, for the length of a block.

        For one machine `alone` it is read anew; otherwise it is shared. Raises MomentUnusable with
        the reason if it cannot be resumed on this host now.
        """
        parts, vmm = await asyncio.to_thread(self._inspect, directory)
        load = partial(self.hypervisor.load, directory, vmm, alone=alone)
        async with contextlib.AsyncExitStack() as stack:
            try:
                if alone:
                    frozen = await finish(closing_with(stack, asyncio.to_thread(load)))
                else:
                    frozen = await stack.enter_async_context(self.loaded.using(directory, load))
            except OSError as error:
                raise FrozenMachineUnusable(
                    f"Its state cannot be read: {error.strerror}."
                ) from error
            yield FrozenMachine(directory, parts, frozen, alone)

    def check(self, directory: Path) -> MachineParts:
        """Verify what is kept there and return its parts. Blocks.

        Raises MomentUnusable with the reason, or SetupIncomplete if kernel or kit are missing.
        """
        return self._inspect(directory)[0]

    def _inspect(self, directory: Path) -> tuple[MachineParts, Mapping[str, str]]:
        """Return the parts as `check` does, and what the state is locked to."""
        if (why := self._verified.problem(directory)) is not None:
            raise FrozenMachineUnusable(f"Its state cannot be used: {why}.")
        with frozen_files.understanding():
            facts = frozen_files.facts(directory)
            shelves = Shelves(self._disks, self._parts.kernel().parent, self._parts.kit().parent)
            parts = from_facts(facts, shelves)
            vmm = vmm_of(facts)
        if (another := self.hypervisor.lock(vmm)) is not None:
            raise FrozenMachineUnusable(
                f"Its state is locked to another {another}.",
                hint="Machines go on only with the QEMU and the processor that froze them; "
                "WAGGLE_QEMU_OLDER can name the QEMU of before.",
            )
        for path in (parts.image.disk, parts.kernel, parts.kit):
            if not path.exists():
                raise FrozenMachineUnusable(
                    f"What it was made of is not here any more: {path.name}."
                )
        return parts, vmm

    def sweep(self) -> None:
        """Remove workspaces of a killed server. Call it at start, when nothing runs yet."""
        sweep(self._directory)


class CannotFreeze:
    """Instead of `Moments` if machines cannot be frozen; clients read `why` and `hint`.

    Every method but `sweep` raises Unsupported.
    """

    can_freeze = False

    def __init__(self, why: str, hint: str) -> None:
        self._why = why
        self._hint = hint

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Unsupported(self._why, hint=self._hint)

    freeze = pause_to_disk = keep = opened = check = resume = _refuse

    def sweep(self) -> None:
        """Do nothing: nothing was kept."""


Freezing = Freezer | CannotFreeze


def frozen_in(files: Path) -> Path:
    """Return the directory of the frozen machine of an environment that is paused to disk."""
    return files / "frozen"


def _link(source: Path, target: Path) -> None:
    """Link all files into a new directory, which is whole or does not exist. Blocks."""
    with workspace(target.parent, 0o700) as work:
        copy = work / "copy"
        copy.mkdir(mode=0o700)
        for path in source.iterdir():
            os.link(path, copy / path.name)
        place(copy, target)


def _add_disks(copy: Callable[[Path, Path], None], disks: GuestDisks, work: Path) -> None:
    copy(disks.scratch, work / SCRATCH)
    _blank(disks.identity, work / IDENTITY)


def _blank(model: Path, target: Path) -> None:
    """Make an empty disk of the same size: copies get their identity by another channel."""
    with target.open("xb") as file:
        file.truncate(model.stat().st_size)
