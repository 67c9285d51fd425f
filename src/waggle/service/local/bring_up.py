# SPDX-License-Identifier: Apache-2.0
"""How the machine of one environment comes up: resumed from a template where one fits, else booted.

Used by `local_host`, which made the environment's directory and owns what comes out. Knows nothing
of SSH and clients.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

import structlog

from waggle.domain.errors import BootFailed, GuestLost, Unsupported
from waggle.domain.machine import (
    FreezingHypervisor,
    Hypervisor,
    Machine,
    MachineSpec,
)
from waggle.domain.snapshot import Template
from waggle.infra.rootfs.machine_disks import HANG_UP, RENEWED, pack
from waggle.infra.shared.timing import stage
from waggle.service.local.blueprint import Blueprint, Scratch
from waggle.service.local.frozen.moments import Moment
from waggle.service.local.frozen.templates import Templates
from waggle.service.local.launcher import Launched, Launcher

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
        freezing: FreezingHypervisor | None = None,
    ) -> None:
        """`freezing` is the same hypervisor where it can freeze."""
        self._hypervisor = hypervisor
        self._freezing = freezing
        self._launcher = launcher
        self._scratch = scratch
        self._templates = templates

    async def bring_up(
        self, blueprint: Blueprint, moment: Moment | None = None, *, background: bool = False
    ) -> BroughtUp:
        """A machine whose guest is ready and has its identity; from a moment if one is given.

        In the `background` it gives way to others; see `infra.confined.come_forward`.

        The caller stops the machine and, once it is dead, releases the lease. A template that does
        not work is given up for a boot. Raises BootFailed, GuestLost, NoPorts, SetupIncomplete,
        Unsupported or OSError.
        """
        if moment is not None:
            return BroughtUp(await self._go_on(blueprint, moment, background), None)
        if self._templates is not None and (found := await self._find(self._templates, blueprint)):
            try:
                resumed = await self._resume(self._templates, blueprint, found, background)
                return BroughtUp(resumed, found.key.id)
            except (BootFailed, GuestLost) as error:
                log.warning("template_failed", template=found.key.id, error=str(error))
                self._templates.reject(found)
                for disk in (blueprint.disks.scratch, blueprint.disks.identity):
                    disk.unlink(missing_ok=True)
        booted = BroughtUp(await self._boot(blueprint, background), None)
        if self._templates is not None:
            self._templates.want(blueprint)
        return booted

    async def _find(self, templates: Templates, blueprint: Blueprint) -> Template | None:
        with stage("template"):
            return await templates.find(blueprint)

    async def settled(self) -> None:
        """Return once no template is in the making: machines that can wait go on from it."""
        if self._templates is not None:
            await self._templates.idle()

    def check_ports(self) -> None:
        """Raise NoPorts when no machine could have a port now."""
        self._launcher.check_ports()

    async def _go_on(
        self, blueprint: Blueprint, moment: Moment, background: bool
    ) -> Launched[Machine]:
        if self._freezing is None:
            raise Unsupported()
        disks = blueprint.disks
        with stage("disks"):
            await asyncio.to_thread(moment.copy_disks, disks.scratch, disks.identity)
        start = partial(_renewed, self._freezing, moment, blueprint)
        return await self._launcher.launch(blueprint, disks, start, background=background)

    async def _boot(self, blueprint: Blueprint, background: bool) -> Launched[Machine]:
        disks = blueprint.disks
        await self._scratch.make(blueprint.made_of.resources.disk_mib, disks.scratch)
        disks.identity.write_bytes(pack(blueprint.identity))
        boot = self._hypervisor.boot
        with stage("boot"):
            return await self._launcher.launch(blueprint, disks, boot, background=background)

    async def _resume(
        self, templates: Templates, blueprint: Blueprint, template: Template, background: bool
    ) -> Launched[Machine]:
        async with templates.loaded.using(template.directory) as frozen:
            moment = Moment(template.directory, blueprint.made_of, frozen)
            return await self._go_on(blueprint, moment, background)


async def _renewed(
    hypervisor: FreezingHypervisor, moment: Moment, blueprint: Blueprint, spec: MachineSpec
) -> Machine:
    """A copy that nobody can take for its twin. Raises BootFailed or GuestLost."""
    machine = await hypervisor.resume(spec, moment.frozen, alone=moment.alone)
    try:
        with stage("renewal"):
            renewed = {name: blueprint.identity[name] for name in RENEWED}
            await machine.renew({**HANG_UP, **renewed})
    except BaseException:
        await machine.stop()
        raise
    return machine
