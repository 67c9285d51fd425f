# SPDX-License-Identifier: Apache-2.0
"""What a process and a file take of this machine, as its kernel counts it.

Used for the processes and disks of machines. One of the modules under `waggle.infra` that its
siblings may share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from waggle.domain.environment import MachineIdentity
from waggle.infra.shared.confined import identify

_BLOCK = 512
"""Bytes in a unit of `st_blocks`, whatever the file system's own block is; see stat(2)."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Processor time since the start, and bytes resident now."""

    cpu_seconds: float
    memory_bytes: int


def process_usage(identity: MachineIdentity) -> ProcessUsage | None:
    """What the process takes; None when it has ended, even if its pid was given out again."""
    try:
        text = Path(f"/proc/{identity.pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if identify(identity.pid) != identity:
        return None
    return parse_stat(text, ticks=os.sysconf("SC_CLK_TCK"), page=os.sysconf("SC_PAGE_SIZE"))


def parse_stat(text: str, *, ticks: int, page: int) -> ProcessUsage:
    """Read a line of /proc/PID/stat, see proc(5). The name in it may hold anything. Pure."""
    fields = text[text.rindex(")") + 2 :].split()
    user, system, resident = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessUsage((user + system) / ticks, resident * page)


def allocated_in(directory: Path) -> int:
    """What the files in a directory take, not those further below; 0 when it is gone."""
    try:
        return sum(allocated_bytes(path) for path in directory.iterdir())
    except FileNotFoundError:
        return 0


def allocated_bytes(path: Path) -> int:
    """What a file takes of its file system, holes left out; 0 when it is gone."""
    try:
        return path.stat(follow_symlinks=False).st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
