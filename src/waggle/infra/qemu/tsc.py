# SPDX-License-Identifier: Apache-2.0
"""How fast this processor's time stamp counter runs.

An emulated guest reads the host's counter and has nothing to measure it with: no PIT, no HPET, no
kvmclock. Told the frequency, it keeps the host's time; without, it counts timer ticks, and those
come late (5 % were lost in a measurement).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time
from collections.abc import Callable
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_STEADY = {"constant_tsc", "nonstop_tsc"}
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret."""
_SECONDS = 0.02
_LOOKS = 20


@functools.cache
def tsc_khz() -> int | None:
    """Measured once, in 20 ms; None where the counter is not steady or cannot be read."""
    if platform.machine() != "x86_64" or not _is_steady(_CPUINFO.read_text()):
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # memory that is written and run may be forbidden here
        return None
    page.write(_RDTSC)
    code = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
    before, then = _together(read)
    time.sleep(_SECONDS)
    after, now = _together(read)
    return round((after - before) * 1_000_000 / (now - then))


def _is_steady(cpuinfo: str) -> bool:
    first = cpuinfo.partition("\n\n")[0]
    flags = next((line for line in first.splitlines() if line.startswith("flags")), "")
    return set(flags.split()) >= _STEADY


def _together(read: Callable[[], int]) -> tuple[int, int]:
    """The counter and the time in nanoseconds at one moment: the closest of some looks."""
    looks = [(read(), time.monotonic_ns(), read()) for _ in range(_LOOKS)]
    first, now, last = min(looks, key=lambda look: look[2] - look[0])
    return (first + last) // 2, now
