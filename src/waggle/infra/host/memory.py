# SPDX-License-Identifier: Apache-2.0
"""The memory that this server may still take, and whether the warm pool may take more of it.

That of the host, or of the server's control group (v2), or of one above it, if a limit leaves less.
Used by the composition root, the preflight checks, the pool and the freezing of machines. Pure
except for `read_memory`.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Final

from waggle.infra.shared.cgroups import mount_of, own_of

DRAIN_BELOW: Final = 0.10
KEEP_FREE: Final = 0.15
"""Shares of memory that must be available: DRAIN_BELOW always, KEEP_FREE with one more machine."""
STALLED: Final = 5.0
"""Percent of the last ten seconds in which programs waited for memory."""
_PROC = Path("/proc")


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


def parse_group(limit: str, current: str, stat: str) -> Memory | None:
    """Read memory.max, memory.current and memory.stat; None for a group without a limit.

    What the kernel can take from the group's file cache is available. Raises ValueError for any
    other text.
    """
    if limit.strip() == "max":
        return None
    total = int(limit)
    cached = re.search(r"(?m)^inactive_file (\d+)$", stat)
    used = int(current) - (int(cached[1]) if cached else 0)
    return Memory(total, max(0, total - used))


def read_memory(proc: Path = _PROC) -> Memory:
    """Read it now, without pressure where the kernel has none. Raises OSError.

    Pressure is the host's. A group that cannot be read counts as one without a limit.
    """
    try:
        pressure = (proc / "pressure/memory").read_text("utf-8")
    except OSError:  # also EOPNOTSUPP, where it is turned off
        pressure = ""
    host = parse_memory((proc / "meminfo").read_text("utf-8"), pressure)
    least = min((host, *_groups(proc)), key=lambda memory: memory.available)
    return replace(host, total=least.total, available=least.available)


def _groups(proc: Path) -> Generator[Memory]:
    """Yield the memory of the process's group and of those above it that have a limit."""
    mount = mount_of((proc / "self/mountinfo").read_text("utf-8", "replace"))
    if not mount:
        return
    group = Path(mount + own_of((proc / "self/cgroup").read_text("utf-8", "replace")))
    while group.is_relative_to(mount):
        try:
            files = [(group / f"memory.{name}").read_text() for name in ("max", "current", "stat")]
            found = parse_group(*files)
        except (OSError, ValueError):
            found = None
        if found is not None:
            yield found
        group = group.parent


def outlook(memory: Memory, need: int) -> Outlook:
    """Decide, given that one more machine takes up to `need` bytes. Pure."""
    if memory.available < DRAIN_BELOW * memory.total or memory.full >= STALLED:
        return Outlook.DRAIN
    if memory.available - need < KEEP_FREE * memory.total or memory.some >= STALLED:
        return Outlook.HOLD
    return Outlook.FILL
