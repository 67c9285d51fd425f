# SPDX-License-Identifier: Apache-2.0
"""What one machine on this host is made of. Data only.

Starts machines on leased ports, each as a user of its own.

Used by `local_machines` and `templates`. Knows ports and users, not what is started or why.

What a guest on this machine is given by others: its way out, and who freezes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.diagnosis.evidence import Refused
from waggle.domain.environment import Resources
from waggle.domain.errors import NoPorts, PortTaken
from waggle.domain.image import BootImage
from waggle.domain.machine import CONSOLE, IDENTITY, SCRATCH, GuestDisks, Machine, MachineSpec
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.guest_request import ConnectHome
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.infra.ssh.connection import ServeTunnel


class Scratch(Protocol):
    """Maker of writable disks."""

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`; takes milliseconds. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class GuestParts:
    """What every guest is made of beside its image. `certificates` is PEM or empty."""

    kernel: Callable[[], Path]
    kit: Callable[[], Path]
    scratch: Scratch
    certificates: bytes


@dataclass(frozen=True, slots=True)
class MadeOf:
    """What a machine consists of beside its state: copies of a frozen one need exactly this."""

    runtime: RuntimeName
    image: BootImage
    kernel: Path
    kit: Path
    resources: Resources


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One machine to be: its parts, its identity's records, and the directory for its files.

    `owner` is whose it will be; None if that is not known yet.
    """

    id: str
    made_of: MadeOf
    identity: Mapping[str, bytes]
    files: Path
    owner: str | None = None

    @property
    def disks(self) -> GuestDisks:
        """Its four disks; the last two are in its own directory."""
        own = self.files / SCRATCH, self.files / IDENTITY
        return GuestDisks(self.made_of.kit, self.made_of.image.disk, *own)


PORT_ATTEMPTS = 5
BACKGROUND_PATIENCE = 4
STARTING = max(4, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True, eq=False, slots=True)
class StartedMachine:
    """A machine whose guest is ready. Whoever has it stops it, and then releases its lease.

    `spec` is what its hypervisor was given. `template` is the id of the one that it came from.
    """

    blueprint: Blueprint
    machine: Machine
    lease: PortLease
    spec: MachineSpec
    template: str | None = None

    async def stop(self) -> None:
        """End it and release its port. Raises TimedOut when it does not die; the port stays."""
        await self.machine.stop()
        self.lease.release()


class Launcher:
    """`uid_base` plus the SSH port is the user of each VMM; None keeps the server's user.

    Not more than STARTING start at once: with more than the processors can do, all would be late.
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
    ) -> StartedMachine:
        """Start on a leased port; when something else takes that port in between, on another.

        In the `background` it gives way to others, takes nobody's turn, and has
        BACKGROUND_PATIENCE times as long.

        The caller stops the machine and, once it is dead, releases the lease. Raises NoPorts, and
        what `start` raises.
        """
        for _ in range(PORT_ATTEMPTS):
            lease = self._ports.lease()
            spec = MachineSpec(
                id=blueprint.id,
                resources=blueprint.made_of.resources,
                kernel=blueprint.made_of.kernel,
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
                continue
            except BaseException:
                lease.release()
                raise
            return StartedMachine(blueprint, machine, lease, spec)
        raise NoPorts("Other programs keep taking the ports of this range.")

    def check_ports(self) -> None:
        """Raise NoPorts when no port is free."""
        self._ports.lease().release()


class Proxy(Protocol):
    """An egress proxy of one environment."""

    @property
    def serve(self) -> ServeTunnel:
        """Serve one connection of the guest."""
        ...

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Have requests of the guest for itself connected in the guest."""
        ...

    def refused_since(self, moment: float) -> Sequence[Refused]:
        """What it refused from that moment of the monotonic clock on."""
        ...

    async def aclose(self) -> None:
        """End everything that is being served. Idempotent."""
        ...
