# SPDX-License-Identifier: Apache-2.0
"""Freeze a machine and resume copies of it, in words of QEMU's monitor.

QEMU calls it migration: devices are written to and read from a descriptor, memory stays in the
file that it lies in (`x-ignore-shared`). See QEMU's docs/devel/migration.
"""

from __future__ import annotations

from typing import cast

from qemu.qmp import EventListener, QMPClient, QMPError

from waggle.domain.errors import BootFailed

_CAPABILITIES = {
    "capabilities": [
        {"capability": "x-ignore-shared", "state": True},
        {"capability": "events", "state": True},
    ]
}


async def freeze(monitor: QMPClient, state: int) -> None:
    """Stop the machine for good and write its devices to `state`. Raises QMPError or BootFailed."""
    await monitor.execute("stop")
    await monitor.execute("migrate-set-capabilities", _CAPABILITIES)
    monitor.send_fd_scm(state)
    await monitor.execute("getfd", {"fdname": "state"})
    with monitor.listener(("MIGRATION",)) as events:
        await monitor.execute("migrate", {"uri": "fd:state"})
        await _completed(events)


async def resume(monitor: QMPClient, state: int) -> None:
    """Read the devices from a descriptor that QEMU inherited, and let the machine run.

    Raises QMPError or BootFailed; QEMU ends when the state is not one of its own.
    """
    await monitor.execute("migrate-set-capabilities", _CAPABILITIES)
    with monitor.listener(("MIGRATION",)) as events:
        await monitor.execute("migrate-incoming", {"uri": f"fd:{state}"})
        await _completed(events)
    await monitor.execute("cont")


async def _completed(events: EventListener) -> None:
    async for event in events:
        status = cast("dict[str, object]", event["data"])["status"]
        if status == "completed":
            return
        if status == "failed":
            raise BootFailed("QEMU could not write or read the machine's state.")
    raise QMPError("the monitor is closed")
