# SPDX-License-Identifier: Apache-2.0
"""A machine on a VMM with an API: its guarded process, API, console, agent and forwarder.

The base of the machines of the adapters that have such a VMM, each of which knows its calls. It
owns all of these from the start, so `stop` releases everything however far the boot got. `stop`
kills the VMM without a shutdown, because no guest needs one. A snapshot breaks every connection of
the guest: they are made anew when it runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import ClassVar, Final

import structlog

from waggle.domain.errors import BootFailed, DiskFull, GuestLost, WaggleError
from waggle.domain.machine import MachineSpec
from waggle.infra.guest.clock import ClockedMachine
from waggle.infra.guest.console import Console
from waggle.infra.guest.forwarder import Forwarder
from waggle.infra.guest.frozen import Origin
from waggle.infra.guest.link import explain
from waggle.infra.guest.vsock import ConsoleListener, VsockDoor
from waggle.infra.guest.vsock_link import VsockLink
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import VmmError, VmmLost
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.starter import SAYS
from waggle.infra.vmm.version import TITLES, Version, Vmm
from waggle.infra.vmm.wires import Wires
from waggle.tasks import end

API_SOCKET: Final = "api.sock"
VSOCK: Final = "vsock"
"""The names of these sockets in the machine's /run."""
_RUN = "/run"
log = structlog.get_logger(__name__)
ANSWER_SECONDS: Final = 10.0
_SETTLE_SECONDS = 60.0
"""The guest itself gives up after 10, and other machines may be served first."""
_REACH_SECONDS = 30.0
"""How long a guest that runs on after it was frozen may take to answer."""
_WRITE_SECONDS = 20.0
"""Of a snapshot, besides what its memory takes."""
_WRITE_MIB = 32
"""What a VMM writes in a second, at the least: it was twice as much where KVM was emulated."""
_END_SECONDS = 1.0
"""Between the loss of the API and the end of its process."""
_MAX_COMPLAINT = 4096
_ENDED = "waggle: ended"
"""The last line of a guest that ended in order (kit/guest/ending.c)."""
NO_ORDER: Final = "the guest's kernel panicked or rebooted"


def path(name: str) -> str:
    """Return the VMM's path of a file in its /run."""
    return f"{_RUN}/{name}"


@dataclass(frozen=True, slots=True)
class Program:
    """The VMM that runs the machine. `name` is what its state is locked to."""

    name: str
    version: Version


class VmmMachine(ClockedMachine):
    """A machine; implements `domain.machine.Machine` once `until_ready` has returned None.

    An adapter's own says how it begins, freezes, and starts and stops its processors.
    """

    vmm: ClassVar[Vmm]
    hears_kernel: ClassVar[bool] = False
    """Whether the guest's kernel has a console for its panic, once it runs."""
    _process: GuardedProcess
    _was_reached = False

    def __init__(
        self,
        spec: MachineSpec,
        process: GuardedProcess,
        console: Console,
        wires: Wires,
        program: Program,
        origin: Origin | None = None,
        *,
        io_mib: int = 0,
    ) -> None:
        """Resume from `origin`, or boot without it; `io_mib` as in `hypervisor.VmmHypervisor`."""
        super().__init__(process, console)
        self._io_mib = io_mib
        self._spec = spec
        self._console = console
        self._wires = wires
        self._title = TITLES[self.vmm]
        self._program = program
        self._origin: Origin | None = origin
        self._vsock: VsockLink | None = None
        self._forwarder: Forwarder | None = None
        self._client = VmmClient(lambda: process.dial(API_SOCKET), self.vmm, program.version)
        self._is_cut = False
        """Whether its connections are those from before a snapshot."""

    async def connect(self) -> None:
        """Wait for the VMM's process and read every channel. `until_ready` reports its end."""
        if not await self._process.until_known():
            self._note_complaint()
            return
        door = VsockDoor(self._process.run, VSOCK, self.identity.pid)
        self._link = self._vsock = VsockLink(
            self._console, ConsoleListener(self._process.run, VSOCK, self._spec.uid)
        )
        await self._vsock.listen(self._wires.messages, door)
        self._renewal = self._vsock.renewal
        self._forwarder = Forwarder(self._wires.listener, door.connect)
        self._process.proceed()

    def _note_complaint(self) -> None:
        """Read what a guard that has ended said."""
        with contextlib.suppress(OSError):
            for line in self._wires.messages.recv(_MAX_COMPLAINT).splitlines():
                self._console.note(line.decode("utf-8", "replace"))

    async def until_ready(self) -> str | None:
        """Wait for the guest; return the cause when it panics or ends instead. Safe to cancel.

        Connections to the forwarded port are accepted from then on.
        """
        if self._vsock is None or self._forwarder is None:
            return await self.wait()
        is_copy = self._origin is not None
        cause = await self._unless_ended(self._begin())
        if cause is None and not is_copy:
            cause = await self._vsock.until_ready(self.wait)
        if cause is None:
            try:
                cause = await self._vsock.reach(self.wait, self._spec.boot_timeout)
            except GuestLost as error:
                return error.message
        if cause is None:
            self._was_reached = True
            self._forwarder.start()
        return cause

    @abstractmethod
    async def _begin(self) -> None:
        """Have the VMM boot the machine, or resume it. Raises WaggleError, OSError."""

    @abstractmethod
    async def _halt(self) -> None:
        """Stop the processors. Idempotent. Raises VmmError."""

    @abstractmethod
    async def _run(self) -> None:
        """Start the processors again. Idempotent. Raises VmmError."""

    def _not_frozen(self, cause: str) -> BootFailed | GuestLost:
        """Return the error of a freeze that failed. A machine that is dead cannot try again."""
        if self.is_alive:
            return BootFailed(f"The machine could not be frozen: {cause}.")
        return GuestLost(f"The machine died while it was being frozen: {cause}.")

    @property
    def _write_seconds(self) -> float:
        """How long the VMM may take to write a snapshot: meanwhile other machines wait for that."""
        needs = _WRITE_SECONDS + self._spec.resources.memory_mib / _WRITE_MIB
        return min(self._spec.boot_timeout, needs)

    def _using_run(self) -> contextlib.AbstractContextManager[None]:
        """Raise the error of a freeze for an OSError, which no disk of the server has caused.

        A VMM that its guest has taken over can fill its /run.
        """
        return self._using(f"{self._title}'s /run")

    @contextlib.contextmanager
    def _using(self, what: str) -> Generator[None]:
        """Raise the error of a freeze for an OSError, and blame `what`."""
        try:
            yield
        except OSError as error:
            cause = f"{what} cannot be used: {error.strerror or error}"
            log.warning("machine_not_frozen", cause=cause)
            raise self._not_frozen(cause) from error

    def _lose_base(self) -> None:
        """Let go of the frozen machine that this one is a copy of, if it is one."""
        origin, self._origin = self._origin, None
        if origin is not None:
            origin.close()

    async def _cut(self) -> None:
        """Give up all connections: the snapshot breaks them in the guest."""
        self._is_cut = True
        if self._vsock is not None and self._forwarder is not None:
            await self._forwarder.close()
            await self._vsock.hang_up()

    async def pause(self) -> None:
        """Stop its processors; see `domain.machine.Machine.pause`."""
        await self._rest()
        await self._obey(self._halt)

    async def start(self) -> None:
        """See `ClockedMachine.start`."""
        await self._obey(self._run)

    async def _reach(self) -> None:
        """Connect anew after a snapshot. Raises GuestLost.

        A guest that answers too late can be reached all the same, as soon as it does.
        """
        if not self._is_cut or self._vsock is None or self._forwarder is None:
            return
        try:
            cause = await self._vsock.reach(self.wait, _REACH_SECONDS)
        finally:
            if self.is_alive:
                self._forwarder.start()
        if cause is not None:
            raise GuestLost(f"The machine is dead: {cause}.")
        self._is_cut = False

    async def _obey(self, order: Callable[[], Coroutine[None, None, None]]) -> None:
        self._require_alive()
        try:
            await order()
        except VmmError as error:
            raise GuestLost(error.message) from error

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Do nothing: the VMM reports failed writes to the guest, so machines never stall."""

    async def settle(self) -> None:
        """Have the guest finish pending work; see `domain.machine.Machine.settle`."""
        await self._require_renewal().renew({"settle": b""}, deadline=_SETTLE_SECONDS)

    async def _unless_ended(self, work: Coroutine[None, None, None]) -> str | None:
        """Do work with the VMM; return why it failed, or why the VMM ended meanwhile."""
        working = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return ended.result()
            if (error := working.exception()) is None:
                return None
            if isinstance(error, VmmLost):  # because it ends, most often
                await asyncio.wait({ended}, timeout=_END_SECONDS)
                if ended.done():
                    return ended.result()
            if isinstance(error, WaggleError):
                return error.message.rstrip(".")
            if isinstance(error, OSError):
                return f"its files in memory cannot be used: {error}"
            raise error
        finally:
            await end(working, ended)

    async def wait(self) -> str:
        """Wait until the VMM has ended and return the cause."""
        status = await self._process.wait()
        await self._link.drain()
        status = self._meaning(status)
        return explain(self._title, status, self._console.cause or self._complaint(status))

    def _meaning(self, status: int) -> int:
        """Return 0 for the status of a VMM whose machine was reset, which ends it."""
        return status

    def _complaint(self, status: int) -> str | None:
        """Return what the starter says of a VMM that it could not start, or what a reset means."""
        lines = self.console_tail()
        for line in reversed(lines):
            if line.startswith(SAYS):
                return line.removeprefix(SAYS).rstrip(".")
        would_be_heard = self.hears_kernel and self._was_reached
        return NO_ORDER if status == 0 and _ENDED not in lines and not would_be_heard else None

    async def _release(self) -> None:
        await self._rest()
        await self._client.aclose()
        if self._forwarder is not None:
            await self._forwarder.close()
        await self._link.close()
        self._process.close()
        self._wires.close()
        self._lose_base()
