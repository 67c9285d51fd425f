# SPDX-License-Identifier: Apache-2.0
"""Run commands in a guest through the kit's launcher (rootfs/kit/guest/session.c).

Code, arguments and variables travel as a frame on stdin, so nothing is quoted for any shell. Each
run has an id and in the guest a cgroup of that id: killing the cgroup ends the whole process tree.

Asks the kit's launcher itself (rootfs/kit/guest/session.c), and what runs have left running.

Called by `shell` and the local guest. What the launcher answers is the guest's word.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import asyncssh
import structlog

from waggle.domain.diagnosis.evidence import Record
from waggle.domain.errors import GuestLost
from waggle.domain.programs.execution import NOTHING_LEFT, Command, ExecutionResult, Left, Streams
from waggle.infra.ssh.connection import SshConnection
from waggle.infra.ssh.run.launcher import (
    MAX_LEFT,
    MAX_PROGRAMS,
    MAX_RECORD,
    CommandSession,
    Ending,
    frame,
    is_program,
    parse_left,
    parse_record,
)
from waggle.infra.ssh.typed import Channel, open_exec
from waggle.tasks import end, finish

_ANSWER_WINDOW: Final = 256 << 10
_WORD: Final = 1_000
_SECONDS: Final = 30.0


async def ask(connection: SshConnection, question: str, limit: int = _WORD) -> CommandSession:
    """Ask; `limit` is the bytes kept of the answer, whose exit code is None when there is none.

    Not bounded in time. Raises GuestLost; safe to cancel.
    """
    answer = CommandSession(2 * limit)
    open_connection = await connection.get()
    try:
        channel = await open_exec(open_connection, answer, question, window=_ANSWER_WINDOW)
    except (OSError, asyncssh.Error):
        return answer
    try:
        channel.write_eof()
        await answer.ended.wait()
    finally:
        channel.abort()
    return answer


class LeftPrograms:
    """What was left running in one guest. `running` has the ids of runs that go on.

    Each question takes at most 30 s. They raise GuestLost; safe to cancel.
    """

    def __init__(self, connection: SshConnection, running: Callable[[], frozenset[str]]) -> None:
        self._connection = connection
        self._running = running

    async def all(self) -> Left:
        """Those that are there; NOTHING_LEFT when the guest talks nonsense."""
        before = self._running()
        answer = await self._ask("programs", MAX_LEFT)
        said = answer.stdout.output()
        left = parse_left(said.head) if answer.exit_code == 0 else NOTHING_LEFT
        return left.without(before | self._running())

    async def end(self, pid: int) -> bool:
        """Kill one with its descendants; False when there is none."""
        return (await self._ask(f"end {pid}")).exit_code == 0

    async def end_run(self, run_id: str) -> None:
        """Kill all that a run has left, of which something is left."""
        if (await self._ask(f"kill {run_id}")).exit_code != 0:
            raise GuestLost("The guest did not end what was left running.")

    async def _ask(self, question: str, limit: int = _WORD) -> CommandSession:
        try:
            async with asyncio.timeout(_SECONDS):
                return await ask(self._connection, question, limit)
        except TimeoutError:
            raise GuestLost("The guest does not say what was left running in it.") from None


KILL_PATIENCE: Final = (6.0, 6.0)
"""Seconds for killing over the connection at hand, then once more over a new one.

A thousand processes take an emulated guest seconds to end, and dropping the connection at hand
breaks all other runs, so it must not happen early.
"""
_WINDOW: Final = 2 << 20
_CALL_AGAIN: Final = "If the environment is still running, call again; else create a new one."
_ANSWER_LIMIT: Final = 1_000
log = structlog.get_logger(__name__)


class _Run(CommandSession):
    """One command on its way. `opening` is set once the guest may have heard of it."""

    def __init__(self, limit: int, into: Streams | None) -> None:
        super().__init__(limit, into)
        self.id = ""
        self.opening: asyncio.Task[Channel] | None = None
        self.sent = False
        self.deadline = asyncio.timeout(None)
        self._left: float | None = None

    def stop_the_clock(self, still: bool) -> None:
        """Have its time stand still while its machine does, or go on with what was left of it."""
        now, when = asyncio.get_running_loop().time(), self.deadline.when()
        if self.deadline.expired():
            return
        if still and when is not None:
            self._left = when - now
            self.deadline.reschedule(None)
        elif not still and self._left is not None:
            self.deadline.reschedule(now + self._left)
            self._left = None

    def begin(self, connection: asyncssh.SSHClientConnection) -> asyncio.Task[Channel]:
        """Ask the guest for a channel; not cancelled with the caller, so that `_kill` can end it.

        Each attempt has an id of its own: what is left of an earlier one cannot disturb it.
        """
        self.id = str(uuid.uuid4())
        self.ending = Ending(self.id)
        self.ended.clear()
        opening = open_exec(connection, self, f"run {self.id}", window=_WINDOW)
        self.opening = asyncio.create_task(opening)
        return self.opening


class Shell:
    """Runs commands over a pooled connection. `patience` is seconds for each try at a kill."""

    def __init__(
        self, connection: SshConnection, *, patience: Sequence[float] = KILL_PATIENCE
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._running: set[_Run] = set()

    async def run(self, command: Command, into: Streams | None = None) -> ExecutionResult:
        """Run a command to its end, its timeout or its cancellation; see `domain.host.Guest.run`.

        Raises GuestLost when the connection breaks before the command's end is known, and when
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
            run.deadline = asyncio.timeout(command.timeout)
            async with run.deadline:
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
            raise GuestLost(
                "The connection to the guest broke while the command ran; it was not finished.",
                hint=_CALL_AGAIN,
            )
        return _result(run, started, timed_out=False)

    def stand_still(self, still: bool) -> None:
        """Whether the guest stands still: that is not of the time of commands that run."""
        for run in self._running:
            run.stop_the_clock(still)

    def running(self) -> frozenset[str]:
        """The ids of the runs that go on."""
        return frozenset(run.id for run in self._running)

    async def why(self, run_id: str, programs: Sequence[str] = ()) -> Record:
        """What the guest knows of the end of a run, and which of these programs are there.

        A name that can be no program's is not asked for, nor are more than MAX_PROGRAMS. NO_RECORD
        when it knows nothing. Not bounded in time. Raises GuestLost; safe to cancel.
        """
        names = [name for name in programs if is_program(name)][:MAX_PROGRAMS]
        answer = await ask(self._connection, " ".join(["why", run_id, *names]), MAX_RECORD)
        said = answer.stdout.output()
        return parse_record(said.head + said.tail, run_id)

    async def _timed_out(self, run: _Run, started: float) -> ExecutionResult:
        if run.opening is None:
            raise GuestLost(
                "The guest's SSH server did not answer within the command's time.",
                hint=_CALL_AGAIN,
            )
        if not await finish(self._kill(run)):
            raise GuestLost(
                "The command ran out of time, and the guest does not answer to have it killed.",
                hint="Destroy the environment: the command may still be running in it.",
            )
        return _result(run, started, timed_out=True)

    async def _start(self, run: _Run, command: Command) -> None:
        """Send the command, over a new connection if the old one turns out to be dead."""
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
                    f"The command could not be started: {type(error).__name__}.", hint=_CALL_AGAIN
                ) from error

    async def _kill(self, run: _Run) -> bool:
        """Kill the run's whole process tree; say whether the guest confirmed it. Bounded.

        A guest that does not obey loses its connection, and is asked once more over a new one.
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
    """Kill it in the guest, then wait until its output has ended."""
    answer = CommandSession(_ANSWER_LIMIT)
    channel = await open_exec(connection, answer, f"kill {run.id}", window=_WINDOW)
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
    """One that ran out of time has left nothing: all of it was killed, whatever it said before."""
    return ExecutionResult(
        stdout=run.stdout.output(),
        stderr=run.stderr.output(),
        exit_code=None if timed_out else run.exit_code,
        signal=None if timed_out else run.signal,
        timed_out=timed_out,
        duration=time.monotonic() - started,
        run_id=run.id,
        left=run.ending.left if run.ending and not timed_out else NOTHING_LEFT,
    )
