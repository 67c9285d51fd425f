# SPDX-License-Identifier: Apache-2.0
"""Boot machines with QEMU's `microvm`; implements `domain.machine.Hypervisor`.

Starts one confined QEMU per machine with everything passed as descriptors, then waits for the
first of: the guest's ready line, the process's end, a panic on the console, the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import anyio
import structlog
from qemu.qmp import QMPClient

from waggle.domain.errors import BootFailed, PortTaken
from waggle.domain.machine import MachineSpec
from waggle.infra.confined import ConfinedProcess
from waggle.infra.guest.agent import MAX_ANSWER, GuestAgent
from waggle.infra.guest.console import Console
from waggle.infra.qemu.argv import Descriptors, qemu_argv
from waggle.infra.qemu.machine import QemuMachine, disconnect, explain

log = structlog.get_logger(__name__)
_TAIL_SHOWN = 12


@dataclass(slots=True)
class _Channels:
    """Our ends of the three sockets, and of the pipe that carries QEMU's own messages."""

    monitor: socket.socket
    console: socket.socket
    agent: socket.socket
    messages: int


class QemuHypervisor:
    """`accelerator` is `kvm` or `tcg`; whether KVM is usable was decided before."""

    name = "qemu"

    def __init__(self, binary: str, accelerator: str) -> None:
        self._binary = binary
        self._accelerator = accelerator

    async def boot(self, spec: MachineSpec) -> QemuMachine:
        """Boot a machine; see `domain.machine.Hypervisor.boot`. Raises BootFailed or PortTaken."""
        stack = contextlib.AsyncExitStack()
        try:
            process, channels = self._start(spec, stack)
            stack.push_async_callback(process.kill)
            console = Console(spec.console_log)
            await self._follow(console, channels, stack)
            monitor = QMPClient(spec.id)
            stack.push_async_callback(disconnect, monitor)
            reader, writer = await asyncio.open_connection(sock=channels.agent, limit=MAX_ANSWER)
            stack.callback(writer.close)
            await self._until_ready(spec, process, console, monitor.connect(channels.monitor))
            return QemuMachine(process, console, GuestAgent(reader, writer), monitor, stack)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stack.aclose()
            raise

    def _start(
        self, spec: MachineSpec, stack: contextlib.AsyncExitStack
    ) -> tuple[ConfinedProcess, _Channels]:
        """Open everything, start QEMU, close what only QEMU needs."""
        with contextlib.ExitStack() as theirs:
            pairs = [socket.socketpair() for _ in range(3)]
            for ours, other in pairs:
                stack.callback(ours.close)
                theirs.callback(other.close)
                ours.setblocking(False)
            read_end, write_end = os.pipe()
            theirs.callback(os.close, write_end)
            disks = spec.disks
            files = [
                _open(path, flags, theirs)
                for path, flags in (
                    (spec.kernel, os.O_RDONLY),
                    (disks.kit, os.O_RDONLY),
                    (disks.image, os.O_RDONLY),
                    (disks.scratch, os.O_RDWR),
                    (disks.identity, os.O_RDONLY),
                )
            ]
            monitor, console, agent = (other.fileno() for _, other in pairs)
            fds = Descriptors(*files, monitor=monitor, console=console, agent=agent)
            argv = qemu_argv(
                self._binary,
                accelerator=self._accelerator,
                resources=spec.resources,
                ssh_port=spec.ssh_port,
                fds=fds,
            )
            try:
                process = ConfinedProcess.start(
                    argv,
                    descriptors=fds.all(),
                    stderr=write_end,
                    uid=spec.uid,
                    groups=self._groups(),
                )
            except BaseException:
                os.close(read_end)
                raise
            (ours_m, _), (ours_c, _), (ours_a, _) = pairs
            return process, _Channels(ours_m, ours_c, ours_a, read_end)

    def _groups(self) -> list[int]:
        """The group that may use /dev/kvm, for a QEMU that is not root."""
        if self._accelerator != "kvm":
            return []
        with contextlib.suppress(OSError):
            device = Path("/dev/kvm").stat()
            if stat.S_IMODE(device.st_mode) & 0o060:
                return [device.st_gid]
        return []

    async def _follow(
        self, console: Console, channels: _Channels, stack: contextlib.AsyncExitStack
    ) -> None:
        """Read the console and QEMU's messages until both end, in tasks that the machine owns."""
        reader, writer = await asyncio.open_connection(sock=channels.console)
        stack.callback(writer.close)
        messages = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(messages), os.fdopen(channels.messages, "rb")
        )
        stack.callback(transport.close)
        for work in (console.follow(reader), _note_messages(messages, console)):
            stack.push_async_callback(_cancel, asyncio.ensure_future(work))

    async def _until_ready(
        self,
        spec: MachineSpec,
        process: ConfinedProcess,
        console: Console,
        connect: Coroutine[object, object, None],
    ) -> None:
        """Wait for the guest; turn every other end into an error that shows the console."""
        ready = asyncio.ensure_future(console.ready.wait())
        failed = asyncio.ensure_future(console.failed.wait())
        ended = asyncio.ensure_future(process.wait())
        connected = asyncio.ensure_future(connect)
        try:
            async with asyncio.timeout(spec.boot_timeout):
                await asyncio.wait({ready, failed, ended}, return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and not ended.done():
                    await connected
                    return
            await self._drained(process, console)
            raise _failure(explain(await process.wait(), console), console)
        except TimeoutError:
            cause = f"the guest was not ready after {spec.boot_timeout:g} s"
            raise _failure(cause, console) from None
        finally:
            for task in (ready, failed, ended, connected):
                await _cancel(task)

    async def _drained(self, process: ConfinedProcess, console: Console) -> None:
        """After a panic QEMU ends by itself; give the last lines a moment to arrive."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await process.wait()
                while not console.tail():
                    await asyncio.sleep(0.01)
        await process.kill()


def _open(path: Path, flags: int, stack: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise BootFailed(f"{path.name} cannot be opened: {error.strerror}.") from error
    stack.callback(os.close, descriptor)
    return descriptor


async def _note_messages(reader: asyncio.StreamReader, console: Console) -> None:
    while line := await reader.readline():
        console.note(line.decode("utf-8", "replace"))


async def _cancel(task: asyncio.Future[object]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _failure(cause: str, console: Console) -> BootFailed:
    lines = console.tail()[-_TAIL_SHOWN:]
    if any("host forwarding rule" in line for line in lines):
        return PortTaken("The forwarded port was taken in between.")
    log.warning("boot_failed", cause=cause, console=lines)
    shown = "\n".join(lines) or "(nothing)"
    return BootFailed(f"The machine did not boot: {cause}. Its console's last lines:\n{shown}\n")
