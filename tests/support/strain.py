# SPDX-License-Identifier: Apache-2.0
"""The cost of an attack to the server: how long the event loop is blocked, and memory.

Time is CPU time of this whole process, so other load on the machine does not count, but a thread
that holds the interpreter does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from waggle.tasks import end

STALL = 0.25
"""Seconds for which the loop may be blocked."""


@dataclass(slots=True)
class Strain:
    """`stall` is the longest time between two turns of the loop, `grown` the peak of memory."""

    stall: float = 0.0
    grown: int = 0


@contextlib.asynccontextmanager
async def strained() -> AsyncGenerator[Strain]:
    """Measure while the block runs; `grown` is set when it has ended."""
    found = Strain()
    gc.collect()
    gc.freeze()  # the test suite's objects are not the server's
    pulse = asyncio.create_task(_beat(found))
    await asyncio.sleep(0)
    forget_peak()
    before = memory("VmRSS")
    try:
        yield found
        await asyncio.sleep(0.02)  # for a last beat
    finally:
        await end(pulse)
        gc.unfreeze()
        found.grown = memory("VmHWM") - before


async def _beat(found: Strain) -> None:
    last = time.process_time()
    while True:
        await asyncio.sleep(0.005)
        now = time.process_time()
        found.stall = max(found.stall, now - last)
        last = now


def forget_peak() -> None:
    """Reset the peak of this process's memory."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """Return bytes of this process: VmRSS is the current memory, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
