# SPDX-License-Identifier: Apache-2.0
"""A machine on QEMU: its process, console, agent and monitor.

`hypervisor` boots or resumes it. It owns all of these from the start, so `stop` releases everything
however far the boot got. `stop` kills QEMU without a shutdown, because no guest needs one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from qemu.qmp import EventListener, QMPError

from waggle.domain.errors import BootFailed, DiskFull, GuestLost
from waggle.domain.machine import GuestDisks, MachineSpec, Written
from waggle.infra.guest.boot import until_booted
from waggle.infra.guest.channel import over
from waggle.infra.guest.clock import ClockedMachine
from waggle.infra.guest.console import Console
from waggle.infra.guest.forwarder import Forwarder
from waggle.infra.guest.frozen import FrozenFiles
from waggle.infra.guest.link import explain
from waggle.infra.guest.renewal import Renewal
from waggle.infra.qemu import frozen
from waggle.infra.qemu.argv import Door, Memory, Wires
from waggle.infra.qemu.monitor import EVENT, Monitor, Stalling
from waggle.infra.shared.confined import ConfinedProcess
from waggle.infra.shared.disk_room import DiskRoom
from waggle.tasks import end

_LAST_SECONDS = 2.0
"""How long the connection to the monitor of a dead QEMU may take to fail."""
_ANSWER_SECONDS = 10.0
_BROKEN_SECONDS = 5.0
"""How long it may take to notice that its state is no longer read."""
_SETTLE_SECONDS = 60.0
"""The guest itself gives up after 10, and other machines may be served first."""


class Incoming(NamedTuple):
    """The state that QEMU resumes from: QEMU's descriptor, and whether it includes the memory."""

    descriptor: int
    memory: bool


class QemuMachine(ClockedMachine):
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None."""

    def __init__(
        self,
        spec: MachineSpec,
        process: ConfinedProcess,
        console: Console,
        wires: Wires,
        incoming: Incoming | None = None,
        *,
        vmm: str,
        room: DiskRoom,
        another: Callable[[MachineSpec, Memory, Incoming], QemuMachine],
    ) -> None:
        """Resume from `incoming`, or boot without it. `vmm` identifies the QEMU program.

        When its disk is full, the machine is stopped until there is `room`. `another` starts one
        with the same program.
        """
        super().__init__(process, console)
        self._spec = spec
        self._vmm = vmm
        self._another = another
        self._stalling = Stalling(room, self.unpause)
        self._incoming = incoming
        self._wires = wires
        self._door: Door | None = None
        self._forwarder: Forwarder | None = None
        if wires.door is not None and wires.listener is not None:
            self._door = Door(wires.door, spec.ssh_port)
            self._forwarder = Forwarder(wires.listener, self._door.connect)
        self._monitor = Monitor(spec.id)
        self._monitor.register_listener(EventListener((EVENT,), self._stalling.on_event))
        self._connecting: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Start to read every channel. `until_ready` reports a QEMU that ends meanwhile."""
        wires = self._wires
        await self._link.connect(wires.console, wires.messages, wires.agent)
        self._renewal = Renewal(over(*await self._link.open(wires.renewal)))
        self._connecting = asyncio.create_task(self._connect_monitor())
        await asyncio.shield(self._connecting)

    async def _connect_monitor(self) -> None:
        """Connect; ends with QEMU. Must not be cancelled: the QMP library does not survive that."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._monitor.connect(self._wires.monitor)

    async def until_ready(self) -> str | None:
        """Wait for the guest; return the cause when it panics or ends instead. Safe to cancel.

        Connections to the forwarded port are accepted from then on. Raises DiskFull when the disk
        stops the machine.
        """
        if (incoming := self._incoming) is None:
            cause = await self._unless_stalled(self._link.until_ready(self.wait))
        else:
            cause = await self._unless_ended(
                frozen.receive(self._monitor, incoming.descriptor, memory=incoming.memory)
            )
        if cause is None and self._door and self._forwarder:
            self._door.open()
            self._forwarder.start()
        return cause

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> FrozenFiles:
        """See `domain.machine.Machine.freeze`."""
        copy = FrozenFiles(self._vmm, self._spec.resources.memory_mib)
        try:
            await self._rest()
            async with self._require_renewal().quiet(_ANSWER_SECONDS):
                await self.pause()
                await self._transfer(copy, disks)
            await asyncio.to_thread(copy.compact)
            await asyncio.to_thread(copy.seal)
        except BaseException:
            copy.close()
            raise
        return copy

    async def _transfer(self, copy: FrozenFiles, disks: GuestDisks) -> None:
        """Copy its state through a temporary QEMU, whose memory is a file and which never runs."""
        log = disks.scratch.with_name("console.freeze")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            temporary = self._another(
                replace(self._spec, disks=disks, console_log=log),
                Memory(copy.ram, shared=True),
                Incoming(theirs.fileno(), memory=True),
            )
            sending = asyncio.create_task(self.send(ours.fileno(), memory=True))
            try:
                await until_booted(temporary, self._spec.boot_timeout)
                await sending
                await temporary.send(copy.state, memory=False)
            finally:
                await temporary.stop()
                log.unlink(missing_ok=True)
                theirs.close()
                await asyncio.wait([sending], timeout=_BROKEN_SECONDS)
                await end(sending)

    async def send(self, descriptor: int, *, memory: bool) -> None:
        """Write a paused machine's devices, and with `memory` its memory. Raises BootFailed."""
        seconds = self._spec.boot_timeout
        work = frozen.send(self._monitor, descriptor, memory=memory, seconds=seconds)
        if (cause := await self._unless_ended(work)) is not None:
            raise BootFailed(f"The machine could not be frozen: {cause}.")

    async def pause(self) -> None:
        """Stop its processors; see `domain.machine.Machine.pause`."""
        await self._rest()
        self._stalling.is_paused = True
        await self._command("stop")

    async def start(self) -> None:
        """See `ClockedMachine.start`."""
        self._stalling.is_paused = False
        after_resume = self._stalling.resuming()
        await self._command("cont")
        after_resume()

    async def _command(self, command: str) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._monitor.execute(command)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise GuestLost(f"QEMU did not obey {command!r}.") from error

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """Give a copy of a frozen machine its identity; see `domain.machine.Machine.renew`."""
        try:
            await super().renew(records)
        except GuestLost as error:
            raise self._stalling.error or error from error

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Report writes that the disk refuses; see `domain.machine.Machine.when_stalled`."""
        self._stalling.when_stalled(notify)

    async def settle(self) -> None:
        """Have the guest finish pending work; see `domain.machine.Machine.settle`."""
        await self._require_renewal().renew({"settle": b""}, deadline=_SETTLE_SECONDS)

    async def _unless_stalled(self, work: Coroutine[None, None, str | None]) -> str | None:
        working = asyncio.ensure_future(work)
        stalled = asyncio.ensure_future(self._stalling.until_stalled())
        try:
            await asyncio.wait({working, stalled}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise stalled.result()
            return working.result()
        finally:
            await end(working, stalled)

    async def _unless_ended(self, work: Coroutine[None, None, None]) -> str | None:
        """Do work on the monitor; return why it failed, or why QEMU ended meanwhile."""
        working = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return ended.result()
            if (error := working.exception()) is None:
                return None
            if isinstance(error, QMPError | OSError | EOFError | BootFailed):
                return f"QEMU refused: {error}"
            raise error
        finally:
            await end(working, ended)

    async def wait(self) -> str:
        """Wait until QEMU has ended and return the cause."""
        return explain("QEMU", await self._process.wait(), self._link.console.cause)

    async def _release(self) -> None:
        await self._rest()
        await self._stalling.aclose()
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=_LAST_SECONDS)
            await end(self._connecting)
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._monitor.disconnect()
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._door is not None:
            self._door.close()
        await self._link.close()
        self._wires.close()
