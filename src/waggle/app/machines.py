# SPDX-License-Identifier: Apache-2.0
"""What machines on this host are made of and started with, built from `Settings`.

Used by the composition root, and by commands that need machines or moments without a server: so
both come to the same keys, ports and users. Closes with the stack that it is given.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import anyio.abc

from waggle.app.values import cache_room, certificates, data_room, limits, warm_up
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.machine import Hypervisor
from waggle.infra.host.kernel import GuestKernel
from waggle.infra.net.ports import PortAllocator
from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.rootfs.kit.build import GuestKit
from waggle.infra.rootfs.machine_disks import ScratchDisks
from waggle.infra.shared.disk_room import DiskRoom
from waggle.infra.store.frozen_files import TemplateStore
from waggle.service.local.blueprint import GuestParts, Launcher
from waggle.service.local.frozen.moments import Moments
from waggle.service.local.frozen.templates import Recipe, Templates
from waggle.service.local.host import is_root

Stack = contextlib.ExitStack | contextlib.AsyncExitStack


@dataclass(frozen=True, slots=True)
class Machinery:
    """`freezing` is the hypervisor, and `moments` are there, where machines can be frozen."""

    parts: GuestParts
    launcher: Launcher
    freezing: QemuHypervisor | None
    moments: Moments | None
    room: DiskRoom


def machinery(settings: Settings, machines: Hypervisor, stack: Stack) -> Machinery:
    """The parts for that hypervisor. Raises SettingsInvalid. Touches nothing on the disk."""
    places = Places.of(settings)
    parts = GuestParts(
        kernel=GuestKernel(places.guest, settings.libkrunfw_path).require,
        kit=GuestKit(places.guest).require,
        scratch=ScratchDisks(places.disks),
        certificates=certificates(settings),
    )
    launcher = Launcher(
        PortAllocator(settings.ssh_port_base, settings.ssh_port_max),
        boot_timeout=settings.boot_timeout.total_seconds(),
        uid_base=settings.vm_uid_base if is_root() else None,
    )
    freezing = machines if isinstance(machines, QemuHypervisor) else None
    room = data_room(settings)
    moments = freezing and Moments(freezing, places.moments, places.disks, parts, room)
    if moments is not None:
        stack.callback(moments.loaded.close)
    return Machinery(parts, launcher, freezing, moments, room)


def templates(
    settings: Settings,
    made: Machinery,
    tasks: anyio.abc.TaskGroup | None,
    stack: Stack,
) -> Templates | None:
    """The templates, unless the settings or the hypervisor have every machine boot.

    Without `tasks`, and with WAGGLE_TEMPLATES=built, none is made in the background. What killed
    processes left of templates is removed.
    """
    if settings.templates == "off" or made.freezing is None:
        return None
    usual, parts = limits(settings).resources, made.parts
    recipe = Recipe(
        parts.scratch,
        parts.certificates,
        warm_up(settings),
        usual,
        apart=settings.template_sharing == "owner",
    )
    kept = TemplateStore(Places.of(settings).templates)
    kept.sweep()
    background = tasks if settings.templates == "on" else None
    found = Templates(kept, made.freezing, made.launcher, recipe, background, cache_room(settings))
    stack.callback(found.loaded.close)
    return found
