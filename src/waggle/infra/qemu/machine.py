# SPDX-License-Identifier: Apache-2.0
"""One QEMU: its process, its console, its agent and its monitor.

Made and booted by `hypervisor`. Owns all of these from its first moment, so that `stop` releases
everything however far the boot got.
"""

from __future__ import annotations

import asyncio
import contextlib

from qemu.qmp import QMPClient, QMPError

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import GuestLost
from waggle.infra.confined import ConfinedProcess
from waggle.infra.guest.console import Console
from waggle.infra.guest.link import GuestLink, explain
from waggle.infra.qemu.wires import Wires
from waggle.infra.tasks import end, finish

_LAST_SECONDS = 2.0
"""How long the connection to the monitor of a dead QEMU may take to fail."""


class QemuMachine:
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None."""

    def __init__(self, name: str, process: ConfinedProcess, console: Console, wires: Wires) -> None:
        self._process = process
        self._link = GuestLink(console)
        self._wires = wires
        self._monitor = QMPClient(name)
        self._connecting: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._stopped = False

    async def connect(self) -> None:
        """Start to listen on every wire. A QEMU that ends meanwhile is for `until_ready` to see."""
        wires = self._wires
        await self._link.connect(wires.console, wires.messages, wires.agent)
        self._connecting = asyncio.create_task(self._connect_monitor())
        await asyncio.shield(self._connecting)

    async def _connect_monitor(self) -> None:
        """Not to be cancelled, which the QMP library does not survive: it ends with QEMU."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._monitor.connect(self._wires.monitor)

    async def until_ready(self) -> str | None:
        """Wait for the guest; the cause when it panics or ends instead. Safe to cancel."""
        return await self._link.until_ready(self.wait)

    @property
    def identity(self) -> MachineIdentity:
        """The QEMU process."""
        return self._process.identity

    @property
    def is_alive(self) -> bool:
        """False once QEMU has ended."""
        return self._process.is_alive

    def console_tail(self) -> list[str]:
        """The console's last lines."""
        return self._link.console.tail()

    async def wait(self) -> str:
        """Return when QEMU has ended, with the cause."""
        return explain("QEMU", await self._process.wait(), self._link.console.cause)

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        if not self.is_alive:
            raise GuestLost("The machine is dead.")
        return await self._link.call(command, arguments)

    async def monitor(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call QEMU's own monitor (QMP). Raises qemu.qmp.QMPError."""
        return await self._monitor.execute(command, arguments)

    async def stop(self) -> None:
        """Kill QEMU and close everything. Nothing in the guest is worth a polite shutdown.

        Idempotent; finishes even when the caller is cancelled. Raises TimedOut when the kernel
        does not end QEMU; nothing is released then, and a later call tries again.
        """
        await finish(self._stop())

    async def _stop(self) -> None:
        async with self._turn:
            await self._process.kill()
            if self._stopped:
                return
            self._stopped = True
            if self._connecting is not None:
                await asyncio.wait([self._connecting], timeout=_LAST_SECONDS)
                await end(self._connecting)
            await _disconnect(self._monitor)
            await self._link.close()
            self._wires.close()


async def _disconnect(monitor: QMPClient) -> None:
    """Close a monitor whose QEMU is gone already."""
    with contextlib.suppress(QMPError, OSError, EOFError):
        await monitor.disconnect()
