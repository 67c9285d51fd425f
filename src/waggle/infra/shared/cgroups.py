# SPDX-License-Identifier: Apache-2.0
"""The control groups of this server's machines: their place, their limits, their making and end.

Built by the composition root and used by the hypervisors; the preflight checks read `Facts` and
`place`. One group, named after the server's process, holds all groups of a server, so the next
server recognises those of a dead one. `place`, `limit_files`, `mount_of` and `own_of` are pure.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared.confined import identify

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
    """Why machines have no groups, and the remedy."""

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
        return Place(f"{facts.mount}{facts.own}", True, _lacking(facts.own_controllers))
    if facts.may_use_top:
        return Place(facts.mount, False, _lacking(facts.controllers))
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
        files["io.max"] = f"{device} rbps={rate} wbps={rate} riops={operations} wiops={operations}"
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
    found = (line[3:] for line in cgroups.splitlines() if line.startswith("0::"))
    return next(found, "") or "/"


_PROC = Path("/proc")
_PREFIX: Final = "waggle-"


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one server. Use `open`, `enclose` for every machine, and `close` at the end."""

    home: Path
    """The group of all machines, which gives its children the controllers."""
    device: str | None
    io_mib: int

    @classmethod
    def open(cls, place: Place, *, device: str | None = None, io_mib: int = 0) -> Groups:
        """Remove the groups of dead servers, then make this server's.

        Raises OSError when the kernel or the rights do not allow it.
        """
        base = Path(place.base)
        _sweep(base)
        if place.server_moves:
            _move_out(base)
        _pass_on(base)
        own = identify(os.getpid())
        home = base / f"{_PREFIX}{os.getpid()}-{own.started if own else 0}"
        home.mkdir(exist_ok=True)
        try:
            _pass_on(home)
        except OSError:
            home.rmdir()
            raise
        return cls(home, device, io_mib)

    def enclose(self, pid: int, *, memory_mib: int, cpus: int) -> Callable[[], None]:
        """Put a process that just started into its own group.

        Returns a function that removes the group, to be called once the process is dead. Raises
        SetupIncomplete when the process cannot be limited.
        """
        group = self.home / f"machine-{pid}"
        limits = Limits(memory_mib, cpus, self.io_mib)
        try:
            group.mkdir()
            limit(group, limits, self.device)
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            _remove(group)
            raise SetupIncomplete(
                f"The machine cannot be put into a control group: {error.strerror}.",
                hint="'waggle doctor' says which hierarchy is used; restart the server.",
            ) from error
        return lambda: _remove(group)

    def close(self) -> None:
        """Remove the group of all machines, which must be dead. Idempotent."""
        _empty(self.home)


def limit(group: Path, limits: Limits, device: str | None) -> None:
    """Write the limits into a group. Raises OSError for those that are required.

    Without an optional controller its file does not exist, and some disks accept no limits.
    """
    for name, text in limit_files(limits, device).items():
        file = group / name
        try:
            if file.exists():
                file.write_text(text)
        except OSError:
            if name.partition(".")[0] in REQUIRED:
                raise


def _pass_on(group: Path) -> None:
    """Give the controllers to a group's children. Raises OSError for required controllers."""
    for name in WANTED:
        try:
            (group / "cgroup.subtree_control").write_text(f"+{name}")
        except OSError:
            if name in REQUIRED:
                raise


def _move_out(base: Path) -> None:
    """Move all processes to a leaf: no group may have both processes and limited children."""
    leaf = base / "waggle-server"
    leaf.mkdir(exist_ok=True)
    for pid in (base / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)


def _sweep(base: Path) -> None:
    for home in base.glob(f"{_PREFIX}*-*"):
        pid, _, start = home.name.removeprefix(_PREFIX).partition("-")
        if pid.isdecimal() and start.isdecimal():
            owner = identify(int(pid))
            if owner is None or owner.started != int(start):
                _empty(home)


def _empty(home: Path) -> None:
    """Kill all processes in a server's group and its machines' groups, and remove the groups.

    Waits up to 2 s for the end of each: until then its user and its disk are in use.
    """
    for group in (*home.glob("machine-*"), home):
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        looks = 200
        while "populated 1" in _text(group / "cgroup.events") and (looks := looks - 1):
            time.sleep(0.01)
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a group; one that still has a dying process is left to the next sweep."""
    with contextlib.suppress(OSError):
        group.rmdir()


def read_facts(proc: Path = _PROC) -> Facts:
    """Read the facts for this process. Unreadable files count as missing."""
    mount = mount_of(_text(proc / "self/mountinfo"))
    if not mount:
        return Facts()
    own = own_of(_text(proc / "self/cgroup"))
    top, group = Path(mount), Path(f"{mount}{own}")
    return Facts(
        mount=mount,
        own=own,
        controllers=frozenset(_text(top / "cgroup.controllers").split()),
        own_controllers=frozenset(_text(group / "cgroup.controllers").split()),
        is_alone=_is_alone(group, proc),
        may_use_own=_writable(group),
        may_use_top=_writable(top),
    )


def _writable(group: Path) -> bool:
    """Return whether this process may make groups below this one, fill and limit them."""
    files = (group, group / "cgroup.procs", group / "cgroup.subtree_control")
    return all(os.access(file, os.W_OK) for file in files)


def _is_alone(group: Path, proc: Path) -> bool:
    """Return whether every process in the group is this one or a descendant of it."""
    ours = {os.getpid()}
    others = {int(line) for line in _text(group / "cgroup.procs").split()} - ours
    while found := {pid for pid in others if _parent(pid, proc) in ours}:
        ours |= found
        others -= found
    return not others


def _parent(pid: int, proc: Path) -> int:
    fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace")
    return ""
