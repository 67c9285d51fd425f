# SPDX-License-Identifier: Apache-2.0
"""The resources of a process and its children from /proc: memory, descriptors, sockets, ports.

Counts only those of the given server, so that other programs of the machine do not interfere.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
_LISTENING = "0A"


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process, shared pages included."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the peak of its resident memory."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> int:
    status = (PROC / str(pid) / "status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise ProcessLookupError(pid)
    return int(found.group(1)) * 1024


def own_bytes(pid: int, guest: int) -> int:
    """Return the private memory of a VMM without its guest's.

    The guest's memory is any mapping of at least half of `guest` bytes. Needs the right to trace
    the process.
    """
    smaps = (PROC / str(pid) / "smaps").read_text("ascii", "replace")
    return sum(_private(mapping) for mapping in _mappings(smaps) if mapping["Size"] * 2 < guest)


def private_bytes(pid: int) -> int:
    """Return all private memory of a process: what its end would free. As `own_bytes`."""
    rollup = (PROC / str(pid) / "smaps_rollup").read_text("ascii", "replace")
    return sum(_private(mapping) for mapping in _mappings(rollup))


def guest_bytes(pid: int) -> tuple[int, int]:
    """Return the private memory and proportional share of a copy's guest, mapped from a memfd.

    Needs the right to trace the process.
    """
    smaps = (PROC / str(pid) / "smaps").read_text("ascii", "replace")
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)
    found = [next(_mappings(block)) for block in blocks if "/memfd:ram" in block[:200]]
    return sum(map(_private, found)), sum(mapping["Pss"] for mapping in found)


def _mappings(smaps: str) -> Iterator[dict[str, int]]:
    """Yield the sizes of each mapping, in bytes. Pure."""
    for block in re.split(r"^[0-9a-f]+-[0-9a-f]+ .*\n", smaps, flags=re.MULTILINE)[1:]:
        yield {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+): +(\d+) kB$", block, re.M)}


def _private(mapping: Mapping[str, int]) -> int:
    return mapping["Private_Clean"] + mapping["Private_Dirty"]


def holdings(pid: int, *directories: Path) -> Counter[str]:
    """Count the server's resources by kind; files are those in its `directories`."""
    links = descriptors(pid)
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    counts = Counter(_kind(link) for link in links)
    counts["processes"] = len(descendants(pid)) + len(users_of(directories) - family(pid))
    counts["listening ports"] = sum(1 for inode in _listening() if inode in inodes)
    counts["port locks"] = sum(1 for inode in _abstract() if inode in inodes)
    counts["files"] = sum(1 for top in directories for _ in top.rglob("*"))
    counts["mounts"] = len((PROC / str(pid) / "mounts").read_text().splitlines())
    return counts


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return the changes in counts, positive for growth. Pure."""
    changes = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in {*before, *after}}
    return {kind: change for kind, change in sorted(changes.items()) if change}


def descriptors(pid: int) -> list[str]:
    """Return the targets of a process's open descriptors."""
    links: list[str] = []
    for entry in _entries(PROC / str(pid) / "fd"):
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return links


def descendants(pid: int) -> set[int]:
    """Return children, their children and so on, zombies included."""
    children: dict[int, set[int]] = {}
    for child in _pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = (PROC / str(child) / "stat").read_text("utf-8", "replace")
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, set()).add(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        fresh = children.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return found


def family(pid: int) -> set[int]:
    """Return the process and its descendants."""
    return {pid, *descendants(pid)}


def users_of(directories: tuple[Path, ...]) -> set[int]:
    """Return all processes, orphans too, that have a file of the directories open, even deleted."""
    starts = tuple(f"{directory}/" for directory in directories)
    return {pid for pid in _pids() if any(link.startswith(starts) for link in descriptors(pid))}


def _kind(link: str) -> str:
    if link.startswith("socket:"):
        return "sockets"
    if link.startswith(("pipe:", "anon_inode:", "/dev/")):
        return "other descriptors"
    return "open files"


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _entries(PROC) if entry.name.isdigit())


def _entries(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        return [Path(entry.path) for entry in entries]
    return []


def _listening() -> Iterator[str]:
    """Yield the inodes of listening TCP sockets."""
    for name in ("tcp", "tcp6"):
        for line in (PROC / "net" / name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield fields[9]


def _abstract() -> Iterator[str]:
    """Yield the inodes of abstract Unix sockets that lock a port."""
    for line in (PROC / "net" / "unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[-1].startswith("@waggle-port-"):
            yield fields[6]
