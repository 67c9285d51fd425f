# SPDX-License-Identifier: Apache-2.0
"""The control groups of this server's machines, and the state of cgroup v2 on this host.

Built by the composition root and used by the hypervisors. One group, named after the server's
process, holds all groups of a server, so the next server recognises those of a dead one.
`cgroup_plan` decides where the groups are, from the facts that `read_facts` and `disk_of` read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared.cgroup_plan import (
    REQUIRED,
    WANTED,
    Facts,
    Limits,
    Place,
    limit_files,
    mount_of,
    own_of,
)
from waggle.infra.shared.confined import identify

_PREFIX: Final = "waggle-"
_SERVER: Final = "waggle-server"


class Groups:
    """The groups of one server. Use `open`, `enclose` for every machine, and `close` at the end."""

    def __init__(self, base: Path, home: Path, device: str | None, io_mib: int) -> None:
        """`home` exists and gives its children the controllers."""
        self._base = base
        self._home = home
        self._device = device
        self._io_mib = io_mib

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
        return cls(base, home, device, io_mib)

    def enclose(self, pid: int, *, memory_mib: int, cpus: int) -> Callable[[], None]:
        """Put a process that just started into its own group.

        Returns a function that removes the group, to be called once the process is dead. Raises
        SetupIncomplete when the process cannot be limited.
        """
        group = self._home / f"machine-{pid}"
        limits = Limits(memory_mib, cpus, self._io_mib)
        try:
            group.mkdir()
            limit(group, limits, self._device)
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
        _empty(self._home)


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
    leaf = base / _SERVER
    leaf.mkdir(exist_ok=True)
    for pid in (base / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)


def _sweep(base: Path) -> None:
    for home in base.glob(f"{_PREFIX}*-*"):
        pid, _, start = home.name.removeprefix(_PREFIX).partition("-")
        if not (pid.isdecimal() and start.isdecimal()):
            continue
        owner = identify(int(pid))
        if owner is None or owner.started != int(start):
            _empty(home)


def _empty(home: Path) -> None:
    """Kill all processes in a server's group and its machines' groups, and remove the groups."""
    for group in (*home.glob("machine-*"), home):
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a group; one that still has a dying process is left to the next sweep."""
    with contextlib.suppress(OSError):
        group.rmdir()


_SYSTEM = Path("/proc")
_BLOCK = Path("/sys/dev/block")


def read_facts(proc: Path = _SYSTEM) -> Facts:
    """Read the facts for this process. Unreadable files count as missing."""
    mount = mount_of(_text(proc / "self/mountinfo"))
    if not mount:
        return Facts()
    own = own_of(_text(proc / "self/cgroup"))
    top, group = Path(mount), Path(f"{mount}{own}")
    return Facts(
        mount=mount,
        own=own,
        controllers=_controllers(top),
        own_controllers=_controllers(group),
        is_alone=_is_alone(group, proc),
        may_use_own=_writable(group),
        may_use_top=_writable(top),
    )


def disk_of(path: Path) -> str | None:
    """Return MAJOR:MINOR of the whole disk that holds a file; None without a block device."""
    number = path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    device = _BLOCK / name
    if not device.exists():
        return None
    if (device / "partition").exists():
        return _text(device.resolve().parent / "dev").strip() or None
    return name


def _controllers(group: Path) -> frozenset[str]:
    return frozenset(_text(group / "cgroup.controllers").split())


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
    stat = _text(proc / str(pid) / "stat")
    fields = stat[stat.rfind(")") + 2 :].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
