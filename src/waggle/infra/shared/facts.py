# SPDX-License-Identifier: Apache-2.0
"""What this system has of cgroup v2, as plain values for `plan`. Only reads."""

from __future__ import annotations

import os
from pathlib import Path

from waggle.infra.shared.cgroup_plan import Facts, mount_of, own_of

_SYSTEM = Path("/proc")
_BLOCK = Path("/sys/dev/block")


def read_facts(proc: Path = _SYSTEM) -> Facts:
    """Look, with this process in mind. What cannot be read is not there."""
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
    """MAJOR:MINOR of the whole disk below a file, None where it has none of its own."""
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
    """What is written to make a group, to fill it and to give its limits."""
    files = (group, group / "cgroup.procs", group / "cgroup.subtree_control")
    return all(os.access(file, os.W_OK) for file in files)


def _is_alone(group: Path, proc: Path) -> bool:
    """Whether every process in there is this one or began with it."""
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
