# SPDX-License-Identifier: Apache-2.0
"""Which hypervisor runs the machines, and why. Pure.

Called by the composition root and by the preflight checks, which hand in what was found out about
libkrun and KVM. Knows nothing of how either hypervisor works.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from waggle.domain.errors import SettingsInvalid, SetupIncomplete
from waggle.infra.host.accel import Choice

HypervisorName = Literal["krun", "qemu"]
HypervisorSetting = Literal["auto", "krun", "qemu"]
Preference = Literal["isolation", "speed"]


class HypervisorChoice(NamedTuple):
    """The decision and a sentence for the log and for `waggle doctor`."""

    name: HypervisorName
    reason: str


class Library(NamedTuple):
    """Whether libkrun can be used: `problem` is empty, or `mend` says what helps."""

    problem: str
    mend: str


def choose_hypervisor(
    setting: HypervisorSetting,
    acceleration: Choice,
    library: Library,
    prefer: Preference = "isolation",
) -> HypervisorChoice:
    """Decide. libkrun needs KVM, so emulation always means QEMU; `prefer` is between the two.

    Raises SetupIncomplete when `krun` is demanded and something is missing, SettingsInvalid when
    it contradicts WAGGLE_ACCEL=tcg.
    """
    if setting == "qemu":
        return HypervisorChoice("qemu", "WAGGLE_HYPERVISOR=qemu demands it.")
    if setting == "krun":
        _require(acceleration, library)
        return HypervisorChoice("krun", "WAGGLE_HYPERVISOR=krun demands it.")
    if acceleration.accel != "kvm":
        return HypervisorChoice("qemu", f"krun needs KVM. {acceleration.reason}")
    if library.problem:
        return HypervisorChoice("qemu", f"krun cannot be used: {library.problem}")
    if prefer == "speed":
        return HypervisorChoice("qemu", "WAGGLE_PREFER=speed: only its machines can be frozen.")
    return HypervisorChoice("krun", f"libkrun is there. {acceleration.reason}")


def _require(acceleration: Choice, library: Library) -> None:
    if library.problem:
        raise SetupIncomplete(f"WAGGLE_HYPERVISOR=krun, but {library.problem}", hint=library.mend)
    if acceleration.accel == "kvm":
        return
    if "WAGGLE_ACCEL=tcg" in acceleration.reason:
        raise SettingsInvalid(
            "WAGGLE_HYPERVISOR=krun needs KVM, and WAGGLE_ACCEL=tcg forbids it.",
            hint="Unset one of them.",
        )
    raise SetupIncomplete(
        f"WAGGLE_HYPERVISOR=krun, but krun needs KVM. {acceleration.reason}",
        hint="Use a machine with hardware virtualisation, or WAGGLE_HYPERVISOR=qemu.",
    )
