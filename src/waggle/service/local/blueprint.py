# SPDX-License-Identifier: Apache-2.0
"""The parts of one machine on this host, and how it comes up.

Used by `start`, `guest`, the modules of `frozen`, and `waggle template build`; the caller made the
machine's directory and owns the result. `LocalMachines` resumes a machine from a frozen one or from
a template, else boots it; the `Launcher` does so on a leased port, and each VMM can run as a
separate user. Knows nothing of SSH connections and clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from waggle.domain.errors import BootFailed, GuestLost, NoPorts, PortTaken
from waggle.domain.image import BootImage
from waggle.domain.machine import (
    CONSOLE,
    IDENTITY,
    RAM,
    SCRATCH,
    GuestDisks,
    Hypervisor,
    Machine,
    MachineSpec,
    Resources,
)
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.guest.boot import VmmKilled
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.infra.rootfs.full_kernel import files_of
from waggle.infra.rootfs.machine_disks import CERTIFICATES, RENEWED, pack
from waggle.service.local.renewing import renewed
from waggle.service.local.variables import Blocks
from waggle.tasks import finish, stage

if TYPE_CHECKING:
    from waggle.service.local.frozen import Freezing, FrozenMachine
    from waggle.service.local.frozen.templates import NoTemplates, Templates

_KILLS: Final = 3
"""So many copies of a template, begun one after another, that were killed: too much memory?"""
log = structlog.get_logger(__name__)


class Scratch(Protocol):
    """Maker of writable disks."""

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`, in milliseconds. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class GuestParts:
    """The parts of every guest beside its image. `certificates` is PEM or empty.

    `opened` are ranges that are not public and that any guest may use.
    """

    kernel: Callable[[], Path]
    kit: Callable[[], Path]
    scratch: Scratch
    certificates: bytes
    opened: Blocks = ()


@dataclass(frozen=True, slots=True)
class MachineParts:
    """The parts of a machine, without its state: copies of a frozen one need exactly these."""

    runtime: RuntimeName
    image: BootImage
    kernel: Path
    kit: Path
    resources: Resources

    def missing(self) -> str | None:
        """Return the name of a file that is gone and without which it does not start, or None."""
        files = (*files_of(self.kernel), self.kit, self.image.disk)
        return next((path.name for path in files if not path.exists()), None)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A machine before it starts: its parts, its identity, and the directory for its files.

    `owner` is the environment's owner; None if it has none yet.
    """

    parts: MachineParts
    identity: Mapping[str, bytes]
    files: Path
    owner: str | None = None
    has_own_certificates: bool = False  # a copy is given these at its renewal

    @property
    def disks(self) -> GuestDisks:
        """Its four disks: kit and root disk, and in its directory, scratch and identity disk."""
        own = self.files / SCRATCH, self.files / IDENTITY
        return GuestDisks(self.parts.kit, self.parts.image.disk, *own)

    @property
    def memory(self) -> Path:
        """The memory that it has resumed from and still maps, if there is such a file."""
        return self.files / RAM


PORT_ATTEMPTS = 5
BACKGROUND_PATIENCE = 4
STARTING = max(4, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True, eq=False, slots=True)
class StartedMachine:
    """A machine whose guest is ready. Its holder stops it and then releases its lease.

    `template` is the id of the template it started from.
    """

    blueprint: Blueprint
    machine: Machine
    lease: PortLease
    template: str | None = None

    async def stop(self) -> None:
        """Stop it and release its port. Raises TimedOut if it does not die; it keeps the port."""
        await self.machine.stop()
        self.lease.release()


class Launcher:
    """Starts machines on leased ports, at most STARTING at once: with more, all would be late.

    The user of a VMM is `uid_base` plus its SSH port; None keeps the server's user.
    """

    def __init__(self, ports: PortAllocator, *, boot_timeout: float, uid_base: int | None) -> None:
        """`boot_timeout` is seconds."""
        self._starting = asyncio.Semaphore(STARTING)
        self._ports = ports
        self._boot_timeout = boot_timeout
        self._uid_base = uid_base

    async def launch(
        self,
        blueprint: Blueprint,
        start: Callable[[MachineSpec], Awaitable[Machine]],
        *,
        background: bool = False,
        lease: PortLease | None = None,
    ) -> StartedMachine:
        """Start on a leased port; if another program takes that port meanwhile, on another.

        `lease` is tried first, and this owns it then. In the `background` it yields to others, does
        not count towards STARTING, and has BACKGROUND_PATIENCE times as long.

        The caller stops the machine and, once it is dead, releases the lease. Raises NoPorts, and
        what `start` raises.
        """
        for _ in range(PORT_ATTEMPTS):
            lease = lease or self._ports.lease()
            spec = MachineSpec(
                id=blueprint.files.name,
                resources=blueprint.parts.resources,
                kernel=blueprint.parts.kernel,
                disks=blueprint.disks,
                ssh_port=lease.port,
                console_log=blueprint.files / CONSOLE,
                boot_timeout=self._boot_timeout * (BACKGROUND_PATIENCE if background else 1),
                background=background,
                uid=None if self._uid_base is None else self._uid_base + lease.port,
            )
            try:
                async with contextlib.nullcontext() if background else self._starting:
                    machine = await start(spec)
            except PortTaken:
                lease.release()
                lease = None
                continue
            except BaseException:
                lease.release()
                raise
            return StartedMachine(blueprint, machine, lease)
        raise NoPorts("Other programs keep taking the ports of this range.")

    def check_ports(self) -> None:
        """Raise NoPorts if no port is free."""
        self._ports.lease().release()


class LocalMachines:
    """Brings machines of one hypervisor up: from a template if one fits, else by a boot."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        launcher: Launcher,
        parts: GuestParts,
        freezing: Freezing,
        templates: Templates | NoTemplates,
    ) -> None:
        self.hypervisor = hypervisor
        self.freezing = freezing
        self.launcher = launcher
        self.parts = parts
        self.templates = templates
        self._kills: dict[str, int] = {}

    async def start(
        self, blueprint: Blueprint, frozen: FrozenMachine | None = None, *, background: bool = False
    ) -> StartedMachine:
        """Return a machine whose guest is ready and has its identity; a copy of `frozen` if given.

        In the `background` it yields to others; see `infra.shared.confined.come_forward`.

        The caller stops the machine and, once it is dead, releases the lease. If a template does
        not work, the machine boots. Raises BootFailed, GuestLost, NoPorts, SetupIncomplete,
        Unsupported or OSError.
        """
        if frozen is not None:
            return await self._resume(blueprint, frozen, background)
        if (resumed := await self._from_template(blueprint, background)) is not None:
            return resumed
        booted = await self._boot(blueprint, background)
        self.templates.want(blueprint)
        return booted

    async def _from_template(self, blueprint: Blueprint, background: bool) -> StartedMachine | None:
        async with contextlib.AsyncExitStack() as stack:
            with stage("template"):
                found = await stack.enter_async_context(self.templates.frozen_for(blueprint))
            if found is None:
                return None
            template = found.directory.name
            before = self._kills.get(template, 0)
            try:
                resumed = await self._resume(blueprint, found, background)
                self._kills.pop(template, None)
                return replace(resumed, template=template)
            except (BootFailed, GuestLost) as error:
                log.warning("template_failed", template=template, error=str(error))
                kills = self._kills.get(template, 0)
                if not isinstance(error, VmmKilled) or before == kills == _KILLS - 1:
                    self._kills.pop(template, None)
                    self.templates.reject(template)
                elif before == kills:  # else those that began together count once
                    self._kills[template] = kills + 1
                for disk in (blueprint.disks.scratch, blueprint.disks.identity):
                    disk.unlink(missing_ok=True)
                return None

    async def _resume(
        self, blueprint: Blueprint, frozen: FrozenMachine, background: bool
    ) -> StartedMachine:
        disks = blueprint.disks
        with stage("disks"):
            copying = asyncio.to_thread(frozen.copy_disks, disks.scratch, disks.identity)
            await finish(copying)  # or it would go on in a directory that is being removed
        start = partial(self._renewed, frozen, blueprint)
        return await self.launcher.launch(blueprint, start, background=background)

    async def _boot(self, blueprint: Blueprint, background: bool) -> StartedMachine:
        disks = blueprint.disks
        await self.parts.scratch.make(blueprint.parts.resources.disk_mib, disks.scratch)
        disks.identity.write_bytes(pack(blueprint.identity))
        boot = self.hypervisor.boot
        with stage("boot"):
            return await self.launcher.launch(blueprint, boot, background=background)

    async def boot_again(self, blueprint: Blueprint, lease: PortLease) -> StartedMachine:
        """Boot another machine from the scratch disk of one that has ended; it has its lease.

        Once more if that fails, because the disk has an owner. Raises as `start` does.
        """
        blueprint.disks.identity.write_bytes(pack(blueprint.identity))
        blueprint.memory.unlink(missing_ok=True)
        with stage("boot"):
            try:
                return await self.launcher.launch(blueprint, self.hypervisor.boot, lease=lease)
            except BootFailed as error:
                log.warning("boot_again_failed", machine=blueprint.files.name, error=str(error))
            return await self.launcher.launch(blueprint, self.hypervisor.boot)

    async def _renewed(
        self, frozen: FrozenMachine, blueprint: Blueprint, spec: MachineSpec
    ) -> Machine:
        """Start a copy and give it its own identity. Raises BootFailed or GuestLost."""
        copy = await self.freezing.resume(spec, frozen)
        own = (CERTIFICATES,) if blueprint.has_own_certificates else ()
        return await renewed(copy, {name: blueprint.identity[name] for name in (*RENEWED, *own)})
