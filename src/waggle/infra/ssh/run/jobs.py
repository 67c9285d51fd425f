# SPDX-License-Identifier: Apache-2.0
"""The jobs of one guest over its connection: start, follow, kill. The rest is `requests`.

Called by the local guest. The guest's launcher (rootfs/kit/guest) keeps a job apart from any
connection, so a broken one is made again and followed from where it broke. `following` has the
formats. A start can be repeated: the guest starts a job of an id once.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Callable, Sequence

import asyncssh
import structlog

from waggle.domain.errors import GuestLost, JobNotFound
from waggle.domain.programs import Command, ExecutionResult
from waggle.domain.programs.guest_job import (
    Attributes,
    Detached,
    GuestJob,
    JobStreams,
)
from waggle.infra.ssh import SshConnection, SshSilent
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.run import CALL_AGAIN, KILL_PATIENCE, WINDOW, ask
from waggle.infra.ssh.run.deadline import Deadline
from waggle.infra.ssh.run.following import (
    CONTEXT_ENDED,
    FollowSession,
    JobEnd,
)
from waggle.infra.ssh.run.launcher import OutputCollector, frame
from waggle.infra.ssh.run.requests import JobRequests
from waggle.tasks import end, finish

ATTEMPTS = 3
"""Connections that may break in a row at once, without a byte of the job, until it is lost."""
LASTING_SECONDS = 1.0
"""How long a connection must have lasted for its break to be none of those: a guest that is quiet
for a day may lose it several times, and loses it with every freeze on some hypervisors."""
_AGAIN_SECONDS = 0.05
"""Between a connection that broke and the next, so that a guest that breaks all costs little."""
log = structlog.get_logger(__name__)


class _Following:
    """One job that is followed. `wake` is set when it is to be left, for a pause or a kill."""

    def __init__(self, job: GuestJob) -> None:
        self.job = job
        self.deadline = Deadline(job.remaining)
        self.wake = asyncio.Event()
        self.is_asked = False
        """Whether the guest may start it. Without the frame it only waits, and gives up."""
        self.session: FollowSession | None = None
        self.asked: tuple[asyncssh.SSHClientConnection, float] | None = None
        """The connection over which it was to be begun last, and since when."""
        self.broken = 0
        """How many connections have broken in a row; see ATTEMPTS."""

    @property
    def end(self) -> JobEnd | None:
        """How it ended, once the guest has said so."""
        return self.session.frames.end if self.session else None


class GuestJobs(JobRequests):
    """The jobs of one guest. `patience` is the seconds of each attempt to kill one."""

    def __init__(
        self,
        connection: SshConnection,
        *,
        patience: Sequence[float] = KILL_PATIENCE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(connection)
        self._patience = patience
        self._now = now
        self._under_way: set[_Following] = set()

    async def attend(self, job: GuestJob) -> ExecutionResult:
        """See `domain.host.Guest.attend`."""
        following = _Following(job)
        self._under_way.add(following)
        started = time.monotonic()
        try:
            async with following.deadline.timeout:
                return _result(job, await self._follow(following))
        except TimeoutError:
            if (found := following.end) is None:
                if job.has_ended:
                    raise GuestLost("The guest does not send what the job had printed.") from None
                if not (following.is_asked or job.is_started):
                    self._give_up(following)
                    raise SshSilent(
                        "The guest's SSH server did not answer within the command's time.",
                        hint=CALL_AGAIN,
                    ) from None
                if not await finish(self._kill(following)):
                    raise GuestLost(
                        "The command ran out of time, and the guest does not answer to have it "
                        "killed.",
                        hint="Destroy the environment: the command may still be running in it.",
                    ) from None
                seconds = time.monotonic() - started
                return _timed_out(job, seconds)
        except asyncio.CancelledError:
            if not (following.wake.is_set() or job.has_ended):
                await finish(self._kill(following))
            raise
        finally:
            job.remaining = max(0.0, following.deadline.remaining)
            self._under_way.discard(following)
        return _result(job, found)

    def detach(self) -> None:
        """Stop following all jobs, which continue in the guest; `attend` raises Detached."""
        for following in self._under_way:
            following.wake.set()

    def excuse(self) -> None:
        """Do not count the break of the connection that a freeze of the machine causes now."""
        for following in self._under_way:
            following.broken = 0

    def set_paused(self, paused: bool) -> None:
        """Stop all timeouts while the machine is stopped: that time does not count."""
        for following in self._under_way:
            following.deadline.set_paused(paused)

    def _give_up(self, following: _Following) -> None:
        """Drop a connection over which it could not be begun for as long as a kill would wait.

        The next call gets another one; others on this one notice, and go on over that.
        """
        if following.asked is not None:
            connection, since = following.asked
            if self._now() - since >= self._patience[0]:
                self._connection.drop(connection)

    async def _follow(self, following: _Following) -> JobEnd:
        """Return the job's end. Raises Detached, or GuestLost when it cannot be followed."""
        job = following.job
        while True:
            before = list(job.offsets)
            connection, since = await self._connection.get(), self._now()
            following.broken += 1
            session = await self._attempt(following, connection)
            if session.frames.end is not None:
                return _known(session.frames.end)
            if following.wake.is_set():
                raise Detached
            if session.complaint and job.has_ended:
                why = "a restart removes it, and newer jobs take its place"
                raise JobNotFound(f"The guest does not keep that job's output any more: {why}.")
            if session.is_invalid or session.complaint:
                log.warning("job_not_followed", job=job.id, complaint=session.complaint)
                raise GuestLost(
                    "The guest's launcher does not run the program as it should.", hint=CALL_AGAIN
                )
            has_lasted = self._now() - since >= LASTING_SECONDS
            if job.offsets != before or (session.frames.has_begun and has_lasted):
                following.broken = 0
            if following.broken == ATTEMPTS:
                raise GuestLost(
                    "The connection to the guest broke while the command ran; it was not finished.",
                    hint=CALL_AGAIN,
                )
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _attempt(
        self, following: _Following, connection: asyncssh.SSHClientConnection, *, start: bool = True
    ) -> FollowSession:
        """Follow it over this connection until it ends, that breaks, or it is to be left.

        Unless `start` is false, start it if the guest is not known to have it.
        """
        job = following.job
        session = following.session = FollowSession(job)
        starts = start and not job.is_started
        following.asked = connection, self._now()
        offsets = " ".join(map(str, job.offsets))
        question = f"start {job.id}" if starts else f"follow {job.id} {offsets}"
        opening = asyncio.create_task(open_exec(connection, session, question, window=WINDOW))
        leaving = asyncio.create_task(following.wake.wait())
        closing = asyncio.create_task(session.ended.wait())
        try:
            await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() or opening.exception() is not None:
                return session
            channel = opening.result()
            if starts:
                following.is_asked = True
                words = frame(job.command, job.attributes, job.note)
                channel.writelines([words, job.command.code or b"", job.command.stdin])
            channel.write_eof()
            await asyncio.wait({closing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncssh.Error):
            return session
        finally:
            await end(opening, leaving, closing)
            if not opening.cancelled() and opening.exception() is None:
                opening.result().abort()
        return session

    async def _kill(self, following: _Following) -> bool:
        """Kill the job's process tree; return whether the guest confirmed it. Bounded in time.

        Code in a context is interrupted first, and then its context is killed. If the guest does
        not obey, drop its connection and ask once more over a new one. What the job has printed is
        taken.
        """
        job = following.job
        if not following.is_asked and not job.is_started:
            return True
        context = job.attributes.context
        for turn in range(job.attributes.interrupts if context else 0):
            # A traceback may take its time, and another interrupt would begin it anew.
            patience = float(max(turn, 1))
            if await self._ends(following, f"signal {job.id} {signal.SIGINT:d}", patience):
                job.lost_context = following.end is not None and (
                    following.end.signal == CONTEXT_ENDED
                )
                return True
        job.lost_context = bool(context)
        for patience in self._patience:
            if await self._ends(following, f"kill {context or job.id}", patience):
                return True
            self._connection.hang_up()
        if not self._connection.is_closed:  # else it ended with its machine
            log.warning("job_not_killed", job=job.id)
        return False

    async def _ends(self, following: _Following, question: str, patience: float) -> bool:
        """Ask for its end, and follow it there. It may have ended before it could be asked."""
        following.wake = asyncio.Event()
        try:
            async with asyncio.timeout(patience):
                is_obeyed = (await ask(self._connection, question)).exit_code == 0
                while following.end is None:
                    connection = await self._connection.get()
                    session = await self._attempt(following, connection, start=False)
                    if session.complaint:  # it has not begun, and never will
                        return is_obeyed
        except (TimeoutError, GuestLost):
            return False
        return True


def anonymous_job(command: Command) -> GuestJob:
    """Return a job for a command that nobody follows again; its result holds the output."""
    collectors = (OutputCollector(command.output_limit) for _ in range(3))
    attributes = Attributes(keep=command.output_limit)
    streams = JobStreams(*collectors)
    return GuestJob(str(uuid.uuid4()), command, streams, command.timeout, attributes)


def _known(found: JobEnd) -> JobEnd:
    if found.is_lost:
        raise GuestLost(
            "The guest does not know how the program ended: the process that held it was killed.",
            hint=CALL_AGAIN,
        )
    return found


def _timed_out(job: GuestJob, seconds: float) -> ExecutionResult:
    """Make the result of a job that was killed at its timeout, so that nothing is left of it."""
    return ExecutionResult(
        stdout=job.streams.stdout.output(),
        stderr=job.streams.stderr.output(),
        exit_code=None,
        signal=None,
        timed_out=True,
        duration=seconds,
        run_id=job.id,
        context_ended=job.lost_context,
    )


def _result(job: GuestJob, found: JobEnd) -> ExecutionResult:
    return ExecutionResult(
        stdout=job.streams.stdout.output(),
        stderr=job.streams.stderr.output(),
        exit_code=found.exit_code,
        signal=found.signal_name,
        timed_out=False,
        duration=found.elapsed,
        run_id=job.id,
        left=found.left,
        context_ended=bool(job.attributes.context) and found.signal == CONTEXT_ENDED,
    )
