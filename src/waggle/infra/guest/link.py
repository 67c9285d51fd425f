# SPDX-License-Identifier: Apache-2.0
"""The host's connections to one machine: its console, its agent, its VMM's own messages.

Used by the machines of every hypervisor, which own the VMM's process and the other ends of the
descriptors. Knows nothing of how the machine is run. `until_booted` is the part of
`domain.machine.Hypervisor.boot` that is the same for every hypervisor: from a VMM just started to a
guest that is ready, or to the reason why it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Protocol

import structlog

from waggle.domain.errors import BootFailed, GuestLost
from waggle.infra.guest.agent import MAX_ANSWER, Console, GuestAgent
from waggle.tasks import end

AGENT_PORT = "org.qemu.guest_agent.0"
RENEWAL_PORT = "waggle.renewal"
KERNEL_ARGUMENTS = (
    "root=/dev/vda rootfstype=erofs ro init=/init console=hvc0 panic=-1 quiet random.trust_cpu=on"
)
_DRAIN_SECONDS = 2.0
"""Time for the last lines to arrive once the VMM is dead; a flood is read slowly."""
_LAST_WORDS_SECONDS = 1.0
"""Time for a guest that panicked to write its last lines; its VMM then exits on its own."""

Follow = Callable[[asyncio.StreamReader], Coroutine[None, None, None]]


class GuestLink:
    """The connections to one machine. Call `connect` once; `close` then releases everything.

    `close` also works after a `connect` that failed halfway.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._agent: GuestAgent | None = None
        self._followers: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: list[asyncio.ReadTransport] = []

    async def connect(
        self, console: socket.socket | io.FileIO, messages: socket.socket, agent: socket.socket
    ) -> None:
        """Start to listen. The caller closes the descriptors, after `close`."""
        if isinstance(console, socket.socket):
            await self._follow(console, self.console.follow)
        else:
            await self._follow_pipe(console)
        await self._follow(messages, self.console.follow_messages)
        self._agent = GuestAgent(*await self.open(agent))

    async def open(self, wire: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return streams over one more descriptor, closed with the others."""
        reader, writer = await asyncio.open_connection(sock=wire, limit=MAX_ANSWER)
        self._writers.append(writer)
        return reader, writer

    async def _follow(self, wire: socket.socket, read: Follow) -> None:
        reader, _ = await self.open(wire)
        self._followers.append(asyncio.create_task(read(reader)))

    async def _follow_pipe(self, pipe: io.FileIO) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._pipes.append(transport)
        self._followers.append(asyncio.create_task(self.console.follow(reader)))

    async def until_ready(self, wait: Callable[[], Awaitable[str]]) -> str | None:
        """Wait for the guest; return the cause if it panics or ends instead. Safe to cancel.

        `wait` returns the cause once the VMM has ended, and may be called again.
        """
        ended = asyncio.ensure_future(wait())
        ready = asyncio.ensure_future(self.console.ready.wait())
        failed = asyncio.ensure_future(self.console.failed.wait())
        try:
            await asyncio.wait({ready, failed, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not ended.done():
                return None
        finally:
            await end(ready, failed, ended)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await wait()
        return self.console.cause or await wait()

    async def call(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        if self._agent is None:
            raise GuestLost("The machine is not connected.")
        return await self._agent.call(command, arguments)

    async def drain(self) -> None:
        """Read the last lines of a VMM that has ended. Bounded in time; may be repeated."""
        if self._followers:
            await asyncio.wait(self._followers, timeout=_DRAIN_SECONDS)

    async def close(self) -> None:
        """Drain, then release everything. Bounded in time."""
        await self.drain()
        await end(*self._followers)
        for pipe in self._pipes:
            pipe.close()
        for writer in self._writers:
            writer.transport.abort()  # the other end may never read the rest
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.console.close()


def explain(program: str, status: int, cause: str | None) -> str:
    """Return in a few words why a VMM ended. `cause` is the one from its console, if any."""
    if cause:
        return cause
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"{program} was killed by {signal.Signals(-status).name}"
    return "the guest shut down" if status == 0 else f"{program} ended with status {status}"


log = structlog.get_logger(__name__)
_TAIL_SHOWN = 12
_KERNEL_FAULT = "Fatal exception"
"""The panic of a kernel that had a fault itself, rather than the end of its first process."""


class KernelFault(BootFailed):
    """The guest's kernel had a fault before the guest was ready; another try may succeed."""


class Booting(Protocol):
    """A machine whose VMM runs, before anything else may use it."""

    async def connect(self) -> None:
        """Start to listen to the machine."""
        ...

    async def until_ready(self) -> str | None:
        """Wait for the guest; return the cause if it will not be ready."""
        ...

    async def stop(self) -> None:
        """See `domain.machine.Machine.stop`."""
        ...

    def console_tail(self) -> Sequence[str]:
        """See `domain.machine.Machine.console_tail`."""
        ...


async def until_booted(machine: Booting, timeout: float) -> None:
    """Return when the guest is ready; otherwise stop the machine and raise.

    `timeout` is seconds. Raises BootFailed with the cause and the console's last lines, or its
    subclass KernelFault for a fault of the kernel. A cancelled boot stops the machine, too.
    """
    try:
        try:
            async with asyncio.timeout(timeout):
                await machine.connect()
                cause = await machine.until_ready()
        except TimeoutError:
            cause = f"the guest was not ready after {timeout:g} s"
        if cause is not None:
            await machine.stop()  # the console is complete only then
            raise _failure(cause, machine.console_tail())
    except BaseException:
        await machine.stop()
        raise


def _failure(cause: str, console: Sequence[str]) -> BootFailed:
    lines = console[-_TAIL_SHOWN:]
    log.warning("boot_failed", cause=cause, console=lines)
    shown = "\n".join(lines) or "(nothing)"
    kind = KernelFault if _KERNEL_FAULT in cause else BootFailed
    return kind(f"The machine did not boot: {cause}. Its console's last lines:\n{shown}\n")
