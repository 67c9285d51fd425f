# SPDX-License-Identifier: Apache-2.0
"""How the machine of one environment comes up: resumed from a template where one fits, else booted.

Used by `local_host`, which made the environment's directory and owns what comes out. Knows nothing
of SSH and clients.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import structlog

from waggle.domain.errors import BootFailed, GuestLost
from waggle.domain.machine import (
    FreezingHypervisor,
    Frozen,
    Hypervisor,
    Machine,
    MachineSpec,
    ResumedMachine,
)
from waggle.domain.template import Template
from waggle.infra.rootfs.identity import RENEWED, pack
from waggle.infra.sparse import clone
from waggle.service.blueprint import Blueprint, Scratch
from waggle.service.launcher import Launched, Launcher
from waggle.service.templates import Templates

log = structlog.get_logger(__name__)


class BroughtUp(NamedTuple):
    """A machine whose guest is ready, its port, and the id of the template that it came from."""

    launched: Launched[Machine]
    template: str | None


class LocalMachines:
    """Brings machines up. `templates` is None where every machine boots."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        launcher: Launcher,
        scratch: Scratch,
        templates: Templates | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._launcher = launcher
        self._scratch = scratch
        self._templates = templates

    async def bring_up(self, blueprint: Blueprint) -> BroughtUp:
        """A machine whose guest is ready and has its identity.

        The caller stops the machine and, once it is dead, releases the lease. A template that does
        not work is given up for a boot. Raises BootFailed, NoPorts, SetupIncomplete or OSError.
        """
        if self._templates is not None and (found := await self._templates.find(blueprint)):
            try:
                resumed = await self._resume(self._templates, blueprint, found)
                return BroughtUp(resumed, found.key.id)
            except (BootFailed, GuestLost) as error:
                log.warning("template_failed", template=found.key.id, error=str(error))
                self._templates.reject(found)
                blueprint.disks.scratch.unlink(missing_ok=True)
        booted = BroughtUp(await self._boot(blueprint), None)
        if self._templates is not None:
            self._templates.want(blueprint)
        return booted

    def check_ports(self) -> None:
        """Raise NoPorts when no machine could have a port now."""
        self._launcher.check_ports()

    async def _boot(self, blueprint: Blueprint) -> Launched[Machine]:
        disks = blueprint.disks
        await self._scratch.make(blueprint.resources.disk_mib, disks.scratch)
        disks.identity.write_bytes(pack(blueprint.identity))
        return await self._launcher.launch(blueprint, disks, self._hypervisor.boot)

    async def _resume(
        self, templates: Templates, blueprint: Blueprint, template: Template
    ) -> Launched[Machine]:
        disks = replace(blueprint.disks, identity=template.identity)
        async with templates.loaded.using(template.directory) as frozen:
            await asyncio.to_thread(clone, template.scratch, disks.scratch)
            start = partial(_renewed, templates.hypervisor, frozen, blueprint)
            return await self._launcher.launch(blueprint, disks, start)


async def _renewed(
    hypervisor: FreezingHypervisor, frozen: Frozen, blueprint: Blueprint, spec: MachineSpec
) -> ResumedMachine:
    """A copy that nobody can take for its twin. Raises BootFailed or GuestLost."""
    machine = await hypervisor.resume(spec, frozen)
    try:
        await machine.renew({name: blueprint.identity[name] for name in RENEWED})
    except BaseException:
        await machine.stop()
        raise
    return machine
