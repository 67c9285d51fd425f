# SPDX-License-Identifier: Apache-2.0
"""The choice of a hypervisor, and of KVM or emulation (TCG), with reasons; the host's memory.

Called by the composition root and by the preflight checks, which pass in the facts about libkrun.
`outlook` decides for the warm pool whether there is memory for more warm machines: that of the
whole host, as the kernel's OOM killer sees it, not of a control group. Pure except for
`read_kvm_facts` and `read_memory`. Knows nothing of how a hypervisor works or of QEMU's options.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, Literal, NamedTuple

from waggle.domain.errors import SettingsInvalid, SetupIncomplete
from waggle.infra.shared.confined import KVM, may_be_shared

Accel = Literal["kvm", "tcg"]
AccelSetting = Literal["auto", "kvm", "tcg"]

_CPUINFO_BYTES = 256 * 1024
_ONLY_ROOT = "only root may use /dev/kvm, and machines run as other users."
_SHARE = "Run: chgrp kvm /dev/kvm && chmod 660 /dev/kvm."


@dataclass(frozen=True, slots=True)
class KvmFacts:
    """The state of KVM on this host. `error` is why the device does not open; empty if it does.

    `only_root` means that machines of a server run by root could not open the device, because they
    run as other users.
    """

    error: str
    cpu_virtualises: bool
    only_root: bool = False


class Choice(NamedTuple):
    """The decision and a sentence for the log and for `waggle doctor`."""

    accel: Accel
    reason: str


def read_kvm_facts(device: Path = KVM, cpuinfo: Path = Path("/proc/cpuinfo")) -> KvmFacts:
    """Read the device and the CPU flags. Never raises: anything unreadable counts as unusable."""
    error, only_root = "", False
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        only_root = os.geteuid() == 0 and not may_be_shared(device.stat().st_mode)
    except OSError as problem:
        error = problem.strerror or "cannot be opened"
    try:
        with cpuinfo.open("rb") as file:
            text = file.read(_CPUINFO_BYTES).decode("ascii", "replace")
    except OSError:
        text = ""
    return KvmFacts(error, has_virtualisation_flag(text), only_root)


def has_virtualisation_flag(cpuinfo: str) -> bool:
    """Return whether the first CPU of /proc/cpuinfo lists `vmx` (Intel) or `svm` (AMD)."""
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == "flags":
            return not {"vmx", "svm"}.isdisjoint(value.split())
    return False


def choose_acceleration(setting: AccelSetting, facts: KvmFacts) -> Choice:
    """Decide between KVM and emulation.

    A /dev/kvm that opens on a CPU without virtualisation is an emulation in which no stock kernel
    boots, so `auto` does not use it; `kvm` does. Raises SetupIncomplete when `kvm` is demanded and
    machines cannot open the device.
    """
    if setting == "tcg":
        return Choice("tcg", "WAGGLE_ACCEL=tcg demands emulation.")
    if setting == "kvm":
        if facts.error:
            raise SetupIncomplete(
                f"WAGGLE_ACCEL=kvm, but /dev/kvm cannot be used: {facts.error}.",
                hint="Load the kvm module, give this user the device (group kvm), or unset it.",
            )
        if facts.only_root:
            raise SetupIncomplete(f"WAGGLE_ACCEL=kvm, but {_ONLY_ROOT}", hint=_SHARE)
        doubt = "" if facts.cpu_virtualises else ", although the CPU has neither vmx nor svm"
        return Choice("kvm", f"WAGGLE_ACCEL=kvm demands it{doubt}.")
    if facts.error:
        return Choice("tcg", f"/dev/kvm cannot be used: {facts.error}.")
    if not facts.cpu_virtualises:
        return Choice("tcg", "/dev/kvm opens, but the CPU has neither vmx nor svm.")
    if facts.only_root:
        return Choice("tcg", f"{_ONLY_ROOT} {_SHARE}")
    return Choice("kvm", "/dev/kvm opens and the CPU virtualises.")


HypervisorName = Literal["krun", "qemu"]
HypervisorSetting = Literal["auto", "krun", "qemu"]
Preference = Literal["isolation", "speed"]


class HypervisorChoice(NamedTuple):
    """The decision and a sentence for the log and for `waggle doctor`."""

    name: HypervisorName
    reason: str


class Library(NamedTuple):
    """Whether libkrun can be used: `problem` is empty, or `mend` is the remedy."""

    problem: str
    mend: str


def choose_hypervisor(
    setting: HypervisorSetting,
    acceleration: Choice,
    library: Library,
    prefer: Preference = "isolation",
) -> HypervisorChoice:
    """Decide between libkrun and QEMU; `prefer` decides where both are possible.

    libkrun needs KVM, so emulation always means QEMU. Raises SetupIncomplete when `krun` is
    demanded and something is missing, SettingsInvalid when it contradicts WAGGLE_ACCEL=tcg.
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
    return HypervisorChoice("krun", f"libkrun is installed. {acceleration.reason}")


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


DRAIN_BELOW: Final = 0.10
KEEP_FREE: Final = 0.15
"""Shares of memory that must be available: DRAIN_BELOW always, KEEP_FREE with one more machine."""
STALLED: Final = 5.0
"""Percent of the last ten seconds in which programs waited for memory."""
_MEMINFO = Path("/proc/meminfo")
_PRESSURE = Path("/proc/pressure/memory")


class Outlook(Enum):
    """The decision for the warm pool: add machines, keep the number, or end some."""

    FILL = auto()
    HOLD = auto()
    DRAIN = auto()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and the percentages of the last ten seconds in which some or all programs waited."""

    total: int
    available: int
    some: float = 0.0
    full: float = 0.0


def parse_memory(meminfo: str, pressure: str = "") -> Memory:
    """Read /proc/meminfo and /proc/pressure/memory; the latter may be empty.

    Raises ValueError for any other text.
    """
    sizes = {name: int(size) << 10 for name, size in re.findall(r"(?m)^(\w+): +(\d+) kB$", meminfo)}
    shares = {
        name: float(share)
        for name, share in re.findall(r"(?m)^(some|full) avg10=(\d+\.\d+) ", pressure)
    }
    try:
        return Memory(sizes["MemTotal"], sizes["MemAvailable"], **shares)
    except KeyError as error:
        raise ValueError(f"There is no {error.args[0]}.") from None


def read_memory() -> Memory:
    """Read the host's memory now, without pressure where the kernel has none. Raises OSError."""
    try:
        pressure = _PRESSURE.read_text("utf-8")
    except OSError:  # also EOPNOTSUPP, where it is turned off
        pressure = ""
    return parse_memory(_MEMINFO.read_text("utf-8"), pressure)


def outlook(memory: Memory, need: int) -> Outlook:
    """Decide, given that one more machine takes up to `need` bytes. Pure."""
    if memory.available < DRAIN_BELOW * memory.total or memory.full >= STALLED:
        return Outlook.DRAIN
    if memory.available - need < KEEP_FREE * memory.total or memory.some >= STALLED:
        return Outlook.HOLD
    return Outlook.FILL
