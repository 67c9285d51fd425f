# SPDX-License-Identifier: Apache-2.0
"""What an attack costs the server: how long the event loop stands still, and memory.

Time is CPU time of this whole process, so a busy machine does not count, and a thread that keeps
the interpreter to itself does.
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
"""Seconds that the loop may stand still."""


@dataclass(slots=True)
class Strain:
    """`stall` is the longest time between two turns of the loop, `grown` the peak of memory."""

    stall: float = 0.0
    grown: int = 0


@contextlib.asynccontextmanager
async def strained() -> AsyncGenerator[Strain]:
    """Measures while the block runs; `grown` is there when it has ended."""
    found = Strain()
    gc.collect()
    gc.freeze()  # the objects of the test-suite are none of the server's
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
    """The peak of this process's memory counts from here."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
