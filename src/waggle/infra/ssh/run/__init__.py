# SPDX-License-Identifier: Apache-2.0
"""The server's own commands in a guest, through the kit's launcher, and programs left behind.

Called by the local guest; the launcher is rootfs/kit/guest/session.c. Code, arguments and variables
travel as a frame on stdin, so nothing is quoted for a shell. Each run has an id and, in the guest,
a cgroup of that name; killing the cgroup ends the process tree. A run ends with its connection;
what clients run are jobs (`jobs`). The guest controls all answers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import asyncssh
import structlog

from waggle.domain.diagnosis import RunFacts
from waggle.domain.errors import GuestLost
from waggle.domain.programs import NOTHING_LEFT, Command, ExecutionResult, Left, Streams
from waggle.infra.ssh import SshConnection, SshSilent
from waggle.infra.ssh.asyncssh_internals import Channel, open_exec
from waggle.infra.ssh.run.again import Interrupted
from waggle.infra.ssh.run.deadline import Deadline
from waggle.infra.ssh.run.launcher import (
    MAX_LEFT,
    MAX_PROGRAMS,
    MAX_RECORD,
    CommandSession,
    frame,
    is_program,
    parse_left,
    parse_record,
)
from waggle.tasks import end, finish

_ANSWER_WINDOW: Final = 256 << 10
_SHORT: Final = 1_000
"""Bytes of an answer that is a word or an error's text."""
_SECONDS: Final = 30.0


async def ask(
    connection: SshConnection, question: str, limit: int = _SHORT, stdin: bytes = b""
) -> CommandSession:
    """Ask the launcher, and keep `limit` bytes of the answer; its exit code is None without one.

    Not bounded in time. Raises GuestLost; safe to cancel.
    """
    answer = CommandSession(2 * limit)
    open_connection = await connection.get()
    try:
        channel = await open_exec(open_connection, answer, question, window=_ANSWER_WINDOW)
    except (OSError, asyncssh.Error):
        return answer
    try:
        if stdin:
            channel.writelines([stdin])
        channel.write_eof()
        await answer.ended.wait()
    except (OSError, asyncssh.Error):
        return answer
    finally:
        channel.abort()
    return answer


class LeftPrograms:
    """The programs left running in one guest. `running` returns the ids of runs under way.

    Each method takes at most 30 s and raises GuestLost, or Interrupted. Safe to cancel.
    """

    def __init__(self, connection: SshConnection, running: Callable[[], frozenset[str]]) -> None:
        self._connection = connection
        self._running = running

    async def all(self) -> Left:
        """Return the programs; NOTHING_LEFT if the guest's answer is invalid."""
        before = self._running()
        answer = await self._ask("programs", MAX_LEFT)
        stdout = answer.stdout.output()
        left = parse_left(stdout.head) if answer.exit_code == 0 else NOTHING_LEFT
        return left.without(before | self._running())

    async def end(self, pid: int) -> bool:
        """Kill a program with its descendants; return False if there is none."""
        return (await self._ask(f"end {pid}")).exit_code == 0

    async def end_run(self, run_id: str) -> None:
        """Kill everything that a run has left; something of it must be left."""
        if (await self._ask(f"kill {run_id}")).exit_code != 0:
            raise GuestLost("The guest did not end what was left running.")

    async def _ask(self, question: str, limit: int = _SHORT) -> CommandSession:
        try:
            async with asyncio.timeout(_SECONDS):
                answer = await ask(self._connection, question, limit)
        except TimeoutError:
            raise GuestLost("The guest does not list the programs left running in it.") from None
        if answer.exit_code is None:
            raise Interrupted(
                "The connection to the guest broke before it answered about programs left running.",
                hint=CALL_AGAIN,
            )
        return answer


KILL_PATIENCE: Final = (6.0, 6.0)
"""Seconds to kill a run over the open connection, then once more over a new one.

An emulated guest needs seconds to end a thousand processes, and dropping the open connection breaks
all other runs, so it must not happen early.
"""
WINDOW: Final = 2 << 20
CALL_AGAIN: Final = "If the environment is still running, call again; else create a new one."
log = structlog.get_logger(__name__)


class _Run(CommandSession):
    """One command under way. `opening` is set once the guest may have received it."""

    def __init__(self, limit: int, into: Streams | None) -> None:
        super().__init__(limit, into)
        self.id = ""
        self.opening: asyncio.Task[Channel] | None = None
        self.sent = False
        self.deadline = Deadline(None)

    def begin(self, connection: asyncssh.SSHClientConnection) -> asyncio.Task[Channel]:
        """Ask the guest for a channel; not cancelled with the caller, so that `_kill` can end it.

        Each attempt has its own id, so that remains of an earlier one cannot disturb it.
        """
        self.id = str(uuid.uuid4())
        self.ended.clear()
        opening = open_exec(connection, self, f"run {self.id}", window=WINDOW)
        self.opening = asyncio.create_task(opening)
        return self.opening


class Shell:
    """The runner of commands over a connection. `patience` is the seconds of each kill attempt."""

    def __init__(
        self, connection: SshConnection, *, patience: Sequence[float] = KILL_PATIENCE
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._running: set[_Run] = set()

    async def run(self, command: Command, into: Streams | None = None) -> ExecutionResult:
        """Run a command to its end, its timeout or its cancellation; nothing of it is left then.

        Raises Interrupted if the connection breaks before the command's end is known, GuestLost if
        the guest does not confirm that a command which ran out of time was killed.
        """
        run = _Run(command.output_limit, into)
        self._running.add(run)
        try:
            return await self._run(run, command)
        finally:
            self._running.discard(run)

    async def _run(self, run: _Run, command: Command) -> ExecutionResult:
        started = time.monotonic()
        try:
            run.deadline = Deadline(command.timeout)
            async with run.deadline.timeout:
                await self._start(run, command)
                await run.ended.wait()
        except TimeoutError:
            if not run.is_complete:
                return await self._timed_out(run, started)
        except asyncio.CancelledError:
            await finish(self._kill(run))
            raise
        if not run.is_complete:
            await finish(self._kill(run))
            raise Interrupted(
                "The connection to the guest broke while the command ran; it was not finished.",
                hint=CALL_AGAIN,
            )
        return _result(run, started, timed_out=False)

    def set_paused(self, paused: bool) -> None:
        """Stop all timeouts while the guest is paused: a pause does not count."""
        for run in self._running:
            run.deadline.set_paused(paused)

    def running(self) -> frozenset[str]:
        """Return the ids of the runs under way."""
        return frozenset(run.id for run in self._running)

    async def why(self, run_id: str, programs: Sequence[str] = ()) -> RunFacts:
        """Return the guest's record of a run's end, and which of these programs it has.

        Asks for valid program names only, and for MAX_PROGRAMS at most. NO_RECORD if the guest
        has none. Not bounded in time. Raises GuestLost; safe to cancel.
        """
        names = [name for name in programs if is_program(name)][:MAX_PROGRAMS]
        answer = await ask(self._connection, " ".join(["why", run_id, *names]), MAX_RECORD)
        stdout = answer.stdout.output()
        return parse_record(stdout.head + stdout.tail, run_id)

    async def _timed_out(self, run: _Run, started: float) -> ExecutionResult:
        if run.opening is None:
            raise SshSilent(
                "The guest's SSH server did not answer within the command's time.",
                hint=CALL_AGAIN,
            )
        if not await finish(self._kill(run)):
            raise GuestLost(
                "The command ran out of time, and the guest does not answer to have it killed.",
                hint="Destroy the environment: the command may still be running in it.",
            )
        return _result(run, started, timed_out=True)

    async def _start(self, run: _Run, command: Command) -> None:
        """Send the command, over a new connection if the old one is found dead."""
        while True:
            connection = await self._connection.get()
            is_first = run.opening is None
            try:
                channel = await asyncio.shield(run.begin(connection))
                channel.writelines([frame(command), command.code or b"", command.stdin])
                run.sent = True
                channel.write_eof()
                return
            except Exception as error:
                if run.is_complete:
                    return
                if connection.is_closed() and is_first:
                    continue
                raise GuestLost(
                    f"The command could not be started: {type(error).__name__}.", hint=CALL_AGAIN
                ) from error

    async def _kill(self, run: _Run) -> bool:
        """Kill the run's process tree; return whether the guest confirmed it. Bounded in time.

        If the guest does not obey, drop its connection and ask once more over a new one.
        """
        if run.opening is None:
            return True
        for patience in self._patience:
            connection: asyncssh.SSHClientConnection | None = None
            try:
                async with asyncio.timeout(patience):
                    connection = await self._connection.get()
                    if await _ask_to_kill(connection, run, run.opening):
                        return True
            except (TimeoutError, OSError, asyncssh.Error, GuestLost):
                pass
            if connection is not None:
                self._connection.drop(connection)
        await end(run.opening)
        log.warning("run_not_killed", run=run.id)
        return False


async def _ask_to_kill(
    connection: asyncssh.SSHClientConnection, run: _Run, opening: asyncio.Task[Channel]
) -> bool:
    """Kill the run in the guest, then wait until its output has ended."""
    answer = CommandSession(_SHORT)
    channel = await open_exec(connection, answer, f"kill {run.id}", window=WINDOW)
    try:
        channel.write_eof()
        await answer.ended.wait()
        if answer.exit_code != 0:
            return False
        await asyncio.wait({opening})
        if opening.exception() is None:
            if run.sent:
                await run.ended.wait()
            opening.result().abort()
        return True
    finally:
        channel.abort()


def _result(run: _Run, started: float, *, timed_out: bool) -> ExecutionResult:
    return ExecutionResult(
        stdout=run.stdout.output(),
        stderr=run.stderr.output(),
        exit_code=None if timed_out else run.exit_code,
        signal=None if timed_out else run.signal,
        timed_out=timed_out,
        duration=time.monotonic() - started,
        run_id=run.id,
    )
