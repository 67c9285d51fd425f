# SPDX-License-Identifier: Apache-2.0
"""Whether this machine's memory allows machines that nobody has asked for yet. Pure but for reads.

Used by the composition root for the pool of warm machines. Looks at the whole machine, as the
kernel's killer does, not at limits of a control group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

DRAIN_BELOW: Final = 0.10
KEEP_FREE: Final = 0.15
"""Shares of the memory that are to be available: always, and beside one more machine."""
STALLED: Final = 5.0
"""Percent of the last ten seconds in which programs waited for memory."""
_MEMINFO = Path("/proc/meminfo")
_PRESSURE = Path("/proc/pressure/memory")


class Outlook(Enum):
    """What is to become of machines that wait for their use."""

    FILL = auto()
    HOLD = auto()
    DRAIN = auto()


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and the percentages of the last ten seconds in which some, or all, had to wait."""

    total: int
    available: int
    some: float = 0.0
    full: float = 0.0


def parse_memory(meminfo: str, pressure: str = "") -> Memory:
    """Read /proc/meminfo and /proc/pressure/memory, of which the latter may be empty.

    Raises ValueError for what is neither.
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
    """As it is now. Kernels without pressure information say nothing of it. Raises OSError."""
    try:
        pressure = _PRESSURE.read_text("utf-8")
    except OSError:  # also EOPNOTSUPP, where it was turned off
        pressure = ""
    return parse_memory(_MEMINFO.read_text("utf-8"), pressure)


def outlook(memory: Memory, need: int) -> Outlook:
    """What to do when one more machine takes up to `need` bytes."""
    if memory.available < DRAIN_BELOW * memory.total or memory.full >= STALLED:
        return Outlook.DRAIN
    if memory.available - need < KEEP_FREE * memory.total or memory.some >= STALLED:
        return Outlook.HOLD
    return Outlook.FILL
