# SPDX-License-Identifier: Apache-2.0
"""A hypervisor's machines without the services: a boot and a restore, each to the agent's answer.

Used by `benchmarks.firecracker_inside`. Copies of one frozen machine are restored in turns with
boots of such a machine. Both find a guard that waits, as machines do that are not started one right
after the other.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks.interleave import interleave
from benchmarks.server import free_port
from waggle.app.hypervisors import hypervisors, standing_by
from waggle.app.values import image_references, image_service
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.host import no_progress
from waggle.domain.machine import (
    FreezingHypervisor,
    FrozenState,
    GuestDisks,
    Machine,
    MachineSpec,
    Resources,
)
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.rootfs.kit import GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks, identity_records, pack
from waggle.infra.ssh import new_keys
from waggle.service.local.host import is_root

BOOT_SECONDS = 120.0
DISK_MIB = 64
REST_SECONDS = 4.0
"""Before each machine: the next guard starts some time after the last was taken."""
_UID_BASE = 1_900_000_000


class Machines:
    """Machines of one hypervisor, with their files below a new directory."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings, self._directory = settings, directory
        self._chosen = hypervisors(settings)
        first = self._chosen.running.first
        self._hypervisor = cast("FreezingHypervisor", first.hypervisor)
        self._kernel = first.kernel
        self._resources = Resources(settings.default_cpus, settings.default_memory_mb, DISK_MIB)
        self._made = 0

    async def measure(self, rounds: int, tick: Callable[[str], None]) -> dict[str, list[float]]:
        """Return the seconds of restores as `ours`, and of boots as `theirs`."""
        self._directory.mkdir(mode=0o711)
        origin = await self._spec()
        machine = await self._hypervisor.boot(origin)
        try:
            await machine.agent.ping()
            await machine.settle()
            frozen = await machine.freeze(origin.disks)
        finally:
            await machine.stop()
        try:
            async with standing_by(self._chosen):
                return await interleave(
                    {"ours": lambda: self._restored(origin, frozen), "theirs": self._booted},
                    rounds=rounds,
                    tick=tick,
                )
        finally:
            frozen.close()

    async def _booted(self) -> float:
        spec = await self._spec()
        return await _answered(partial(self._hypervisor.boot, spec))

    async def _restored(self, origin: MachineSpec, frozen: FrozenState) -> float:
        spec = await self._spec()
        shutil.copy(origin.disks.scratch, spec.disks.scratch)
        return await _answered(partial(self._hypervisor.resume, spec, frozen))

    async def _spec(self) -> MachineSpec:
        """Return a machine with disks of its own."""
        self._made += 1
        home, port = self._directory / str(self._made), free_port()
        home.mkdir(mode=0o700)
        places, keys = Places.of(self._settings), new_keys()
        image = await image_service(self._settings).boot_image(
            image_references(self._settings)[RuntimeName.SHELL], no_progress
        )
        disks = GuestDisks(
            GuestKit(places.guest).require(), image.disk, home / "scratch.img", home / "identity"
        )
        await ScratchDisks(places.disks).make(DISK_MIB, disks.scratch)
        disks.identity.write_bytes(
            pack(
                identity_records(
                    host_key=keys.host_key,
                    authorized_keys=keys.authorized_keys,
                    hostname="bench",
                    environment={},
                )
            )
        )
        return MachineSpec(
            id=f"bench-{self._made}",
            resources=self._resources,
            kernel=self._kernel.require(),
            disks=disks,
            ssh_port=port,
            console_log=home / "console.log",
            boot_timeout=BOOT_SECONDS,
            uid=_UID_BASE + port if is_root() else None,
        )


async def _answered(start: Callable[[], Awaitable[Machine]]) -> float:
    """Start a machine; return the seconds until its agent has answered. It ends then."""
    await asyncio.sleep(REST_SECONDS)
    began = time.perf_counter()
    machine = await start()
    try:
        await machine.agent.ping()
        return time.perf_counter() - began
    finally:
        await machine.stop()
