# SPDX-License-Identifier: Apache-2.0
"""A fake hypervisor that keeps the contract of `domain.machine` without any virtual machine.

A machine is a sleeping process with a banner on the forwarded port. It checks what would fail in a
real one: the kernel must be KERNEL, the disks must exist, there must be enough memory. With a kit
that begins with `silent` it never gets ready, with `panic` it panics, with `exits` it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from waggle.domain.errors import BootFailed, DiskFull, GuestLost, PortTaken, Unsupported
from waggle.domain.guest_agent import (
    GuestFilesystem,
    GuestLoad,
    GuestReport,
    RunsPrograms,
)
from waggle.domain.machine import (
    READY_LINE,
    Capabilities,
    GuestDisks,
    MachineSpec,
    VmmProcess,
    Written,
)
from waggle.infra.guest.console import Console
from waggle.infra.shared.confined import ConfinedProcess
from waggle.tasks import finish

_LEAST_MEMORY_MIB = 64
KERNEL = b"\x7fELF, the whole of it"
BANNER = b"SSH-2.0-pretend\r\n"


class FakeHypervisor:
    """Boots in milliseconds. `booted` lists every machine that got ready."""

    name = "fake"
    capabilities = Capabilities(freezes=False, stops_when_full=False)

    def __init__(self) -> None:
        self.booted: list[FakeMachine] = []

    async def boot(self, spec: MachineSpec) -> FakeMachine:
        console = Console(spec.console_log)
        machine = FakeMachine(console)
        try:
            _require(spec)
            await machine.start(spec.ssh_port)
            async with asyncio.timeout(spec.boot_timeout):
                await _pretend_to_boot(spec, console)
        except BaseException as error:
            await machine.stop()
            if isinstance(error, TimeoutError):
                raise BootFailed(f"not ready after {spec.boot_timeout:g} s") from None
            raise
        self.booted.append(machine)
        return machine


LOAD = GuestLoad(256 << 20, 128 << 20, 0.5, 12, 3.25, 0.0)


class FakeAgent:
    """An agent that answers as long as its machine lives and is not paused."""

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine

    async def ping(self, seconds: float | None = None) -> None:
        await self._machine.goes_on()

    async def load(self) -> GuestLoad:
        await self._machine.goes_on()
        return LOAD

    async def clock(self) -> int:
        await self._machine.goes_on()
        return time.time_ns()

    async def report(self) -> GuestReport:
        await self._machine.goes_on()
        return GuestReport(
            system="Pretend 1",
            kernel="6.1",
            hostname="pretend",
            uptime=5.0,
            clock=time.time_ns(),
            load=LOAD,
            filesystems=(GuestFilesystem("/", 64 << 20, 8 << 20),),
            addresses=(),
            users=(RunsPrograms("root", 3),),
        )


class FakeMachine:
    """A machine with a real process, so that it can be killed and waited for like a VMM."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._process: ConfinedProcess | None = None
        self._server: asyncio.Server | None = None
        self._going = asyncio.Event()
        self._going.set()

    async def start(self, port: int) -> None:
        try:
            listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken("The forwarded port was taken in between.") from error
            raise
        # Two steps, since asyncio loses a server whose start is cancelled.
        self._server = await asyncio.start_server(self._greet, sock=listener, start_serving=False)
        await self._server.start_serving()
        self._process = ConfinedProcess.start(
            ["/bin/sleep", "3600"], descriptors=(), stderr=subprocess.DEVNULL
        )

    @property
    def identity(self) -> VmmProcess:
        return self._running().identity

    @property
    def is_alive(self) -> bool:
        return self._running().is_alive

    def console_tail(self) -> list[str]:
        return self._console.tail()

    async def wait(self) -> str:
        status = await self._running().wait()
        return f"the pretend machine was killed by signal {-status}"

    async def was_killed(self, seconds: float = 0.0) -> bool:
        return not self.is_alive

    @property
    def agent(self) -> FakeAgent:
        self._require_alive()
        return FakeAgent(self)

    async def goes_on(self) -> None:
        """Return when it is not paused. Raises GuestLost when it is dead."""
        await self._going.wait()
        self._require_alive()

    async def renew(self, records: Mapping[str, bytes]) -> None:
        self._require_alive()

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Do nothing: it has no disk that could be full."""

    async def pause(self) -> None:
        self._require_alive()
        self._going.clear()

    async def unpause(self) -> None:
        self._require_alive()
        self._going.set()

    async def settle(self) -> None:
        self._require_alive()

    async def freeze(
        self, disks: GuestDisks, into: Path | None = None, written: Written = None
    ) -> NoReturn:
        raise Unsupported("A pretend machine cannot be frozen.")

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise GuestLost("The machine is dead.")

    async def shut_down(self, seconds: float) -> bool:
        if self.is_alive:
            await self._running().kill()
        return True

    async def stop(self) -> None:
        await finish(self._stop())

    async def _stop(self) -> None:
        self._going.set()
        if self._process is not None:
            await self._process.kill()
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                await self._server.wait_closed()
        self._console.close()

    async def _greet(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._going.wait()
        with contextlib.suppress(ConnectionError):
            writer.write(BANNER)
            await writer.drain()
        writer.close()

    def _running(self) -> ConfinedProcess:
        assert self._process is not None, "it was never started"
        return self._process


def _require(spec: MachineSpec) -> None:
    disks = spec.disks
    for path in (spec.kernel, disks.kit, disks.image, disks.scratch, disks.identity):
        if not path.is_file():
            raise BootFailed(f"{path.name} cannot be opened: No such file or directory.")
    if spec.kernel.read_bytes() != KERNEL:
        raise BootFailed("The machine did not boot: no kernel.")
    if spec.resources.memory_mib < _LEAST_MEMORY_MIB:
        raise BootFailed("The machine did not boot: too little memory.")


async def _pretend_to_boot(spec: MachineSpec, console: Console) -> None:
    kind = spec.disks.kit.read_bytes()[:6]
    if kind == b"silent":
        await asyncio.Event().wait()
    if kind == b"exits":
        raise BootFailed("The machine did not boot. Its last lines: contract: giving up")
    if kind == b"panic\n":
        console.feed(b"Kernel panic - not syncing: pretended\n")
        raise BootFailed(f"The machine did not boot: {console.cause}.")
    await asyncio.sleep(0)
    console.feed(READY_LINE + b"\n")
