# SPDX-License-Identifier: Apache-2.0
"""Where the machines' control groups can be, and what limits are written there. Pure.

Used by `facts` and `groups` beside it, and by `waggle doctor`. Touches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REQUIRED: Final = frozenset({"memory", "pids"})
WANTED: Final = ("memory", "pids", "cpu", "io")
MIB: Final = 1 << 20
_OVERHEAD_MIB: Final = 512
"""QEMU's own memory, 256 MiB of translated code at most included."""
_THREADS: Final = 256
"""A QEMU has up to 64 for its disks, one for each processor, and a few more."""
_PERIOD: Final = 100_000
_OPERATIONS: Final = 64
"""Reads or writes of the disk a second, for each MiB a second."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What this system has. `own` is the server's group, below the `mount` point."""

    mount: str = ""
    own: str = "/"
    controllers: frozenset[str] = frozenset()
    own_controllers: frozenset[str] = frozenset()
    is_alone: bool = False
    """Nobody but the server and its children is in its group."""
    may_use_own: bool = False
    may_use_top: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The group below which ours are made; the server then moves out of it into one beside them."""

    base: str
    server_moves: bool
    unlimited: tuple[str, ...] = ()
    """Controllers that are wanted and not there."""


@dataclass(frozen=True, slots=True)
class Nowhere:
    """Why machines have no groups, and what would mend that."""

    problem: str
    mend: str


def place(facts: Facts) -> Place | Nowhere:
    """The server's own group where it was delegated, else the top for a server that is root."""
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
    """Of one machine. `io_mib` is MiB a second each way, 0 for no limit."""

    memory_mib: int
    cpus: int
    io_mib: int = 0


def limit_files(limits: Limits, device: str | None) -> Mapping[str, str]:
    """What to write to which file of a machine's group; `device` is the disk's MAJOR:MINOR.

    A machine has one processor more than its guest, for what the VMM does beside it.
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
    """The mount point of the first cgroup v2 hierarchy in /proc/self/mountinfo, or nothing."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[:1] == ["cgroup2"] and len(fields) > 4:
            return fields[4].encode().decode("unicode_escape").encode("latin-1").decode()
    return ""


def own_of(cgroups: str) -> str:
    """The path of a process in the v2 hierarchy, from /proc/self/cgroup."""
    for line in cgroups.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::") or "/"
    return "/"
