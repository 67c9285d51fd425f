# SPDX-License-Identifier: Apache-2.0
"""A VMM in this process: its guest's vsock, a process that may end, and the machine on them.

All sockets are real and lie in a directory that stands for the VMM's /run, so the machine under
test finds, checks and reads them as always. Only the program and the guest are missing; the VMM's
calls are those of its adapter's own `pretended`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from tests.support.vmm_server import Call, Reply, VmmServer, listening, serving

from waggle.domain.machine import GuestDisks, MachineSpec, Resources
from waggle.infra.guest.console import Console
from waggle.infra.guest.forwarder import claim
from waggle.infra.guest.frozen import Origin
from waggle.infra.guest.vsock import AGENT_PORT, CONSOLE_PORT, RENEWAL_PORT
from waggle.infra.shared.confined import identify
from waggle.infra.vmm.endpoint import Endpoint
from waggle.infra.vmm.machine import Program, VmmMachine
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.wires import Wires, open_wires

BANNER = b"SSH-2.0-pretended\r\n"
MIB = 2
PAGE = 4096
_HEADER = struct.Struct("<II")


class PretendedProcess:
    """In the place of a GuardedProcess: its identity is this process's."""

    dial = GuardedProcess.dial
    until_listening = GuardedProcess.until_listening

    def __init__(self, directory: Path, messages: socket.socket) -> None:
        """`messages` is where the VMM writes."""
        self.messages = messages
        self.run = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        found = identify(os.getpid())
        assert found is not None
        self.identity = found
        self.known = True
        self.begin: Callable[[], None] = lambda: None
        """Do what the program does by itself, once it may."""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_alive(self) -> bool:
        return not self._ended.done()

    def ends(self, status: int) -> None:
        if self.is_alive:
            self.messages.close()
            self._ended.set_result(status)

    async def until_known(self) -> bool:
        return self.known

    def proceed(self) -> None:
        self.begin()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def kill(self) -> int:
        self.ends(-signal.SIGKILL)
        return await self.wait()

    def close(self) -> None:
        if self.run >= 0:
            os.close(self.run)
        self.run = -1


@dataclass
class Guest:
    """A VMM whose /run is `directory`, and whose guest answers on vsock."""

    directory: Path
    process: PretendedProcess
    asked: list[int] = field(default_factory=list[int])
    """The guest's ports that were dialled."""
    renewed: list[str] = field(default_factory=list[str])
    is_deaf: bool = False
    connections: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    def __call__(self, call: Call) -> Reply:
        """Answer a call of the API."""
        raise NotImplementedError

    def begin(self) -> None:
        """Do what the program does by itself when it starts to boot a machine: nothing."""

    def talk(self) -> None:
        """Have the guest's first process say on its console that it is ready."""
        console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with console, contextlib.suppress(OSError):
            console.connect(f"/proc/self/fd/{self.process.run}/vsock_{CONSOLE_PORT}")
            console.sendall(b"waggle: ready\n")

    async def vsock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the guest behind one connection."""
        port = int((await reader.readline()).split()[1])
        self.asked.append(port)
        if self.is_deaf:
            return
        writer.write(b"OK 1073741824\n")
        self.connections.add(writer)
        if port == RENEWAL_PORT:
            await self._renew(reader, writer)
        elif port == AGENT_PORT:
            await _answer(reader, writer)
        else:
            writer.write(BANNER)
            await reader.read()

    async def _renew(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                name, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                if name:
                    self.renewed.append((await reader.readexactly(name)).decode())
                    await reader.readexactly(size)
                else:
                    writer.write(struct.pack("<BQ", 1, time.time_ns()))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if line.strip():
            number = cast("dict[str, int]", json.loads(line))["id"]
            writer.write(b'{"jsonrpc":"2.0","id":%d,"result":{}}\n' % number)


def spec_in(directory: Path) -> MachineSpec:
    """Return a specification whose files exist, with a free port."""
    names = ("kernel", "kit", "image", "scratch", "identity")
    for name in names:
        (directory / name).write_bytes(name.encode())
    kernel, *disks = (directory / name for name in names)
    with claim(0) as listener:
        port = int(listener.getsockname()[1])
    return MachineSpec(
        id="test",
        resources=Resources(cpus=1, memory_mib=MIB, disk_mib=1),
        kernel=kernel,
        disks=GuestDisks(*disks),
        ssh_port=port,
        console_log=directory / "console.log",
        boot_timeout=5.0,
    )


M = TypeVar("M", bound=VmmMachine)
V = TypeVar("V", bound=Guest)


@dataclass(slots=True)
class Pretended(Generic[M, V]):
    """A machine that is not connected yet, and what stands for its VMM."""

    machine: M
    vmm: V
    server: VmmServer
    process: PretendedProcess
    spec: MachineSpec

    async def boot(self) -> str | None:
        """Connect and wait for the guest, as `until_booted` does."""
        await self.machine.connect()
        return await self.machine.until_ready()


def _wires_of(spec: MachineSpec) -> tuple[Wires, socket.socket]:
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        wires, inherited = open_wires(spec, ours, theirs)
        ours.pop_all()
        return wires, socket.socket(fileno=os.dup(inherited.messages))


@asynccontextmanager
async def machine_on(
    kind: type[M],
    vmm: type[V],
    endpoints: tuple[Endpoint[Any, Any], ...],
    program: Program,
    directory: Path,
    origin: Origin | None,
    io_mib: int = 0,
) -> AsyncGenerator[Pretended[M, V]]:
    """Yield a machine on a pretended VMM; it is stopped at the end at the latest."""
    run = directory / "run"
    run.mkdir()
    spec = spec_in(directory)
    wires, messages = _wires_of(spec)
    process = PretendedProcess(run, messages)
    made, console = vmm(run, process), Console(spec.console_log)
    if origin is None:
        process.begin = made.begin
    guarded = cast("GuardedProcess", process)
    machine = kind(spec, guarded, console, wires, program, origin, io_mib=io_mib)
    async with listening(run / "vsock", made.vsock), serving(run, endpoints, made) as server:
        try:
            yield Pretended(machine, made, server, process, spec)
        finally:
            await machine.stop()
