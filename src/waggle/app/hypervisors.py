# SPDX-License-Identifier: Apache-2.0
"""The hypervisor that the settings and this machine call for.

Used by the composition root, which boots machines with it, and by `waggle doctor`, which only
asks. Looks at libkrun and KVM anew each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

from waggle.app.values import data_room
from waggle.config import Settings
from waggle.domain.environment import Resources
from waggle.domain.errors import SetupIncomplete
from waggle.domain.machine import Hypervisor
from waggle.infra.host.hypervisors import (
    Library,
    choose_acceleration,
    choose_hypervisor,
    read_kvm_facts,
)
from waggle.infra.krun.machine import KrunHypervisor
from waggle.infra.krun.probe import read_krun_facts
from waggle.infra.qemu.hypervisor import QemuHypervisor

EncloseMachine = Callable[[Resources, int], Callable[[], None]]
"""For a machine with these resources and the number of its process; see `infra.confined`."""


class Chosen(NamedTuple):
    """A hypervisor, its name with the acceleration, and why it is this one."""

    hypervisor: Hypervisor
    label: str
    reason: str


def hypervisor(settings: Settings, enclose: EncloseMachine | None = None) -> Chosen:
    """`enclose` limits what a machine's process may use.

    Raises SettingsInvalid or SetupIncomplete when what is demanded cannot be had.
    """
    acceleration = choose_acceleration(settings.accel, read_kvm_facts())
    facts = read_krun_facts(settings.libkrun_path)
    choice = choose_hypervisor(
        settings.hypervisor, acceleration, Library(facts.problem, facts.mend), settings.prefer
    )
    if choice.name == "krun":
        return Chosen(KrunHypervisor(facts.library, enclose=enclose), "krun", choice.reason)
    if shutil.which(settings.qemu_binary) is None:
        raise SetupIncomplete(
            f"There is no QEMU: {settings.qemu_binary} cannot be found.",
            hint="Run 'waggle setup', or name another program with WAGGLE_QEMU_BINARY.",
        )
    qemu = QemuHypervisor(
        settings.qemu_binary,
        acceleration.accel,
        older=settings.qemu_older,
        enclose=enclose,
        room=data_room(settings),
    )
    reason = choice.reason
    if acceleration.reason not in reason:
        reason = f"{reason} {acceleration.reason}"
    return Chosen(qemu, f"qemu ({acceleration.accel})", reason)


def library(settings: Settings) -> Library:
    """Whether libkrun can be used here."""
    facts = read_krun_facts(settings.libkrun_path)
    return Library(facts.problem, facts.mend)
