# SPDX-License-Identifier: Apache-2.0
"""Run commands in a guest through the kit's launcher (rootfs/kit/guest/session.c).

Code, arguments and variables travel as a frame on stdin, so nothing is quoted for any shell. Each
run has an id and in the guest a cgroup of that id: killing the cgroup ends the whole process tree.
"""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
from typing import Final

import anyio
import asyncssh

from waggle.domain.errors import GuestLost
from waggle.domain.execution import Command, ExecutionResult, GuestUser
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.output import OutputCollector

KILL_TIMEOUT: Final = 5.0
_UIDS: Final = {GuestUser.SANDBOX: 1000, GuestUser.ROOT: 0}
_WINDOW: Final = 2 << 20


def frame(command: Command) -> bytes:
    """What the launcher reads first: a length, then NUL-terminated fields. Pure."""
    uid = _UIDS[command.user]
    fields = [f"u{uid}", f"g{uid}", f"d{command.cwd}"]
    fields += [f"e{name}={value}" for name, value in command.env.items()]
    fields += [f"a{word}" for word in command.argv]
    if command.code is not None:
        fields += [f"c{len(command.code)}", f"x{command.extension}"]
    body = b"".join(field.encode() + b"\0" for field in fields)
    return struct.pack(">I", len(body)) + body


class _Run(asyncssh.SSHClientSession[bytes]):
    """Collects one run's output and end."""

    def __init__(self, limit: int) -> None:
        self.stdout = OutputCollector(limit)
        self.stderr = OutputCollector(limit)
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.lost: Exception | None = None
        self.ended = asyncio.Event()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout
        stream.feed(data)

    def exit_status_received(self, status: int) -> None:
        self.exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = f"SIG{signal}"[:20]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.ended.set()

    @property
    def is_complete(self) -> bool:
        return self.exit_code is not None or self.signal is not None


class Shell:
    """Runs commands over a pooled connection."""

    def __init__(self, connection: SshConnection) -> None:
        self._connection = connection

    async def run(self, command: Command) -> ExecutionResult:
        """Run a command to its end, its timeout or its cancellation; see `domain.host.Guest.run`.

        Raises GuestLost when the connection breaks before the command's end is known.
        """
        run_id = str(uuid.uuid4())
        started = time.monotonic()
        run = _Run(command.output_limit)
        connection = await self._connection.get()
        timed_out = False
        try:
            async with asyncio.timeout(command.timeout):
                await self._start(connection, run_id, run, command)
                await run.ended.wait()
        except TimeoutError:
            timed_out = True
            await self._kill(connection, run_id, run)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._kill(connection, run_id, run)
            raise
        if not timed_out and not run.is_complete:
            raise GuestLost(
                "The connection to the guest broke while the command ran.",
                hint="If the environment is still running, call again; else create a new one.",
            )
        return ExecutionResult(
            stdout=run.stdout.output(),
            stderr=run.stderr.output(),
            exit_code=None if timed_out else run.exit_code,
            signal=None if timed_out else run.signal,
            timed_out=timed_out,
            duration=time.monotonic() - started,
        )

    async def _start(
        self, connection: asyncssh.SSHClientConnection, run_id: str, run: _Run, command: Command
    ) -> None:
        try:
            channel, _ = await connection.create_session(
                lambda: run, f"run {run_id}", encoding=None, window=_WINDOW
            )
            channel.writelines([frame(command), command.code or b"", command.stdin])
            channel.write_eof()
        except (OSError, asyncssh.Error) as error:
            if run.is_complete:
                return
            self._connection.drop(connection)
            raise GuestLost(f"The command could not be started: {type(error).__name__}.") from error

    async def _kill(self, connection: asyncssh.SSHClientConnection, run_id: str, run: _Run) -> None:
        """Kill the run's whole process tree and wait for its end, for KILL_TIMEOUT at most.

        A guest that does not obey loses its connection; the next call makes a new one.
        """
        try:
            async with asyncio.timeout(KILL_TIMEOUT):
                await connection.run(f"kill {run_id}", encoding=None, check=False)
                await run.ended.wait()
        except (TimeoutError, OSError, asyncssh.Error):
            self._connection.drop(connection)
