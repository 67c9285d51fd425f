# SPDX-License-Identifier: Apache-2.0
"""The parts of one machine on this host, and the launcher that starts it on a leased port.

Used by `start`, `bring_up`, `guest` and the modules of `frozen`. It knows ports and users, but not
what is started or why. Each VMM can run as a separate user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from waggle.domain.diagnosis import Refused
from waggle.domain.errors import NoPorts, PortTaken
from waggle.domain.image import BootImage
from waggle.domain.machine import (
    CONSOLE,
    IDENTITY,
    SCRATCH,
    GuestDisks,
    Machine,
    MachineSpec,
    Resources,
)
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.guest_request import ConnectHome
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.infra.ssh import ServeTunnel


class Scratch(Protocol):
    """Maker of writable disks."""

    async def make(self, mib: int, target: Path) -> None:
        """Make an empty disk of `mib` MiB at `target`, in milliseconds. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class GuestParts:
    """The parts of every guest beside its image. `certificates` is PEM or empty."""

    kernel: Callable[[], Path]
    kit: Callable[[], Path]
    scratch: Scratch
    certificates: bytes


@dataclass(frozen=True, slots=True)
class MadeOf:
    """The parts of a machine, without its state: copies of a frozen one need exactly these."""

    runtime: RuntimeName
    image: BootImage
    kernel: Path
    kit: Path
    resources: Resources


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A machine before it starts: its parts, its identity, and the directory for its files.

    `owner` is the environment's owner; None if that is not known yet.
    """

    made_of: MadeOf
    identity: Mapping[str, bytes]
    files: Path
    owner: str | None = None

    @property
    def disks(self) -> GuestDisks:
        """Its four disks: kit and root disk, and in its directory, scratch and identity disk."""
        own = self.files / SCRATCH, self.files / IDENTITY
        return GuestDisks(self.made_of.kit, self.made_of.image.disk, *own)


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
    ) -> StartedMachine:
        """Start on a leased port; if another program takes that port meanwhile, on another.

        In the `background` it yields to others, does not count towards STARTING, and has
        BACKGROUND_PATIENCE times as long.

        The caller stops the machine and, once it is dead, releases the lease. Raises NoPorts, and
        what `start` raises.
        """
        for _ in range(PORT_ATTEMPTS):
            lease = self._ports.lease()
            spec = MachineSpec(
                id=blueprint.files.name,
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
            return StartedMachine(blueprint, machine, lease)
        raise NoPorts("Other programs keep taking the ports of this range.")

    def check_ports(self) -> None:
        """Raise NoPorts if no port is free."""
        self._ports.lease().release()


class Proxy(Protocol):
    """The egress proxy of one environment."""

    @property
    def serve(self) -> ServeTunnel:
        """Serve one connection of the guest."""
        ...

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Connect requests of the guest for itself in the guest, with `connect`."""
        ...

    def refused_since(self, moment: float) -> Sequence[Refused]:
        """Return what it refused since that time of the monotonic clock."""
        ...

    async def aclose(self) -> None:
        """End everything that is being served. Idempotent."""
        ...
