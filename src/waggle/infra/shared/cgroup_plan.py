# SPDX-License-Identifier: Apache-2.0
"""The place of the machines' control groups and the limits that are written there. Pure.

Used by `cgroups`, the composition root and the preflight checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REQUIRED: Final = frozenset({"memory", "pids"})
WANTED: Final = ("memory", "pids", "cpu", "io")
MIB: Final = 1 << 20
_OVERHEAD_MIB: Final = 512
"""QEMU's memory besides the guest's, including at most 256 MiB of translated code."""
_THREADS: Final = 256
"""A QEMU has up to 64 for its disks, one for every processor, and a few more."""
_PERIOD: Final = 100_000
_OPERATIONS: Final = 64
"""Disk reads or writes a second for every MiB a second."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of cgroup v2 on this host. `own` is the server's group, below the `mount` point."""

    mount: str = ""
    own: str = "/"
    controllers: frozenset[str] = frozenset()
    own_controllers: frozenset[str] = frozenset()
    is_alone: bool = False
    """Whether the server's group holds only the server and its children."""
    may_use_own: bool = False
    may_use_top: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The group for the machines' groups; `server_moves`: the server moves to one beside them."""

    base: str
    server_moves: bool
    unlimited: tuple[str, ...] = ()
    """Wanted controllers that are missing."""


@dataclass(frozen=True, slots=True)
class Nowhere:
    """The reason why machines have no groups, and the remedy."""

    problem: str
    mend: str


def place(facts: Facts) -> Place | Nowhere:
    """Choose the server's group if it was delegated, else the top one for a server that is root."""
    if not facts.mount:
        return Nowhere(
            "no cgroup v2 hierarchy is mounted",
            "Mount one: mount -t cgroup2 none /sys/fs/cgroup.",
        )
    if missing := sorted(REQUIRED - facts.controllers):
        return Nowhere(
            f"the cgroup v2 hierarchy at {facts.mount} has no {' and no '.join(missing)}",
            "Boot the host with cgroup_no_v1=all or systemd.unified_cgroup_hierarchy=1.",
        )
    delegated = facts.may_use_own and facts.is_alone and facts.own_controllers >= REQUIRED
    if delegated and facts.own != "/":
        base = f"{facts.mount}{facts.own}"
        return Place(base, server_moves=True, unlimited=_lacking(facts.own_controllers))
    if facts.may_use_top:
        return Place(facts.mount, server_moves=False, unlimited=_lacking(facts.controllers))
    return Nowhere(
        f"this user may not make control groups in {facts.mount}{facts.own}",
        "Run the server as root, or as a systemd service with Delegate=yes.",
    )


def _lacking(controllers: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in WANTED if name not in controllers)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one machine. `io_mib` is MiB a second in each direction, 0 for no limit."""

    memory_mib: int
    cpus: int
    io_mib: int = 0


def limit_files(limits: Limits, device: str | None) -> Mapping[str, str]:
    """Return the contents of the files of a machine's group; `device` is the disk's MAJOR:MINOR.

    A machine gets one processor more than its guest, for the work of the VMM itself.
    """
    memory = (limits.memory_mib + _OVERHEAD_MIB) * MIB
    files = {
        "memory.max": str(memory),
        "memory.oom.group": "1",
        "pids.max": str(_THREADS + limits.cpus),
        "cpu.max": f"{(limits.cpus + 1) * _PERIOD} {_PERIOD}",
    }
    if device is not None and limits.io_mib:
        rate, operations = limits.io_mib * MIB, limits.io_mib * _OPERATIONS
        each = f"rbps={rate} wbps={rate} riops={operations} wiops={operations}"
        files["io.max"] = f"{device} {each}"
    return files


def mount_of(mountinfo: str) -> str:
    """Return the mount point of the first cgroup v2 hierarchy in /proc/self/mountinfo, or ""."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[:1] == ["cgroup2"] and len(fields) > 4:
            return fields[4].encode().decode("unicode_escape").encode("latin-1").decode()
    return ""


def own_of(cgroups: str) -> str:
    """Return the path of a process in the v2 hierarchy, from /proc/self/cgroup."""
    for line in cgroups.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::") or "/"
    return "/"
