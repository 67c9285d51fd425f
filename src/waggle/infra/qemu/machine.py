# SPDX-License-Identifier: Apache-2.0
"""One QEMU: its process, its console, its agent and its monitor.

Made and booted by `hypervisor`. Owns all of these from its first moment, so that `stop` releases
everything however far the boot got.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine

from qemu.qmp import QMPClient, QMPError

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import GuestLost
from waggle.infra.confined import ConfinedProcess
from waggle.infra.guest.agent import MAX_ANSWER, GuestAgent
from waggle.infra.guest.console import Console
from waggle.infra.qemu.wires import Wires
from waggle.infra.tasks import end, finish

_DRAIN_SECONDS = 2.0
"""How long the last lines may take to arrive once QEMU is dead; a flood is read slowly."""
_LAST_WORDS_SECONDS = 1.0
"""How long a guest that panicked may go on writing; it then ends by itself."""

Follow = Callable[[asyncio.StreamReader], Coroutine[None, None, None]]


class QemuMachine:
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None."""

    def __init__(self, name: str, process: ConfinedProcess, console: Console, wires: Wires) -> None:
        self._process = process
        self._console = console
        self._wires = wires
        self._monitor = QMPClient(name)
        self._agent: GuestAgent | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._turn = asyncio.Lock()
        self._stopped = False

    async def connect(self) -> None:
        """Start to listen on every wire. A QEMU that ends meanwhile is for `until_ready` to see."""
        await self._follow(self._wires.console, self._console.follow)
        await self._follow(self._wires.messages, self._console.follow_messages)
        reader, writer = await asyncio.open_connection(sock=self._wires.agent, limit=MAX_ANSWER)
        self._writers.append(writer)
        self._agent = GuestAgent(reader, writer)
        self._connecting = asyncio.create_task(self._connect_monitor())
        await asyncio.shield(self._connecting)

    async def _connect_monitor(self) -> None:
        """Not to be cancelled, which the QMP library does not survive: it ends with QEMU."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._monitor.connect(self._wires.monitor)

    async def _follow(self, wire: socket.socket, read: Follow) -> None:
        reader, writer = await asyncio.open_connection(sock=wire)
        self._writers.append(writer)
        self._followers.append(asyncio.create_task(read(reader)))

    async def until_ready(self) -> str | None:
        """Wait for the guest; the cause when it panics or ends instead. Safe to cancel."""
        waits = [
            asyncio.ensure_future(wait)
            for wait in (self._console.ready.wait(), self._console.failed.wait(), self.wait())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*waits)
        if self._console.ready.is_set() and self.is_alive:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self.wait()
        return self._console.cause or await self.wait()

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
        return self._console.tail()

    async def wait(self) -> str:
        """Return when QEMU has ended, with the cause."""
        return explain(await self._process.wait(), self._console.cause)

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        if self._agent is None or not self.is_alive:
            raise GuestLost("The machine is dead.")
        return await self._agent.call(command, arguments)

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
            if self._followers:
                await asyncio.wait(self._followers, timeout=_DRAIN_SECONDS)
            await end(*self._followers)
            if self._connecting is not None:
                await asyncio.wait([self._connecting], timeout=_DRAIN_SECONDS)
                await end(self._connecting)
            await _disconnect(self._monitor)
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            self._console.close()
            self._wires.close()


async def _disconnect(monitor: QMPClient) -> None:
    """Close a monitor whose QEMU is gone already."""
    with contextlib.suppress(QMPError, OSError, EOFError):
        await monitor.disconnect()


def explain(status: int, cause: str | None) -> str:
    """Why QEMU ended, in a few words. `cause` is what the guest said on its console, if it did."""
    if cause:
        return cause
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"QEMU was killed by {signal.Signals(-status).name}"
    return "the guest shut down" if status == 0 else f"QEMU ended with status {status}"
