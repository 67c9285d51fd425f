# SPDX-License-Identifier: Apache-2.0
"""Starts machines on leased ports, each as a user of its own.

Used by `local_machines` and `templates`. Knows ports and users, not what is started or why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from waggle.domain.errors import NoPorts, PortTaken
from waggle.domain.machine import GuestDisks, Machine, MachineSpec
from waggle.infra.net.ports import PortAllocator, PortLease
from waggle.service.local.blueprint import Blueprint

PORT_ATTEMPTS = 5
BACKGROUND_PATIENCE = 4
STARTING = max(4, 2 * (os.cpu_count() or 1))
_M_co = TypeVar("_M_co", bound=Machine, covariant=True)


class Launched(NamedTuple, Generic[_M_co]):
    """A machine, its port, and what it was started with."""

    machine: _M_co
    lease: PortLease
    spec: MachineSpec


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
        disks: GuestDisks,
        start: Callable[[MachineSpec], Awaitable[_M_co]],
        *,
        background: bool = False,
    ) -> Launched[_M_co]:
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
                disks=disks,
                ssh_port=lease.port,
                console_log=blueprint.files / "console.log",
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
            return Launched(machine, lease, spec)
        raise NoPorts("Other programs keep taking the ports of this range.")

    def check_ports(self) -> None:
        """Raise NoPorts when no port is free."""
        self._ports.lease().release()
