# SPDX-License-Identifier: Apache-2.0
"""A guest on this machine: one VM and one SSH connection, as `domain.host.Guest`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import anyio

from waggle.domain.environment import MachineIdentity
from waggle.domain.errors import GuestLost
from waggle.domain.execution import Command, ExecutionResult
from waggle.domain.filesystem import Listing
from waggle.domain.machine import Machine
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.files import Files
from waggle.infra.ssh.shell import Shell

_SETTLE_SECONDS = 1.0
"""How long a broken call waits to learn that the machine itself died, to name that as the cause."""


class LocalGuest:
    """Made by `LocalHost.create`, which hands over `owned`: everything to release at the end."""

    def __init__(
        self,
        machine: Machine,
        connection: SshConnection,
        *,
        ssh_port: int,
        booted_from: dict[str, str],
        owned: contextlib.AsyncExitStack,
    ) -> None:
        self._machine = machine
        self._connection = connection
        self._shell = Shell(connection)
        self._files = Files(connection)
        self._owned = owned
        self.ssh_port = ssh_port
        self.booted_from = booted_from
        self._ending = asyncio.Lock()

    @property
    def machine(self) -> MachineIdentity:
        """The VMM process."""
        return self._machine.identity

    async def run(self, command: Command) -> ExecutionResult:
        """Run a command; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._shell.run(command)

    async def write_file(self, path: str, data: bytes, mode: int) -> None:
        """Write a file; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            await self._files.write(path, data, mode)

    async def read_file(self, path: str, limit: int) -> bytes:
        """Read a file; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._files.read(path, limit)

    async def list_files(self, path: str) -> Listing:
        """List a directory; see `domain.host.Guest`."""
        async with self._naming_the_cause():
            return await self._files.list(path)

    async def agent(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Call the guest agent. Raises GuestLost."""
        async with self._naming_the_cause():
            return await self._machine.agent(command, arguments)

    @contextlib.asynccontextmanager
    async def _naming_the_cause(self) -> AsyncGenerator[None]:
        """When a call breaks because the machine died, say that, and why it died."""
        try:
            yield
        except GuestLost as error:
            cause: str | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    cause = await self._machine.wait()
            if cause is None:
                raise
            raise GuestLost(f"The machine died: {cause}.") from error

    async def wait_dead(self) -> str:
        """Return when the machine is dead, with the cause."""
        return await self._machine.wait()

    async def destroy(self) -> None:
        """Close the connection, stop the machine, free the port, delete the files. Idempotent."""
        with anyio.CancelScope(shield=True):
            async with self._ending:
                await self._owned.aclose()
