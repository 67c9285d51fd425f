# SPDX-License-Identifier: Apache-2.0
"""The host's memory, and whether the warm pool may take more of it.

It is the memory of the whole host, as the kernel's OOM killer sees it, not of a control group. Used
by the composition root, the preflight checks and the pool. Pure except for `read_memory`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

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
