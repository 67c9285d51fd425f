# SPDX-License-Identifier: Apache-2.0
"""Environments on this host; implements `domain.host.EnvironmentHost`.

Called by `LiveEnvironment` and the composition root. Knows nothing of capacity, clients or MCP.

How an environment gets its guest: it has a slot and is recorded as CREATING before `create` is
called. `create` and `LocalStart` push an undo on a stack for all that they make; a failure or a
cancellation runs these in reverse. At the end the stacks are emptied: `LocalGuest` owns everything.
The record names the hypervisor, which has its own `LocalStart`.
1. Parts: a given frozen machine brings them; otherwise the image is looked up, pulled and made a
   root disk if need be (`ImageService`), and kernel and kit are this server's.
2. Warm machine: if the pool has one of exactly these parts, `LocalStart.hand_over` renames its
   directory, sends it this environment's records and connects, within 5 seconds. One that fails is
   destroyed and the next is tried. A given frozen machine skips this step, as does another
   hypervisor than the server's first, whose machines the pool has.
3. Otherwise the pool ends warm machines that there is no room for any more, and a directory for the
   machine's files is made; its name is the environment's id.
4. `LocalStart.new_guest` makes keys and the identity records; `LocalMachines.start` starts the
   machine on a leased port (on another if that is taken): as a copy of the given frozen machine,
   else of a template, else by a boot. A copy gets a clone of the scratch disk and is renewed before
   anything connects. A template that fails is removed, and the machine boots. A boot makes an empty
   scratch disk, and has a template made in the background for the next machine.
5. The keys for `waggle shell` are written, the proxy is offered if the environment has a network,
   and the SSH connection is made. The guest answers: `create` returns.
The order of undoing is: connection and proxy, machine and lease, files, directory. From step 3 on,
GuestLost and OSError become BootFailed or DiskFull. `resume` takes the same path from the state on
the disk, which it removes only once the guest answers, so that a failed resume can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path

import structlog

from waggle.domain import host
from waggle.domain.environment import Environment
from waggle.domain.errors import BootFailed, GuestLost, WaggleError
from waggle.domain.exposure import Visit
from waggle.domain.host import Progress
from waggle.domain.hypervisor import ByHypervisor, can_freeze
from waggle.domain.image import BootImages
from waggle.domain.machine import SCRATCH
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.domain.use import DiskUse
from waggle.infra.net.listeners import LoopbackListeners
from waggle.infra.shared.confined import kill_identified
from waggle.infra.shared.disk_room import DiskRoom, allocated_bytes, allocated_in
from waggle.infra.shared.files import remove_directory
from waggle.service.local.blueprint import LocalMachines, MachineParts
from waggle.service.local.frozen import frozen_by, frozen_in
from waggle.service.local.guest import LocalGuest
from waggle.service.local.start import LocalStart, NewProxy, clear
from waggle.service.local.warm_machine import WarmKind, WarmMachine, kind_of
from waggle.service.local.warm_pool import WarmPool
from waggle.tasks import stage

__all__ = ["LocalHost", "NewProxy", "is_root"]

log = structlog.get_logger(__name__)


class LocalHost:
    """Runs environments, each with its hypervisor and a directory below `directory`."""

    def __init__(
        self,
        *,
        directory: Path,
        machines: ByHypervisor[LocalMachines],
        images: BootImages,
        new_proxy: NewProxy,
        pool: WarmPool[WarmMachine] | None = None,
        room: DiskRoom | None = None,
    ) -> None:
        """The `pool` makes its machines with `warm`; the caller runs and closes it.

        `room` is that of the directory's disk; None keeps no reserve.
        """
        self._room = room or DiskRoom("the directory of environments", directory, 0)
        self._directory = directory
        self._machines = machines
        self._images = images
        self._new_proxy = new_proxy
        self._pool = pool

    async def create(
        self,
        environment: Environment,
        progress: Progress,
        frozen_machine: host.FrozenMachine | None = None,
    ) -> LocalGuest:
        """Boot and connect; see `domain.host.EnvironmentHost.create`."""
        start = self._start_of(environment)
        await progress(0.0, f"Looking up the image {environment.image}")
        if frozen_machine is not None:
            frozen_machine = frozen_by(start.machines.hypervisor.name, frozen_machine)
            parts = frozen_machine.parts
        else:
            kind = kind_of(environment)
            parts = await self._newest(start.machines, kind, progress, environment.owner)
            if guest := await self._claimed(start, environment, parts, progress):
                return guest
        if self._pool is not None:
            await self._pool.make_room()
        async with self._clear_errors(), contextlib.AsyncExitStack() as undo:
            files = self._make_directory(environment.id)
            undo.callback(shutil.rmtree, files, ignore_errors=True)
            guest = await start.new_guest(environment, parts, files, frozen_machine, progress)
            undo.pop_all()
        return guest

    def _start_of(self, environment: Environment) -> LocalStart:
        return LocalStart(self._machines.of(environment.hypervisor), self._new_proxy)

    async def _claimed(
        self, start: LocalStart, environment: Environment, parts: MachineParts, progress: Progress
    ) -> LocalGuest | None:
        """Return a guest in a warm machine, if one fits. One that cannot be used is ended."""
        pool = self._pool if start.machines is self._machines.first else None
        while pool and (machine := pool.claim(kind_of(environment), parts)):
            try:
                files = self._directory / environment.id
                return await start.hand_over(machine, environment, files, progress)
            except (WaggleError, OSError) as error:
                log.warning("warm_machine_unusable", runtime=parts.runtime, error=str(error))
        return None

    async def warm(self, commands: Mapping[RuntimeName, Command], kind: WarmKind) -> WarmMachine:
        """Return a new machine for the pool, which has run the command of its runtime.

        If that fails or is cancelled, nothing is left. Raises as `create` does.
        """
        machines = self._machines.first
        await machines.templates.idle()  # a machine that can wait starts from one
        self.require_disk()
        parts = await self._newest(machines, kind, host.no_progress)
        async with self._clear_errors(), contextlib.AsyncExitStack() as undo:
            files = self._make_directory(f"warm-{uuid.uuid4()}")
            undo.callback(shutil.rmtree, files, ignore_errors=True)
            start = LocalStart(machines, self._new_proxy)
            machine = await start.warm(parts, files, commands[kind.runtime])
            undo.pop_all()
        return machine

    async def resume(self, environment: Environment, progress: Progress) -> LocalGuest:
        """Resume it from the disk; see `domain.host.EnvironmentHost.resume`."""
        start = self._start_of(environment)
        files = self._directory / environment.id
        await progress(0.0, "Reading its state")
        if self._pool is not None:
            await self._pool.make_room()
        async with self._clear_errors():
            clear(files)  # its machine left its keys and log here
            async with start.machines.freezing.opened(frozen_in(files), alone=True) as frozen:
                parts = frozen.parts
                await asyncio.to_thread(frozen.lend_memory, files)
                guest = await start.new_guest(environment, parts, files, frozen, progress)
                await asyncio.to_thread(remove_directory, frozen.directory)
        return guest

    def require_restart(self, guest: host.Guest) -> None:
        """Raise BootFailed or DiskFull; see `domain.host.EnvironmentHost.require_restart`."""
        self.require_disk()
        if (gone := _local(guest).started.blueprint.parts.missing()) is not None:
            raise BootFailed(
                f"It cannot be booted again: {gone} is gone from the server.",
                hint="Its machine still runs: take a snapshot of it, or its files.",
            )

    async def restart(
        self, environment: Environment, guest: host.Guest, progress: Progress
    ) -> LocalGuest:
        """Boot it again from its disk; see `domain.host.EnvironmentHost.restart`."""
        async with self._clear_errors():
            start = self._start_of(environment)
            return await start.again(environment, _local(guest), progress)

    async def recover(self, environment: Environment) -> bool:
        """Return whether it can be resumed; see `domain.host.EnvironmentHost.recover`."""
        if environment.machine is not None:
            kill_identified(environment.machine)
        files = self._directory / environment.id
        if not frozen_in(files).is_dir():
            return False
        clear(files)
        if (name := environment.hypervisor) not in self._machines:
            log.warning("paused_without_hypervisor", environment=environment.id, needs=name)
        return True

    def require_disk(self) -> None:
        """Raise DiskFull below the reserve; see `domain.host.EnvironmentHost.require_disk`."""
        self._room.require()

    def listeners(self, visit: Visit) -> LoopbackListeners:
        """Return listeners on 127.0.0.1; see `domain.host.EnvironmentHost.listeners`."""
        return LoopbackListeners(visit)

    def hypervisor_for(self, *, snapshots: bool) -> str:
        """Choose a hypervisor; see `domain.host.EnvironmentHost.hypervisor_for`."""
        return self._machines.for_new(snapshots=snapshots).hypervisor.name

    def can_freeze(self, hypervisor: str = "") -> bool:
        """Whether it can freeze machines; see `domain.host.EnvironmentHost.can_freeze`."""
        return hypervisor in self._machines and can_freeze(self._machines.of(hypervisor).hypervisor)

    async def _newest(
        self, machines: LocalMachines, kind: WarmKind, progress: Progress, owner: str = ""
    ) -> MachineParts:
        with stage("image"):
            image = await self._images.boot_image(kind.image, progress, owner)
        own = machines.parts
        return MachineParts(kind.runtime, image, own.kernel(), own.kit(), kind.resources)

    def _make_directory(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir(parents=True, mode=0o700)
        return directory

    async def discard(self, environment: Environment) -> None:
        """Remove what an earlier server left of it; see `domain.host.EnvironmentHost.discard`."""
        if environment.machine is not None:
            kill_identified(environment.machine)
        await asyncio.to_thread(remove_directory, self._directory / environment.id)

    def sweep(self, known: Iterable[str] = ()) -> None:
        """Delete directories that no record names. Call it at start, when nothing runs yet.

        `known` has the ids of all records, those included that could not be recovered.
        """
        kept = set(known)
        for machines in self._machines.all:
            machines.freezing.sweep()
        if self._directory.is_dir():
            for entry in self._directory.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)

    async def disk_use(self) -> DiskUse:
        """Return the bytes of every environment; see `domain.host.EnvironmentHost.disk_use`."""
        return await asyncio.to_thread(self._disk_use)

    def _disk_use(self) -> DiskUse:
        # Not recursively: a VMM that broke out could have filled its socket's directory.
        found = [*self._directory.iterdir()]
        taken = {files.name: allocated_in(files, frozen_in(files)) for files in found}
        disks = {files.name: allocated_bytes(files / SCRATCH) for files in found}
        return DiskUse(shutil.disk_usage(self._directory).free, taken, disks)

    async def not_ready(self) -> str | None:
        """Return why a create would fail now; see `domain.host.EnvironmentHost.not_ready`."""
        try:
            self.require_disk()
            for machines in self._machines.all:
                machines.parts.kernel()
                machines.parts.kit()
            self._machines.first.launcher.check_ports()
        except WaggleError as error:
            return str(error)
        return await self._images.missing()

    @contextlib.asynccontextmanager
    async def _clear_errors(self) -> AsyncGenerator[None]:
        """Turn errors after the image was found into those of a create."""
        try:
            with self._room.errors():
                yield
        except GuestLost as error:
            raise BootFailed(f"The machine booted, but then: {error.message}") from error
        except OSError as error:
            raise BootFailed(
                f"The machine's files could not be made: {error.strerror or error}.",
                hint=_FOREIGN if isinstance(error, PermissionError) else _FEW_DESCRIPTORS,
            ) from error


def _local(guest: host.Guest) -> LocalGuest:
    if not isinstance(guest, LocalGuest):
        raise BootFailed("It was not booted by this server.")
    return guest


_FEW_DESCRIPTORS = "The server may be out of file descriptors: see 'waggle doctor'."
_FOREIGN = (
    "All files of the server must belong to its user: run 'waggle setup' and 'waggle image build'"
    " as that user, or give it what they made."
)


def is_root() -> bool:
    """Return whether this process is root and can run every VMM as a separate user."""
    return os.geteuid() == 0
