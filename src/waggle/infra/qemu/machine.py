# SPDX-License-Identifier: Apache-2.0
"""One running QEMU: its process, its console, its agent and its monitor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from qemu.qmp import QMPClient, QMPError

from waggle.domain.environment import MachineIdentity
from waggle.infra.confined import ConfinedProcess
from waggle.infra.guest.agent import GuestAgent
from waggle.infra.guest.console import Console


class QemuMachine:
    """A booted machine; implements `domain.machine.Machine`. Made by `QemuHypervisor.boot`."""

    def __init__(
        self,
        process: ConfinedProcess,
        console: Console,
        agent: GuestAgent,
        monitor: QMPClient,
        closing: contextlib.AsyncExitStack,
    ) -> None:
        self._process = process
        self._console = console
        self._agent = agent
        self._monitor = monitor
        self._closing = closing

    @property
    def identity(self) -> MachineIdentity:
        """The QEMU process."""
        return self._process.identity

    @property
    def is_alive(self) -> bool:
        """False once QEMU has ended."""
        return self._process.is_alive

    def console_tail(self) -> Sequence[str]:
        """The console's last lines."""
        return self._console.tail()

    async def wait(self) -> str:
        """Return when QEMU has ended, with the cause."""
        return explain(await self._process.wait(), self._console)

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        return await self._agent.call(command, arguments)

    async def monitor(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call QEMU's own monitor (QMP). Raises qemu.qmp.QMPError."""
        return await self._monitor.execute(command, arguments)

    async def stop(self) -> None:
        """Kill QEMU and close everything. Nothing in the guest is worth a polite shutdown.

        Idempotent; finishes even when the caller is cancelled.
        """
        await asyncio.shield(self._stop())

    async def _stop(self) -> None:
        await self._process.kill()
        await self._closing.aclose()


async def disconnect(monitor: QMPClient) -> None:
    """Close a monitor whose QEMU may be gone already."""
    with contextlib.suppress(QMPError, OSError, EOFError):
        await monitor.disconnect()


def explain(status: int, console: Console) -> str:
    """Why QEMU ended, in a few words."""
    if console.cause:
        return console.cause
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"QEMU was killed by {signal.Signals(-status).name}"
    return "the guest shut down" if status == 0 else f"QEMU ended with status {status}"
