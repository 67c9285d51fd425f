# SPDX-License-Identifier: Apache-2.0
"""The parts that boot, freeze, limit and end machines on this host, built from `Settings`.

Used by `waggle.app.root`, and by commands that need machines or frozen machines without a server,
so that both get the same keys, ports and users. `waggle.app.hypervisors` has the hypervisors. A
system where waggle cannot use cgroup v2 does not prevent the start: `waggle doctor` reports it.
Resources close with the given stack. Knows no environments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc
import structlog

from waggle.app.hypervisors import EncloseMachine, Running
from waggle.app.values import (
    cache_room,
    data_room,
    limits,
    spare_contexts,
    warm_kinds,
    warm_up,
)
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.hypervisor import ByHypervisor, can_freeze
from waggle.domain.machine import Hypervisor, Resources
from waggle.infra.host.leftovers import end_leftovers
from waggle.infra.host.memory import outlook, read_memory
from waggle.infra.net.ports import PortAllocator, is_locked
from waggle.infra.rootfs.kit import GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.shared.cgroups import Groups, Nowhere, place, read_facts
from waggle.infra.shared.disk_room import DiskRoom, disk_of
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import GuestParts, Launcher, LocalMachines
from waggle.service.local.frozen import CannotFreeze, Freezer
from waggle.service.local.frozen.manifest import Loaded
from waggle.service.local.frozen.templates import NoTemplates, Recipe, Templates
from waggle.service.local.frozen.turns import Turns
from waggle.service.local.host import is_root
from waggle.service.local.warm_machine import WarmMachine
from waggle.service.local.warm_pool import WarmPool

log = structlog.get_logger(__name__)
Stack = contextlib.ExitStack | contextlib.AsyncExitStack


@dataclass(frozen=True, slots=True)
class Machinery:
    """The parts that run machines with one hypervisor.

    `freezing` freezes them, or is the reason it cannot. `launcher` and `room` are the same for all.
    """

    hypervisor: Hypervisor
    parts: GuestParts
    launcher: Launcher
    freezing: Freezer | CannotFreeze
    room: DiskRoom


def machinery(
    settings: Settings, running: ByHypervisor[Running], authorities: bytes, stack: Stack
) -> ByHypervisor[Machinery]:
    """Build the parts for every hypervisor. Changes nothing on the disk.

    `authorities` is what `certificates` returns.
    """
    places = Places.of(settings)
    launcher = Launcher(
        PortAllocator(settings.ssh_port_base, settings.ssh_port_max),
        boot_timeout=settings.boot_timeout.total_seconds(),
        uid_base=settings.vm_uid_base if is_root() else None,
    )
    room = data_room(settings)
    loaded, turns = Loaded(), Turns()
    stack.callback(loaded.close)

    def made(one: Running) -> Machinery:
        machines = one.hypervisor
        parts = GuestParts(
            kernel=one.kernel.require,
            kit=GuestKit(places.guest).require,
            scratch=ScratchDisks(places.disks),
            certificates=authorities,
            opened=settings.egress_allow_cidrs,
        )
        freezing = CannotFreeze.because(machines.name, others=running.freezing is not None)
        if can_freeze(machines):
            freezing = Freezer(
                machines, places.frozen, places.disks, parts, room, loaded, turns=turns
            )
        return Machinery(machines, parts, launcher, freezing, room)

    return ByHypervisor(*map(made, running.all))


def local_machines(
    settings: Settings,
    made: ByHypervisor[Machinery],
    tasks: anyio.abc.TaskGroup | None,
    stack: Stack,
) -> ByHypervisor[LocalMachines]:
    """Return what starts machines with every hypervisor; templates are those of one of them."""
    kept = templates(settings, made, tasks, stack)
    return ByHypervisor(
        *(
            LocalMachines(
                one.hypervisor,
                one.launcher,
                one.parts,
                one.freezing,
                kept if one is made.freezing else NoTemplates(),
            )
            for one in made.all
        )
    )


def templates(
    settings: Settings,
    made: ByHypervisor[Machinery],
    tasks: anyio.abc.TaskGroup | None,
    stack: Stack,
) -> Templates | NoTemplates:
    """Return the templates, or NoTemplates if the settings or all hypervisors rule them out.

    They are those of the first hypervisor that can freeze: no other gets new environments that
    could start from one. Without `tasks`, and with WAGGLE_TEMPLATES=built, none is made in the
    background. Removes the remains of templates that killed processes left.
    """
    own = made.freezing
    if settings.templates == "off" or own is None or isinstance(own.freezing, CannotFreeze):
        return NoTemplates()
    usual, parts = limits(settings).resources, own.parts
    recipe = Recipe(
        parts.scratch,
        parts.certificates,
        warm_up(settings),
        spare_contexts(settings),
        usual,
        apart=settings.template_sharing == "owner",
    )
    kept = TemplateStore(Places.of(settings).templates)
    kept.sweep()
    background = tasks if settings.templates == "on" else None
    found = Templates(
        kept,
        own.freezing.hypervisor,
        own.launcher,
        recipe,
        background,
        cache_room(settings),
        turns=own.freezing.turns,
    )
    stack.callback(found.loaded.close)
    return found


def warm_pool(settings: Settings, held: Callable[[], int]) -> WarmPool[WarmMachine]:
    """Return a pool that may use the slots that environments leave free.

    `held` returns the number of slots that environments hold. The pool leaves one port for a
    create.
    """
    size = settings.default_memory_mb << 20
    slots = min(settings.max_environments, settings.ssh_port_max - settings.ssh_port_base - 1)
    return WarmPool(
        warm_kinds(settings),
        room=lambda: slots - held(),
        outlook=lambda: outlook(read_memory(), size),
    )


def end_lost_machines(settings: Settings) -> None:
    """End VMMs that a dead server left, before anything is leased: only root can leave such."""
    if is_root():
        ports = range(settings.ssh_port_base, settings.ssh_port_max)
        if killed := end_leftovers(settings.vm_uid_base, ports, is_locked):
            log.warning("lost_machines_ended", processes=killed)


def machine_groups(settings: Settings, stack: contextlib.AsyncExitStack) -> EncloseMachine | None:
    """Make the control groups of machines, which end with the stack.

    Returns None where they cannot be made; `waggle doctor` reports why.
    """
    found = place(read_facts())
    if isinstance(found, Nowhere):
        log.debug("machines_without_cgroups", why=found.problem, mend=found.mend)
        return None
    try:
        groups = Groups.open(
            found, device=disk_of(settings.data_dir), io_mib=settings.vm_disk_mb_per_second
        )
    except OSError as error:
        log.debug("machines_without_cgroups", why=f"{found.base}: {error.strerror}")
        return None
    stack.callback(groups.close)

    def enclose(resources: Resources, pid: int) -> Callable[[], None]:
        return groups.enclose(pid, memory_mib=resources.memory_mib, cpus=resources.cpus)

    return enclose


AT_LEAST: Final = 10.0
"""Seconds for machines to end, however short the grace of calls is."""


async def end_machines(
    end: Callable[[], Awaitable[None]],
    grace: float,
    left: Callable[[], object],
    *,
    at_least: float = AT_LEAST,
) -> None:
    """Call `end`, and give up after `grace` seconds, but not before `at_least` seconds.

    `end` continues if the caller is cancelled. Logs the value of `left()` if there is any then.
    """
    with anyio.move_on_after(max(grace, at_least), shield=True):
        await end()
    if found := left():
        log.error("shutdown_incomplete", left=found)
