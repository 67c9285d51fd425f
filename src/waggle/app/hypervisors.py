# SPDX-License-Identifier: Apache-2.0
"""The hypervisors of this host: which can be used, which are, and the adapters, from `Settings`.

Used by `waggle.app.root`, by `waggle doctor`, and by commands that need machines without a server.
ADAPTERS has one function for every name of `domain.hypervisor`, which looks at the host: nothing
else knows an adapter. What it finds is the state at the time of the call.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from waggle.app.values import data_room
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.errors import SetupIncomplete
from waggle.domain.hypervisor import ByHypervisor, HypervisorName, in_words
from waggle.domain.machine import Hypervisor, Resources
from waggle.infra.cloud_hypervisor.hypervisor import CloudHypervisor
from waggle.infra.firecracker.hypervisor import FirecrackerHypervisor
from waggle.infra.host.hypervisors import (
    Accel,
    Candidate,
    choose_acceleration,
    choose_hypervisors,
    read_kvm_facts,
)
from waggle.infra.krun.machine import KrunHypervisor
from waggle.infra.krun.probe import read_krun_facts
from waggle.infra.qemu.board import FULL, SMALL
from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.rootfs.full_kernel import FullKernel
from waggle.infra.rootfs.kit import GuestKernel, Part
from waggle.infra.vmm.binaries import BinaryStore
from waggle.infra.vmm.hypervisor import VmmHypervisor
from waggle.infra.vmm.version import Vmm
from waggle.service.local.host import is_root

EncloseMachine = Callable[[Resources, int], Callable[[], None]]
"""Limits a process, by its id, to the resources of its machine; see `waggle.infra.shared.cgroups`.

Returns a function that removes the limits once the process is dead.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A hypervisor that may be used here, and how to build it if it can be."""

    candidate: Candidate
    make: Callable[[Accel, EncloseMachine | None], Hypervisor]
    kernel: Part
    """That of its guests, which need not have been made yet."""


def _small_kernel(settings: Settings) -> Part:
    return GuestKernel(Places.of(settings).guest, settings.libkrunfw_path)


def _krun(settings: Settings) -> Found:
    facts = read_krun_facts(settings.libkrun_path)
    can = KrunHypervisor.capabilities
    return Found(
        Candidate(can, needs_kvm=True, problem=facts.problem, mend=facts.mend),
        lambda _accel, enclose: KrunHypervisor(facts.library, enclose=enclose),
        _small_kernel(settings),
    )


def _programs(settings: Settings, vmm: Vmm) -> tuple[BinaryStore, str, str]:
    """Return the store, why its newest program cannot be used, if so, and the remedy.

    Its hypervisor looks for the newest one again for every machine.
    """
    store = BinaryStore(Places.of(settings).binaries)
    try:
        store.newest(vmm)
    except SetupIncomplete as error:
        return store, error.message, error.hint
    return store, "", ""


def _firecracker(settings: Settings) -> Found:
    store, problem, mend = _programs(settings, Vmm.FIRECRACKER)
    can = FirecrackerHypervisor.capabilities
    return Found(
        Candidate(can, needs_kvm=True, problem=problem, mend=mend),
        lambda _accel, enclose: FirecrackerHypervisor(
            store.newest,
            store.find,
            jailed=is_root(),
            enclose=enclose,
            io_mib=settings.vm_disk_mb_per_second,
        ),
        _small_kernel(settings),
    )


def _cloud_hypervisor(settings: Settings) -> Found:
    store, problem, mend = _programs(settings, Vmm.CLOUD_HYPERVISOR)
    can = CloudHypervisor.capabilities
    return Found(
        Candidate(can, needs_kvm=True, problem=problem, mend=mend, only_by_name=True),
        lambda _accel, enclose: CloudHypervisor(
            store.newest, store.find, enclose=enclose, io_mib=settings.vm_disk_mb_per_second
        ),
        FullKernel(Places.of(settings).guest),
    )


def _qemu(settings: Settings) -> Found:
    there = shutil.which(settings.qemu_binary) is not None
    is_full = settings.guest_kernel == "full"
    board = FULL if is_full else SMALL
    return Found(
        Candidate(
            board.capabilities,
            needs_kvm=False,
            problem="" if there else f"there is no QEMU: {settings.qemu_binary} cannot be found.",
            mend="Run 'waggle setup', or name another program with WAGGLE_QEMU_BINARY.",
        ),
        lambda accel, enclose: QemuHypervisor(
            settings.qemu_binary,
            accel,
            board=board,
            older=settings.qemu_older,
            enclose=enclose,
            room=data_room(settings),
        ),
        FullKernel(Places.of(settings).guest) if is_full else _small_kernel(settings),
    )


Adapters = Mapping[HypervisorName, Callable[[Settings], Found]]
ADAPTERS: Adapters = {
    HypervisorName.KRUN: _krun,
    HypervisorName.FIRECRACKER: _firecracker,
    HypervisorName.CLOUD_HYPERVISOR: _cloud_hypervisor,
    HypervisorName.QEMU: _qemu,
}


def candidates(settings: Settings) -> dict[HypervisorName, Candidate]:
    """Return every hypervisor, and whether it can be used here, in the order of `auto`."""
    return {name: ADAPTERS[name](settings).candidate for name in HypervisorName}


def guest_kernels(settings: Settings, adapters: Adapters = ADAPTERS) -> tuple[Path, ...]:
    """Return the kernels of the guests of all hypervisors that are named, or that `auto` may take.

    With what belongs to each. That of QEMU's if there is none.
    """
    found = {name: adapters[name](settings) for name in HypervisorName}
    left_out = {
        n for n, one in found.items() if one.candidate.problem or one.candidate.only_by_name
    }
    names = settings.hypervisor or [n for n in found if n not in left_out] or [HypervisorName.QEMU]
    return tuple(dict.fromkeys(path for name in names for path in found[name].kernel.files))


@dataclass(frozen=True, slots=True)
class Running:
    """One hypervisor of a server. `label` has its acceleration, too; `kernel` is its guests'."""

    hypervisor: Hypervisor
    label: str
    kernel: Part


class Chosen(NamedTuple):
    """The hypervisors of a server, in order, and why they were chosen."""

    running: ByHypervisor[Running]
    reason: str

    @property
    def first(self) -> Hypervisor:
        """The one of new environments."""
        return self.running.first.hypervisor

    @property
    def label(self) -> str:
        """All, for the log."""
        return ", ".join(one.label for one in self.running.all)

    @property
    def abilities(self) -> dict[str, str]:
        """Of every one, what its machines can, in words."""
        return {one.label: in_words(one.hypervisor.capabilities) for one in self.running.all}


def hypervisors(
    settings: Settings,
    enclose: EncloseMachine | None = None,
    adapters: Adapters = ADAPTERS,
) -> Chosen:
    """Choose and build the hypervisors. `enclose` limits the resources of a machine's process.

    Raises SettingsInvalid or SetupIncomplete when a demanded one, or all, cannot be used.
    """
    acceleration = choose_acceleration(settings.accel, read_kvm_facts())
    found = {name: adapters[name](settings) for name in HypervisorName}
    decision = choose_hypervisors(
        settings.hypervisor,
        acceleration,
        {name: one.candidate for name, one in found.items()},
        settings.prefer,
        full_kernel=settings.guest_kernel == "full",
    )
    running: list[Running] = []
    for name in decision.names:
        one = found[name]
        only = "" if one.candidate.needs_kvm else f" ({acceleration.accel})"
        made = one.make(acceleration.accel, enclose)
        running.append(Running(made, f"{name}{only}", one.kernel))
    reason = decision.reason
    if acceleration.reason not in reason:
        reason += f" {acceleration.reason}"
    return Chosen(ByHypervisor(*running), reason)


@asynccontextmanager
async def standing_by(chosen: Chosen) -> AsyncGenerator[None]:
    """Have what starts a machine wait ready, in this block, for those that have such a thing."""
    async with AsyncExitStack() as stack:
        for one in chosen.running.all:
            if isinstance(one.hypervisor, VmmHypervisor):
                await stack.enter_async_context(one.hypervisor.standby.kept())
        yield
