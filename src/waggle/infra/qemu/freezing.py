# SPDX-License-Identifier: Apache-2.0
"""Freeze a machine and resume copies of it, in words of QEMU's monitor.

QEMU calls it migration: memory and devices are written to one descriptor and read from another.
With `x-ignore-shared` it is the devices alone, while memory stays in the file that it lies in. See
QEMU's docs/devel/migration. Raises QMPError, or BootFailed when QEMU says that it failed.
"""

from __future__ import annotations

import asyncio
from typing import Final

from waggle.domain.errors import BootFailed
from waggle.infra.qemu.monitor import Monitor

_ENDS: Final = ("completed", "failed")
_FAST = 1 << 36
"""Bytes a second; QEMU's own limit is that of a slow network."""


async def send(monitor: Monitor, descriptor: int, *, memory: bool) -> None:
    """Write a stopped machine's devices to a descriptor, and its memory, too, if asked to."""
    await _set(monitor, memory=memory)
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": _FAST})
    monitor.send_fd_scm(descriptor)
    await monitor.execute("getfd", {"fdname": "state"})
    with monitor.hearing("MIGRATION", _ENDS) as heard:
        await monitor.execute("migrate", {"uri": "fd:state"})
        await _completed(heard)


async def receive(monitor: Monitor, descriptor: int, *, memory: bool) -> None:
    """Read what `send` wrote from a descriptor that QEMU inherited; the machine stays stopped.

    QEMU ends when it is not a state of its own.
    """
    await _set(monitor, memory=memory)
    # The guest is not asked to tell its neighbours where it is now: it has none.
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
