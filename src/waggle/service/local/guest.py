# SPDX-License-Identifier: Apache-2.0
"""A guest on this host: one machine and one SSH connection. Implements `domain.host.Guest`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import Environment
from waggle.domain.errors import Busy, DiskFull, GuestLost, GuestMisbehaves
from waggle.domain.files import MAX_PATH_BYTES
from waggle.domain.host import IN_TURN, FrozenMachine, Turn
from waggle.domain.machine import VmmProcess
from waggle.domain.programs import HOME, Command, ExecutionResult, GuestUser
from waggle.domain.use import ResourceUse
from waggle.infra.net import Stream as GuestStream
from waggle.infra.net.exposure import Reach
from waggle.infra.rootfs.machine_disks import HANG_UP, network_records
from waggle.infra.shared.disk_room import allocated_bytes, process_usage
from waggle.infra.ssh import EnvironmentKeys, SshConnection
from waggle.infra.ssh.ports import GuestPorts
from waggle.infra.ssh.run import LeftPrograms, Shell
from waggle.infra.ssh.run.again import once_more
from waggle.infra.ssh.run.jobs import GuestJobs
from waggle.infra.ssh.run.trees import Trees
from waggle.infra.ssh.run.watching import Watches
from waggle.infra.ssh.sftp import Files
from waggle.infra.ssh.sftp.reading import ReadAhead
from waggle.service.local.attached import JobsOfGuest
from waggle.service.local.blueprint import StartedMachine
from waggle.service.local.diagnostician import ENDED, Causes, Diagnostician
from waggle.service.local.files import FilesOfGuest
from waggle.service.local.frozen import Freezing
from waggle.service.local.health import GuestHealth, HealthOfGuest
from waggle.service.local.network import NetworkOfGuest
from waggle.service.local.proxy import Proxy
from waggle.tasks import end, finish, holding

_ASK_HOME = Command(("/.waggle/bin/busybox", "printenv", "HOME"), 15.0, MAX_PATH_BYTES + 1)
_HOME_OF_ROOT = "/root"
_SOON = "Nothing was disturbed: try again in some seconds."
_END_WATCHES = 2.0
"""Seconds at most. The kit's program also ends by itself, soon after a machine was paused."""


class LocalGuest(FilesOfGuest, JobsOfGuest, NetworkOfGuest, HealthOfGuest):
    """Made by `LocalStart`. Owns the machine, the connection to it and its proxy."""

    def __init__(
        self,
        started: StartedMachine,
        connection: SshConnection,
        proxy: Proxy | None,
        *,
        keys: EnvironmentKeys,
        environment: Environment,
        directory: str,
        booted_from: dict[str, str],
        freezing: Freezing,
    ) -> None:
        self._machine = started.machine
        self._freezing = freezing
        self._connection = connection
        self._proxy = proxy
        self._shell = Shell(connection)
        self._diagnostician = Diagnostician(
            environment=environment,
            why=self._shell.why,
            run=self._shell.run,
            use=self.network_use,
        )
        self._files = Files(connection)
        self._trees = Trees(self._shell.run)
        self._watches = Watches(self._shell.run)
        self._pages = ReadAhead(self._files.read)
        ports = GuestPorts(connection)
        self._reach = Reach(ports.connect)
        if proxy is not None:
            proxy.lead_home(ports.connect, environment.name)
        self._scratch = started.blueprint.disks.scratch
        self.started = started
        self.keys = keys
        self._is_on_disk = False
        self.ssh_port = started.lease.port
        self.directory = directory
        self.booted_from = booted_from
        self._ending = asyncio.Lock()
        self._copying = asyncio.Lock()
        jobs = GuestJobs(connection)
        self._health = GuestHealth(self._machine, environment.id)
        self._greeting: asyncio.Task[None] | None = None
        connection.revive = self._health.restart_ssh
        self._causes = Causes(
            self._machine,
            connection.require_good_conduct,
            self._health.why_silent,
            connection.set_paused,
            self._shell.set_paused,
            jobs.set_paused,
        )
        left = LeftPrograms(connection, self._shell.running)
        super().__init__(jobs, left, self._pages.forget, self._causes.named)
        self._user_home: str | None = None

    @property
    def machine(self) -> VmmProcess:
        """The VMM process."""
        return self._machine.identity

    async def connect(self) -> None:
        """Connect, so that the guest can reach its proxy. Raises GuestLost."""
        self._greeting = asyncio.create_task(self._health.greet())
        async with self._naming_the_cause():
            await self._connection.get()

    async def home(self, user: GuestUser = GuestUser.SANDBOX) -> str:
        """Return a user's home directory; asks the guest once. See `domain.host.Guest`."""
        if user is GuestUser.ROOT:
            return _HOME_OF_ROOT
        if self._user_home is None:
            async with self._naming_the_cause():
                said = await once_more(lambda: self._shell.run(_ASK_HOME))
                if said.exit_code is None:  # killed, or too slow: that says nothing
                    raise GuestLost("The guest does not say which its home directory is.")
            home = said.stdout.text().removesuffix("\n")
            fits = home.startswith("/") and home.isprintable()
            self._user_home = home if fits and len(home) <= MAX_PATH_BYTES else HOME
        return self._user_home

    async def diagnose(self, command: Command, result: ExecutionResult) -> Diagnosis | None:
        """Return why a run failed; see `domain.host.Guest`."""
        return await self._diagnostician.explain(command, result)

    async def resource_use(self) -> ResourceUse | None:
        """Return what its VMM and its scratch disk use of this host; see `domain.host.Guest`."""
        process = process_usage(self._machine.identity)
        if process is None:
            return None
        return ResourceUse(
            process.cpu_seconds, process.memory_bytes, allocated_bytes(self._scratch)
        )

    def when_stalled(self, notify: Callable[[DiskFull | None], None]) -> None:
        """Report writes that the disk refuses; see `domain.host.Guest`."""
        self._causes.when_stalled(notify)

    def when_misbehaves(self, notify: Callable[[GuestMisbehaves], None]) -> None:
        """Report misconduct; see `domain.host.Guest`."""
        self._connection.when_misbehaves = notify

    async def connect_to(self, port: int) -> GuestStream | None:
        """Connect to one of its ports; see `domain.host.Guest`."""
        return await self._reach.connect(port)

    async def answers(self, port: int, seconds: float) -> bool:
        """Try to connect; see `domain.host.Guest`."""
        return await self._reach.answers(port, seconds)

    async def renew_network(self) -> None:
        """Tell the machine whether it has a network; see `domain.host.Guest`."""
        async with self._naming_the_cause(), self._copying:  # else its copy would answer, too
            await self._machine.renew(self._network_records())

    def _network_records(self) -> Mapping[str, bytes]:
        """Return whether it has a network now, for the machine; that may change while paused."""
        return network_records(is_there=self._proxy is not None and not self._proxy.network.is_none)

    async def pause(self) -> None:
        """Stop its processors; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            await self._hang_up()
            await self._machine.pause()

    async def unpause(self) -> None:
        """Resume it; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            self._health.go_on()
            await self._machine.unpause()
            await self._machine.renew({**HANG_UP, **self._network_records()})
            await self._connection.get()

    async def _hang_up(self) -> None:
        """Close connections that a paused guest, or its copy, would not answer, and ask no more."""
        await self._health.stop()
        self._pages.forget()
        self._jobs.detach()
        await self._watches.end_all(_END_WATCHES)
        await self._reach.clear()
        self._connection.abandon()

    def turn_to_freeze(self) -> AbstractAsyncContextManager[Turn]:
        """Wait for its turn; see `domain.host.Guest`."""
        self._causes.require_unstalled()
        return self._freezing.turn(self.started)

    @asynccontextmanager
    async def freeze(self, turn: Turn) -> AsyncGenerator[FrozenMachine]:
        """Freeze it; see `domain.host.Guest`."""
        async with AsyncExitStack() as stack:
            self._causes.require_unstalled()
            refusal = Busy("Its machine is being copied, or given its network.", hint=_SOON)
            alone = holding(self._copying, IN_TURN, refusal)
            async with self._naming_the_cause(), alone, self._health.while_stopped():
                with self._expecting_a_break():
                    freezing = self._freezing.freeze(self.started, turn)
                    frozen = await stack.enter_async_context(freezing)
            yield frozen

    @contextmanager
    def _expecting_a_break(self) -> Generator[None]:
        """Blame no job for the break of its connection, and give the guest its network again."""
        if not self._freezing.keeps_connections:
            self._jobs.excuse()
        try:
            yield
        finally:
            if not self._freezing.keeps_connections:
                self._connection.reconnect()

    async def pause_to_disk(self, turn: Turn) -> None:
        """Write its state to the disk and stop it; see `domain.host.Guest`."""
        await finish(self._pause_to_disk(turn))

    async def _pause_to_disk(self, turn: Turn) -> None:
        async with self._naming_the_cause():
            await self._freezing.pause_to_disk(self.started, self._hang_up, turn)
        self._is_on_disk = True
        await self._destroy()

    async def end_machine(self, grace: float) -> bool:
        """End its machine, with its disk; see `domain.host.Guest`."""
        async with self._ending, self._copying:  # a copy is of memory and disk of one instant
            self._causes.ends(*ENDED)
            try:
                await self._hang_up()
                return await self._machine.shut_down(grace)
            finally:
                await finish(self._stop())

    async def wait_dead(self) -> str:
        """Return when the machine is dead, with the cause."""
        return await self._machine.wait()

    async def destroy(self) -> None:
        """Stop the machine without the guest's help, close connections, free files and lease.

        Idempotent; finishes when cancelled. Raises TimedOut if the machine does not die: its port
        and files are kept then, and a later call tries again.
        """
        self._causes.ends("The environment is being destroyed.")
        await finish(self._destroy())

    async def disconnect(self) -> None:
        """Close connection and proxy permanently. Idempotent; does not ask the guest."""
        if self._greeting is not None:
            await end(self._greeting)
        await self._reach.aclose()
        if self._proxy is not None:
            await self._proxy.aclose()
        await self._connection.aclose()

    async def _stop(self) -> None:
        try:
            await self._machine.stop()
        finally:
            await self.disconnect()

    async def _destroy(self) -> None:
        async with self._ending:
            await self._stop()
            if not self._is_on_disk:
                await asyncio.to_thread(shutil.rmtree, self.started.blueprint.files, True)
            self.started.lease.release()
