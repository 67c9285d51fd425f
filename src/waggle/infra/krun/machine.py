# SPDX-License-Identifier: Apache-2.0
"""Machines on libkrun, and the hypervisor that boots them; implements `domain.machine.Hypervisor`.

Starts one runner process per machine, because libkrun takes over the process that starts a
machine. A machine owns its process, forwarder, console and agent from the start, so `stop` releases
everything however far the boot got.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from waggle.domain.errors import DiskFull, GuestLost, Unsupported
from waggle.domain.machine import (
    GUEST_SSH_PORT,
    Capabilities,
    GuestDisks,
    MachineSpec,
    Resources,
    Written,
)
from waggle.infra.guest.boot import until_booted
from waggle.infra.guest.channel import over
from waggle.infra.guest.console import Console
from waggle.infra.guest.door import Door
from waggle.infra.guest.forwarder import Forwarder
from waggle.infra.guest.link import KERNEL_ARGUMENTS, RENEWAL_PORT, LinkedMachine, explain
from waggle.infra.guest.protocol import PORT
from waggle.infra.guest.protocol.power import Manner
from waggle.infra.guest.renewal import Renewal
from waggle.infra.krun.runner import SAYS, Configuration, encode
from waggle.infra.krun.wires import SOCKET, Inherited, Wires, open_wires
from waggle.infra.shared.confined import ConfinedProcess, filled_pipe, kvm_group, python_argv

_SHUTDOWN_SECONDS = 1.0
"""How long the guest may take to obey; a reboot, its way to end, takes a tenth of that."""
_TERM_SECONDS = 0.5


class KrunMachine(LinkedMachine):
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None."""

    def __init__(self, process: ConfinedProcess, console: Console, wires: Wires) -> None:
        super().__init__(process, console)
        self._wires = wires
        door = Door(wires.directory, SOCKET, process.identity.pid)
        self._forwarder = Forwarder(wires.listener, door.connect)
        self._is_ready = False
        self._paused = False

    async def connect(self) -> None:
        """Start to read every channel."""
        wires = self._wires
        await self._link.connect(wires.console, wires.messages, wires.agent)
        self._renewal = Renewal(over(*await self._link.open(wires.renewal)))

    async def until_ready(self) -> str | None:
        """Wait for the guest; return the cause when it panics or ends instead. Safe to cancel.

        Connections to the forwarded port are accepted from then on: earlier ones would hang in
        libkrun until the guest listens.
        """
        cause = await self._link.until_ready(self.wait)
        if cause is None:
            self._is_ready = True
            self._forwarder.start()
        return cause

    async def wait(self) -> str:
        """Wait until the runner has ended and return the cause."""
        status = await self._process.wait()
        if status > 0:
            await self._link.drain()
        return explain("libkrun", status, self._link.console.cause or self._complaint())

    def _complaint(self) -> str | None:
        """Return the runner's message about a machine that it could not start."""
        for line in reversed(self.console_tail()):
            if line.startswith(SAYS):
                return line.removeprefix(SAYS).rstrip(".")
        return None

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Do nothing: libkrun reports failed writes to the guest, so its machines never stall."""

    async def pause(self) -> None:
        """Stop the whole runner, because libkrun cannot pause. See `Machine.pause`."""
        self._require_alive()
        self._paused = True
        self._process.send_signal(signal.SIGSTOP)

    async def unpause(self) -> None:
        """Resume the runner. See `Machine.unpause`."""
        self._require_alive()
        self._paused = False
        self._process.send_signal(signal.SIGCONT)

    async def _continue(self) -> None:
        await self.unpause()

    async def settle(self) -> None:
        """Do nothing: libkrun's machines are not copied."""

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> NoReturn:
        """Raise Unsupported."""
        raise Unsupported("libkrun cannot freeze machines.")

    async def _shut_down(self) -> None:
        """Give the guest a short time to end, then the runner. A hostile guest costs that time."""
        if not self._is_ready or self._stopped or self._paused:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                with contextlib.suppress(GuestLost):
                    await self.agent.reboot(Manner.FORCED)
                await self._process.wait()
        if not self.is_alive:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TERM_SECONDS):
                await self._process.wait()

    async def _release(self) -> None:
        await self._forwarder.close()
        await self._link.close()
        self._wires.close()


COMMAND_LINE = f"{KERNEL_ARGUMENTS} reboot=k no-kvmapf"
"""libkrun appends only its devices."""
MAX_DESCRIPTORS = 4096
RUNNER = "waggle.infra.krun.runner"


class KrunHypervisor:
    """The hypervisor on libkrun. `library` is its path or name, already found to be usable.

    `enclose` limits the resources of the VMM with a given number; see `infra.shared.confined`.
    """

    name = "krun"
    capabilities = Capabilities(freezes=False, stops_when_full=False)

    def __init__(
        self,
        library: str,
        *,
        enclose: Callable[[Resources, int], Callable[[], None]] | None = None,
    ) -> None:
        self._library = library
        self._enclose = enclose

    async def boot(self, spec: MachineSpec) -> KrunMachine:
        """Boot a machine; see `domain.machine.Hypervisor.boot`. Raises BootFailed or PortTaken."""
        machine = self._start(spec)
        await until_booted(machine, spec.boot_timeout)
        return machine

    def _start(self, spec: MachineSpec) -> KrunMachine:
        """Open everything, start the runner, and close what only the runner needs."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            console = Console(spec.console_log)
            undo.callback(console.close)
            wires, inherited = open_wires(spec, undo, theirs)
            *channels, messages = inherited
            configuration = self._configuration(spec, wires, inherited)
            process = ConfinedProcess.start(
                python_argv(RUNNER),
                descriptors=(*channels, wires.directory),
                stdin=filled_pipe(encode(configuration), theirs),
                stderr=messages,
                max_descriptors=MAX_DESCRIPTORS,
                background=spec.background,
                enclose=self._enclose and partial(self._enclose, spec.resources),
            )
            undo.pop_all()
            return KrunMachine(process, console, wires)

    def _configuration(
        self, spec: MachineSpec, wires: Wires, inherited: Inherited
    ) -> Configuration:
        files = {f"{name}_fd": number for name, number in inherited._asdict().items()}
        del files["messages_fd"]
        return Configuration(
            library=self._library,
            command_line=COMMAND_LINE,
            cpus=spec.resources.cpus,
            memory_mib=spec.resources.memory_mib,
            agent_port=PORT,
            renewal_port=RENEWAL_PORT,
            ssh_port=GUEST_SSH_PORT,
            socket=SOCKET,
            directory=str(wires.path),
            directory_fd=wires.directory,
            uid=-1 if spec.uid is None else spec.uid,
            kvm_gid=kvm_group(),
            parent=os.getpid(),
            **files,
        )
