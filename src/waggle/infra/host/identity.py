# SPDX-License-Identifier: Apache-2.0
"""Processes recognised by more than a pid, which the kernel gives to another one later.

Called by recovery after a restart of the server, for machines that an earlier one left behind.
Works on any process, child or not. Linux only: it reads /proc and signals through pidfds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import TimedOut

_PROC = Path("/proc")
_START_TIME_FIELD = 22
_STATE_FIELD = 3


def identity(pid: int) -> MachineIdentity | None:
    """Return what tells the process `pid` from any later one of that number; None if it is gone."""
    fields = _stat(pid)
    if fields is None or fields[_STATE_FIELD - 3] in "ZX":
        return None
    return MachineIdentity(pid, int(fields[_START_TIME_FIELD - 3]), _boot_id())


def is_alive(process: MachineIdentity) -> bool:
    """Say whether exactly this process still runs. A zombie does not."""
    return identity(process.pid) == process


def send_signal(process: MachineIdentity, number: signal.Signals) -> bool:
    """Signal exactly this process, never another that got its pid; say whether it was there.

    Raises PermissionError when it belongs to somebody else.
    """
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def end(process: MachineIdentity, *, grace: float = 0.0, timeout: float = 10.0) -> bool:
    """End exactly this process and wait until it is dead; say whether it was there.

    It gets SIGTERM and `grace` seconds (none: no SIGTERM), then SIGKILL. Idempotent. Raises
    TimedOut when the kernel has not ended it after `timeout` seconds, PermissionError.
    """
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        with contextlib.suppress(ProcessLookupError):
            if grace > 0:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                if await _exited(descriptor, grace):
                    return True
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not await _exited(descriptor, timeout):
            raise TimedOut(f"Process {process.pid} did not die within {timeout:g} s of SIGKILL.")
    finally:
        os.close(descriptor)
    return True


def _open(process: MachineIdentity) -> int | None:
    """Open a pidfd. It names one process for good, so the check after it leaves no race."""
    if process.pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except (ProcessLookupError, OverflowError):
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


async def _exited(descriptor: int, timeout: float) -> bool:
    """Wait until the process behind a pidfd is dead, which makes the descriptor readable."""
    loop, dead = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, dead.set)
    try:
        async with asyncio.timeout(timeout):
            await dead.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on; the second may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
