# SPDX-License-Identifier: Apache-2.0
"""One libkrun machine: its runner process, its forwarder, its console and its agent.

Made and booted by `hypervisor`. Owns all of these from its first moment, so that `stop` releases
everything however far the boot got.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import DiskFull, GuestLost
from waggle.infra.guest.console import Console
from waggle.infra.guest.forwarder import Forwarder
from waggle.infra.guest.link import GuestLink, explain
from waggle.infra.guest.renewal import Renewal
from waggle.infra.krun.door import Door
from waggle.infra.krun.runner import SAYS
from waggle.infra.krun.wires import SOCKET, Wires
from waggle.infra.shared.confined import ConfinedProcess
from waggle.tasks import finish

_ASK_SECONDS = 1.0
"""For the guest to obey; a reboot, its way to end, takes a tenth of that."""
_TERM_SECONDS = 0.5


class KrunMachine:
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None."""

    def __init__(self, process: ConfinedProcess, console: Console, wires: Wires) -> None:
        self._process = process
        self._link = GuestLink(console)
        self._wires = wires
        self._renewal: Renewal | None = None
        door = Door(wires.directory, SOCKET, process.identity.pid)
        self._forwarder = Forwarder(wires.listener, door.connect)
        self._turn = asyncio.Lock()
        self._is_ready = False
        self._paused = False
        self._stopped = False

    async def connect(self) -> None:
        """Start to listen on every wire."""
        wires = self._wires
        await self._link.connect(wires.console, wires.messages, wires.agent)
        self._renewal = Renewal(*await self._link.open(wires.renewal))

    async def until_ready(self) -> str | None:
        """Wait for the guest; the cause when it panics or ends instead. Safe to cancel.

        Connections to the forwarded port are answered from then on: earlier ones would hang in
        libkrun until the guest listens.
        """
        cause = await self._link.until_ready(self.wait)
        if cause is None:
            self._is_ready = True
            self._forwarder.start()
        return cause

    @property
    def identity(self) -> MachineIdentity:
        """The runner."""
        return self._process.identity

    @property
    def is_alive(self) -> bool:
        """False once the runner has ended."""
        return self._process.is_alive

    def console_tail(self) -> list[str]:
        """The console's last lines."""
        return self._link.console.tail()

    async def wait(self) -> str:
        """Return when the runner has ended, with the cause."""
        status = await self._process.wait()
        if status > 0:
            await self._link.drain()
        return explain("libkrun", status, self._link.console.cause or self._complaint())

    def _complaint(self) -> str | None:
        """What the runner said of a machine that it could not start."""
        for line in reversed(self.console_tail()):
            if line.startswith(SAYS):
                return line.removeprefix(SAYS).rstrip(".")
        return None

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        self._require_alive()
        return await self._link.call(command, arguments)

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """Make it another environment; see `domain.machine.Machine.renew`."""
        self._require_alive()
        if self._renewal is None:
            raise GuestLost("The machine is not connected.")
        await self._renewal.renew(records)

    def when_stalled(self, tell: Callable[[DiskFull | None], None]) -> None:
        """It never does: libkrun tells the guest of what the disk refuses."""

    async def pause(self) -> None:
        """Stop the whole runner: libkrun itself knows no pause. See `Machine.pause`."""
        self._require_alive()
        self._paused = True
        self._process.send_signal(signal.SIGSTOP)

    async def unpause(self) -> None:
        """Let it go on. See `Machine.unpause`."""
        self._require_alive()
        self._paused = False
        self._process.send_signal(signal.SIGCONT)

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise GuestLost("The machine is dead.")

    async def stop(self) -> None:
        """Ask the guest to end, then tell the runner, then kill it, and close everything.

        Idempotent; finishes even when the caller is cancelled. Raises TimedOut when the kernel
        does not end the runner; nothing is released then, and a later call tries again.
        """
        await finish(self._stop())

    async def _stop(self) -> None:
        async with self._turn:
            if self._is_ready and not (self._stopped or self._paused):
                await self._ask()
            await self._process.kill()
            if self._stopped:
                return
            self._stopped = True
            await self._forwarder.close()
            await self._link.close()
            self._wires.close()

    async def _ask(self) -> None:
        """Give the guest a moment to obey, then the runner. Hostile guests cost that moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_SECONDS):
                with contextlib.suppress(GuestLost):
                    await self.agent("guest-shutdown", {"mode": "reboot"})
                await self._process.wait()
        if not self.is_alive:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TERM_SECONDS):
                await self._process.wait()
