# SPDX-License-Identifier: Apache-2.0
"""The host's connections to one machine, and the parts of machines that all hypervisors share.

`GuestLink` reads the console, the agent and the VMM's own messages. `LinkedMachine` is the base of
all machines, and knows nothing of how they are run; `boot` waits until it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path

from waggle.domain.errors import BootFailed, GuestLost
from waggle.domain.machine import VmmProcess
from waggle.infra.guest.agent import MachineAgent, log_audit
from waggle.infra.guest.channel import over
from waggle.infra.guest.console import Console
from waggle.infra.guest.ending import EndingMachine
from waggle.infra.guest.protocol import MAX_ANSWER
from waggle.infra.guest.renewal import Renewal
from waggle.infra.shared.confined import ConfinedProcess
from waggle.tasks import end, finish

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
        self._agent: MachineAgent | None = None
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
            await self.hear_pipe(console)
        await self._follow(messages, self.console.follow_messages)
        self._agent = MachineAgent(over(*await self.open(agent)), log_audit)
        await self._agent.connect()

    async def open(self, wire: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return streams over one more descriptor, closed with the others."""
        reader, writer = await asyncio.open_connection(sock=wire, limit=MAX_ANSWER)
        self._writers.append(writer)
        return reader, writer

    async def _follow(self, wire: socket.socket, read: Follow) -> None:
        reader, _ = await self.open(wire)
        self._followers.append(asyncio.create_task(read(reader)))

    async def hear_pipe(self, pipe: io.FileIO) -> None:
        """Start to read the console from a pipe, which is closed with the others."""
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

    @property
    def agent(self) -> MachineAgent:
        """The client of the guest agent. Raises GuestLost."""
        if self._agent is None:
            raise GuestLost("The machine is not connected.")
        return self._agent

    async def drain(self) -> None:
        """Read the last lines of a VMM that has ended. Bounded in time; may be repeated."""
        if self._followers:
            await asyncio.wait(self._followers, timeout=_DRAIN_SECONDS)

    async def close(self) -> None:
        """Drain, then release everything. Bounded in time."""
        await self.drain()
        await end(*self._followers)
        if self._agent is not None:
            await self._agent.close()
        for pipe in self._pipes:
            pipe.close()
        for writer in self._writers:
            writer.transport.abort()  # the other end may never read the rest
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self.console.close()


class LinkedMachine(EndingMachine):
    """The parts of `domain.machine.Machine` that every hypervisor's machines share."""

    def __init__(
        self, process: ConfinedProcess, console: Console, link: GuestLink | None = None
    ) -> None:
        """`link` is its connections, which come to `console`; by default those over virtio."""
        self._process = process
        self._link = link or GuestLink(console)
        self._renewal: Renewal | None = None
        self._turn = asyncio.Lock()
        self._stopped = False

    @property
    def identity(self) -> VmmProcess:
        """The VMM process."""
        return self._process.identity

    @property
    def is_alive(self) -> bool:
        """False once the VMM has ended."""
        return self._process.is_alive

    async def was_killed(self, seconds: float = 0.0) -> bool:
        """Return whether the VMM was killed: its status tells, whatever the guest says.

        Its channels break before it has ended: it has so many seconds for that.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        return not self.is_alive and await self._process.wait() == -signal.SIGKILL

    def console_tail(self) -> list[str]:
        """Return the console's last lines."""
        return self._link.console.tail()

    @property
    def agent(self) -> MachineAgent:
        """The client of the guest agent. Raises GuestLost."""
        self._require_alive()
        return self._link.agent

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """Give the machine a new identity; see `domain.machine.Machine.renew`."""
        await self._require_renewal().renew(records)

    def _require_renewal(self) -> Renewal:
        self._require_alive()
        if self._renewal is None:
            raise GuestLost("The machine is not connected.")
        return self._renewal

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise GuestLost("The machine is dead.")

    async def stop(self) -> None:
        """End the VMM and close everything.

        Idempotent; finishes even when the caller is cancelled. Raises TimedOut when the kernel
        does not end the VMM; nothing is released then, and a later call tries again.
        """
        await finish(self._stop())

    async def _stop(self) -> None:
        async with self._turn:
            await self._shut_down()
            await self._process.kill()
            if not self._stopped:
                self._stopped = True
                await self._release()

    async def _shut_down(self) -> None:
        """Give the guest a short time to end before the VMM is killed."""

    @abstractmethod
    async def _release(self) -> None:
        """Close everything, once the VMM has ended."""


def open_file(path: Path, stack: contextlib.ExitStack, flags: int = os.O_RDONLY) -> int:
    """Open a file of a machine, which the stack closes. Raises BootFailed."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise BootFailed(f"{path.name} cannot be opened: {error.strerror}.") from error
    stack.callback(os.close, descriptor)
    return descriptor


def socket_pair(
    ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[socket.socket, int]:
    """Return the server's end, which does not block, and the descriptor of the VMM's end."""
    end, other = socket.socketpair()
    ours.callback(end.close)
    theirs.callback(other.close)
    end.setblocking(False)
    return end, other.fileno()


def explain(program: str, status: int, cause: str | None) -> str:
    """Return in a few words why a VMM ended. `cause` is the one from its console, if any."""
    if cause:
        return cause
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"{program} was killed by {signal.Signals(-status).name}"
    return "the guest shut down" if status == 0 else f"{program} ended with status {status}"
