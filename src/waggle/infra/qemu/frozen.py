# SPDX-License-Identifier: Apache-2.0
"""The transfer of a QEMU machine's state by QMP, and its requirements.

`hypervisor` and `machine` use it. QEMU calls the transfer migration: it writes memory and devices
to one descriptor and reads them from another. With `x-ignore-shared` it transfers only the devices,
while memory stays in its file. See QEMU's docs/devel/migration. The state is locked to one QEMU
program and one processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import hashlib
import mmap
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from waggle.domain.errors import BootFailed, SetupIncomplete
from waggle.infra.qemu.monitor import Monitor
from waggle.infra.shared.processor import CPUINFO

_ENDS: Final = ("completed", "failed")
_FAST = 1 << 36
"""Bytes per second; QEMU's default limit is for a slow network."""


async def send(monitor: Monitor, descriptor: int, *, memory: bool, seconds: float) -> None:
    """Write a stopped machine's devices, and with `memory` its memory, to a descriptor.

    Raises QMPError, or BootFailed when QEMU reports a failure, or nothing for so long: one that its
    guest has taken over would hold up those that wait to be frozen.
    """
    try:
        async with asyncio.timeout(seconds):
            await _send(monitor, descriptor, memory=memory)
    except TimeoutError:
        raise BootFailed(f"QEMU did not write the machine's state in {seconds:g} s.") from None


async def _send(monitor: Monitor, descriptor: int, *, memory: bool) -> None:
    await _set(monitor, memory=memory)
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": _FAST})
    monitor.send_fd_scm(descriptor)
    await monitor.execute("getfd", {"fdname": "state"})
    with monitor.hearing("MIGRATION", _ENDS) as heard:
        await monitor.execute("migrate", {"uri": "fd:state"})
        await _completed(heard)


async def receive(monitor: Monitor, descriptor: int, *, memory: bool) -> None:
    """Read the output of `send` from a descriptor that QEMU inherited; keep the machine stopped.

    QEMU ends when the state does not fit it. Raises QMPError, or BootFailed when QEMU reports a
    failure.
    """
    await _set(monitor, memory=memory)
    # The guest need not announce itself to neighbours on its network: it has none.
    await monitor.execute("migrate-set-parameters", {"announce-rounds": 0})
    with monitor.hearing("MIGRATION", _ENDS) as heard:
        await monitor.execute("migrate-incoming", {"uri": f"fd:{descriptor}"})
        await _completed(heard)


async def _set(monitor: Monitor, *, memory: bool) -> None:
    wanted = {"events": True, "x-ignore-shared": not memory}
    states = [{"capability": name, "state": state} for name, state in wanted.items()]
    await monitor.execute("migrate-set-capabilities", {"capabilities": states})


async def _completed(heard: asyncio.Future[str]) -> None:
    if await heard == "failed":
        raise BootFailed("QEMU could not write or read the machine's state.")


def program_digest(name: str) -> str:
    """Return a short digest of the program's bytes. Raises SetupIncomplete without the program."""
    found = shutil.which(name)
    if found is None:
        raise SetupIncomplete(f"There is no QEMU: {name} cannot be found.")
    try:
        path = Path(found).resolve()
        about = path.stat()
        return _digest(path, about.st_ino, about.st_size, about.st_mtime_ns)
    except OSError as error:  # while it is replaced
        why = f"There is no QEMU: {name} cannot be read: {error.strerror}."
        raise SetupIncomplete(why) from error


def program_of(digest: str, names: Iterable[str]) -> str | None:
    """Return the first of these programs that has the digest now; skip those that are missing."""
    for name in names:
        with contextlib.suppress(SetupIncomplete):
            if program_digest(name) == digest:
                return name
    return None


@functools.lru_cache(maxsize=8)
def _digest(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


_STEADY = {"constant_tsc", "nonstop_tsc"}
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret."""
_SECONDS = 0.02
_LOOKS = 20


@functools.cache
def tsc_khz() -> int | None:
    """Measure the processor's time stamp counter once, in 20 ms.

    None where it is not steady or cannot be read. An emulated guest reads the host's counter and
    cannot measure it: no PIT, no HPET, no kvmclock. With the frequency it keeps the host's time;
    without, it counts timer ticks, which come late (5 % were lost in a measurement).
    """
    if platform.machine() != "x86_64" or not _is_steady(CPUINFO.read_text()):
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # writable and executable memory may be forbidden
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
    """Return the counter and the nanoseconds at one instant: the closest of several readings."""
    looks = [(read(), time.monotonic_ns(), read()) for _ in range(_LOOKS)]
    first, now, last = min(looks, key=lambda look: look[2] - look[0])
    return (first + last) // 2, now
