# SPDX-License-Identifier: Apache-2.0
"""The choice of hypervisors, and of KVM or emulation (TCG), with reasons.

Called by the composition root and by the preflight checks, which pass in the facts about every
hypervisor. Pure except for `read_kvm_facts`. Knows nothing of how a hypervisor works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from waggle.domain.errors import SettingsInvalid, SetupIncomplete
from waggle.domain.hypervisor import HypervisorName
from waggle.domain.machine import Capabilities
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


Preference = Literal["isolation", "speed"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hypervisor that may be used. `problem` is why it cannot, if so, and `mend` the remedy.

    One that is used `only_by_name` is not among those that `auto` takes.
    """

    capabilities: Capabilities
    needs_kvm: bool
    problem: str = ""
    mend: str = ""
    only_by_name: bool = False


class Decision(NamedTuple):
    """The hypervisors to use, in order, and the reason for the log and for `waggle doctor`.

    The first runs new environments. `unused` says why not the others.
    """

    names: tuple[HypervisorName, ...]
    reason: str
    unused: Mapping[HypervisorName, str] = {}


def choose_hypervisors(
    wanted: Sequence[HypervisorName],
    acceleration: Choice,
    candidates: Mapping[HypervisorName, Candidate],
    prefer: Preference = "isolation",
    *,
    full_kernel: bool = False,
) -> Decision:
    """Decide which hypervisors to use: the `wanted`, or for none, all that can be used.

    The wanted keep their order. Others have that of `candidates`; with `prefer` speed, those that
    freeze machines come first, and with `full_kernel`, before these, those whose guests have it.
    Raises SetupIncomplete if something is missing for a wanted one, or no other can be used;
    SettingsInvalid when WAGGLE_ACCEL=tcg or WAGGLE_GUEST_KERNEL=full contradicts.
    """
    full = [name for name, one in candidates.items() if full_kernel and one.capabilities.containers]
    if wanted:
        for name in wanted:
            _require(wanted, name, acceleration, candidates[name])
        why = [_with_small_kernel(wanted, full)] if full_kernel and wanted[0] not in full else []
        return Decision((*wanted,), _demanded(wanted, candidates, prefer, why))
    candidates = {name: one for name, one in candidates.items() if not one.only_by_name}
    unused = {
        name: why
        for name, candidate in candidates.items()
        if (why := _problem(name, acceleration, candidate))
    }
    usable = [name for name in candidates if name not in unused]
    if not usable:
        last = [*candidates.values()][-1]
        problem = last.problem or f"No hypervisor can be used. {acceleration.reason}"
        raise SetupIncomplete(problem, hint=last.mend)
    ordered, why = usable, [*unused.values()]
    if prefer == "speed":
        ordered = sorted(usable, key=lambda name: not candidates[name].capabilities.freezes)
        if ordered[0] != usable[0]:
            why.append("WAGGLE_PREFER=speed: first those whose machines can be frozen.")
    if full_kernel:
        if not set(usable) & set(full):
            raise SetupIncomplete(
                f"{_FULL}, but no hypervisor that has it can be used. {' '.join(why)}",
                hint=next((candidates[name].mend for name in full if name in unused), _ADD_FULL),
            )
        before, ordered = ordered[0], sorted(ordered, key=lambda name: name not in full)
        if ordered[0] != before:
            why.append(f"{_FULL}: first those whose guests have it.")
    return Decision((*ordered,), _reason(ordered, acceleration, why), unused)


def _demanded(
    wanted: Sequence[HypervisorName],
    candidates: Mapping[HypervisorName, Candidate],
    prefer: Preference,
    why: Sequence[str],
) -> str:
    """Return the reason for a list; also that a preference does not change its order."""
    them = "it" if len(wanted) == 1 else "them"
    reason = " ".join([f"{_setting(wanted)} demands {them}.", *why])
    if prefer != "speed" or candidates[wanted[0]].capabilities.freezes:
        return reason
    first = next((name for name in wanted if candidates[name].capabilities.freezes), None)
    mend = f"Put {first} first" if first else "Add one whose machines can be"
    return (
        f"{reason} WAGGLE_PREFER=speed changes nothing: {wanted[0]} is named first, and its "
        f"machines cannot be frozen. {mend}, or name none (auto)."
    )


_FULL: Final = "WAGGLE_GUEST_KERNEL=full"
_ADD_FULL: Final = "Add qemu to WAGGLE_HYPERVISOR, as the first, or unset WAGGLE_GUEST_KERNEL."


def _with_small_kernel(wanted: Sequence[HypervisorName], full: Sequence[HypervisorName]) -> str:
    """Say that new environments have it. Raises SettingsInvalid if all have only that."""
    first = next((name for name in wanted if name in full), None)
    if first is None:
        raise SettingsInvalid(
            f"{_setting(wanted)}: guests of {' and '.join(wanted)} have the small kernel only, and "
            f"{_FULL} demands the other.",
            hint=_ADD_FULL,
        )
    return (
        f"{_FULL}, but guests of {wanted[0]} have the small kernel only, and it runs new "
        f"environments: put {first} first."
    )


def _reason(ordered: Sequence[HypervisorName], acceleration: Choice, why: Sequence[str]) -> str:
    sentences = [*why]
    if acceleration.accel == "kvm" or not sentences:
        sentences.append(f"{ordered[0]} can be used.")
    sentences.append(acceleration.reason)
    return " ".join(dict.fromkeys(sentences))


def _problem(name: HypervisorName, acceleration: Choice, candidate: Candidate) -> str:
    """Return why it cannot be used, as a sentence; empty if it can."""
    if candidate.needs_kvm and acceleration.accel != "kvm":
        return f"{name} needs KVM."
    return f"{name} cannot be used: {candidate.problem}" if candidate.problem else ""


def _setting(wanted: Sequence[HypervisorName]) -> str:
    return f"WAGGLE_HYPERVISOR={','.join(wanted)}"


def _require(
    wanted: Sequence[HypervisorName],
    name: HypervisorName,
    acceleration: Choice,
    candidate: Candidate,
) -> None:
    if candidate.problem:
        raise SetupIncomplete(f"{_setting(wanted)}, but {candidate.problem}", hint=candidate.mend)
    if acceleration.accel == "kvm" or not candidate.needs_kvm:
        return
    if "WAGGLE_ACCEL=tcg" in acceleration.reason:
        raise SettingsInvalid(
            f"{_setting(wanted)}: {name} needs KVM, and WAGGLE_ACCEL=tcg forbids it.",
            hint="Unset one of them.",
        )
    raise SetupIncomplete(
        f"{_setting(wanted)}, but {name} needs KVM. {acceleration.reason}",
        hint="Use a machine with hardware virtualisation, or WAGGLE_HYPERVISOR=qemu.",
    )
