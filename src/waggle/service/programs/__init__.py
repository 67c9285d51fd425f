# SPDX-License-Identifier: Apache-2.0
"""One job: a program from its start until its output is forgotten.

`JobService` makes jobs and owns their tasks; any holder of a `Job` may wait, read and kill.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import anyio
import structlog

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.diagnosis.reach import also_refused
from waggle.domain.errors import GuestLost, GuestMisbehaves, WaggleError
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.domain.programs import (
    Command,
    ExecutionResult,
    NewRecording,
)
from waggle.domain.programs.context import (
    context_ended,
    ending_by_interrupt,
    ending_of,
    in_context,
    interrupted,
)
from waggle.domain.programs.guest_job import FoundJob, GuestJob, JobStreams
from waggle.domain.programs.job import DISPLAYS, JobState, JobView, Recorded, StreamName
from waggle.service.programs.notes import Note
from waggle.service.programs.record import INSTALLS, JobRecord, Watched, What

__all__ = ["INSTALLS", "Job", "What"]

log = structlog.get_logger(__name__)
CATCH_UP_SECONDS = 5.0
"""How long a reader waits for what an adopted job had printed before, which its guest sends."""
READ_SECONDS = 30.0
"""How long a guest may take to send what a job that has ended had printed."""
CONTEXT_END_SECONDS = 3.0
"""How long code whose context has ended waits for the cause."""
Grown = Callable[["Job", Recorded], None]
"""Called when a job has printed or displayed. It must not raise or wait."""
Wait = Callable[[float], Awaitable[None]]
"""Waits for the end of a job, or so many seconds."""
Attend = Callable[[GuestJob], Awaitable[tuple[ExecutionResult, Guest]]]
"""Follows a job to its end, wherever its environment runs; also returns the guest it ended in."""


class Job(JobRecord):
    """A program that runs or ran. Safe for any number of waiting tasks."""

    def __init__(
        self,
        environment_id: str,
        note: Note,
        what: What,
        command: Command,
        record: NewRecording,
        clock: Clock,
        *,
        run_id: str,
        context: Job | None = None,
    ) -> None:
        """`context` is the job of the live interpreter that its code runs in."""
        super().__init__(environment_id, note, what, command, record, clock, run_id=run_id)
        self.context = context
        self._begun = anyio.Event()
        self.guest_job.started = self._begun.set
        self._printed = (0, 0, 0)
        self._caught_up = anyio.Event()
        self._caught_up.set()
        self._scope = anyio.CancelScope()
        self._reading = anyio.Lock()
        self._lost: WaggleError | None = None
        self._ended = anyio.Event()

    def take_over(self, found: FoundJob) -> None:
        """Be a job that its guest has already. If that has ended, its output is still unread."""
        self.guest_job.is_started = True
        self._begun.set()
        self.begin(found.elapsed)
        if found.is_running:
            self.guest_job.remaining = max(0.0, self.limit - found.elapsed)
            self._printed = found.printed
            self._caught_up = anyio.Event()
            self._catch_up()
        else:
            self.guest_job.has_ended = True
            self._unread = found
            self._state = JobState.EXITED if found.signal is None else JobState.SIGNALED
            self._ended.set()

    @property
    def is_unread(self) -> bool:
        """Whether it has ended, and its output and the rest of its end are only in its guest."""
        return self._unread is not None

    async def read_from(self, guest: Guest) -> None:
        """Read what it printed and how it ended. Raises GuestLost or JobNotFound."""
        async with self._reading:
            if self._unread is not None:
                self.guest_job.remaining = READ_SECONDS
                result = await guest.attend(self.guest_job)
                if result.context_ended and self.context is not None:
                    await self.context.read_from(guest)
                self._result, self._diagnosis = await self._in_context(result)
                self._unread = None

    def _catch_up(self) -> None:
        taken = zip(self.guest_job.offsets, self._printed, strict=False)
        if all(offset >= printed for offset, printed in taken):
            self._caught_up.set()

    async def caught_up(self) -> None:
        """Return when it has all that an adopted job had printed, has ended or is paused; bounded.

        Of a guest that does not send what it said it has, only the first readers wait.
        """
        if not self._caught_up.is_set():
            with anyio.move_on_after(CATCH_UP_SECONDS):
                async with anyio.create_task_group() as waits:
                    for event in (self._caught_up, self._ended, self._paused):
                        waits.start_soon(_until, event, waits.cancel_scope)
            self._caught_up.set()

    def lose(self, error: WaggleError) -> None:
        """End it as lost, if it runs: its program is gone, whatever its guest was to do."""
        if self.is_running:
            self._lost = error
            self._scope.cancel()

    def _grow(self, grown: Grown, name: Recorded) -> None:
        self._catch_up()
        grown(self, name)

    async def run(self, attend: Attend, grown: Grown, after: Sequence[Job] = ()) -> None:
        """Follow it to its end. Raises only when the server stops.

        It starts when the jobs in `after` have ended.
        """
        job = self.guest_job
        out, err = self.streams[StreamName.STDOUT], self.streams[StreamName.STDERR]
        job.streams = JobStreams(
            Watched(out, partial(self._grow, grown, StreamName.STDOUT)),
            Watched(err, partial(self._grow, grown, StreamName.STDERR)),
            Watched(self.display, partial(self._grow, grown, DISPLAYS)),
        )
        state, result = JobState.KILLED, None
        try:
            with self._scope:
                for earlier in after:
                    await earlier.ended()
                if self.context is not None:
                    await self.context.begun()
                if not job.is_started:
                    self.begin()
                result, guest = await attend(job)
                result, self._diagnosis = await self._in_context(result)
                state = _ending(result)
                if self._diagnosis is None:
                    found = await guest.diagnose(job.command, result)
                    self._diagnosis = found if self.what.context is None else in_context(found)
                elif use := guest.network_use():
                    refused = use.denied_within(result.duration)
                    self._diagnosis = also_refused(self._diagnosis, refused)
            if self._lost is not None:
                raise self._lost
            if state is JobState.KILLED:
                self._diagnosis = await self._after_kill()
        except Exception as error:
            self.failure = error
            state = JobState.LOST
            self._diagnosis = _lost(error)
            if not isinstance(error, WaggleError):
                log.exception("job_failed", environment=self.environment_id, job=self.number)
        finally:
            self._state, self._result = state, result
            self._ended_at = self._clock()

    def settle(self) -> None:
        """Wake waiting tasks: it has ended and no longer holds its environment in use."""
        self._ended.set()

    async def wait(self, seconds: float) -> None:
        """Return when it has ended or is paused, or after `seconds`. Safe to cancel."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as waits:
                for event in (self._ended, self._paused):
                    waits.start_soon(_until, event, waits.cancel_scope)

    async def ended(self) -> None:
        """Return when it has ended."""
        await self._ended.wait()

    async def begun(self) -> None:
        """Return when its guest has it, or it has ended without."""
        async with anyio.create_task_group() as waits:
            for event in (self._begun, self._ended):
                waits.start_soon(_until, event, waits.cancel_scope)

    async def _in_context(
        self, result: ExecutionResult
    ) -> tuple[ExecutionResult, Diagnosis | None]:
        """Return how it ended, as its context did if that ended first, and what is lost."""
        key, context = self.what.context, self.context
        if key is None or not (result.timed_out or result.context_ended):
            return result, None
        if context is None:  # so many jobs ago that it is forgotten
            return replace(result, signal="SIGKILL"), context_ended(key, "how is forgotten")
        if not result.context_ended:
            return result, interrupted(key)
        await context.wait(CONTEXT_END_SECONDS)
        view = context.view()
        if context.is_running and not view.is_paused:  # whatever it does, it is of no use
            await context.kill()
        if not result.timed_out:
            signal = None if view.exit_code is not None else view.signal or "SIGKILL"
            result = replace(result, exit_code=view.exit_code, signal=signal)
        if result.timed_out:
            return result, context_ended(key, ending_by_interrupt(view))
        return result, context_ended(key, ending_of(view), view.diagnosis)

    async def _after_kill(self) -> Diagnosis | None:
        """Return what became of the context in which its code ran when it was killed."""
        key, context, job = self.what.context, self.context, self.guest_job
        if key is None or context is None or not job.is_started:
            return None
        if not job.lost_context:
            return interrupted(key)
        await context.wait(CONTEXT_END_SECONDS)
        if context.is_running and not context.is_paused:  # the next code needs another one
            await context.kill()
        return context_ended(key, ending_by_interrupt(context.view()))

    async def attend(self, seconds: float, wait: Wait | None = None) -> JobView:
        """Wait as the call that started it and return its outcome. Cancelling kills the job.

        `wait` waits in another way than `self.wait` does. Raises what the guest raised.
        """
        try:
            await (wait or self.wait)(seconds)
        except BaseException:
            await self.kill()
            raise
        return self.outcome()

    def outcome(self) -> JobView:
        """Return what is known now. Raises what the guest raised."""
        if self.failure is not None:
            raise self.failure
        return self.view()

    async def kill(self) -> None:
        """End its whole process tree and return when that is done. Idempotent; bounded.

        Finishes when the caller is cancelled.
        """
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()


async def _until(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _ending(result: ExecutionResult) -> JobState:
    if result.timed_out:
        return JobState.TIMED_OUT
    return JobState.EXITED if result.signal is None else JobState.SIGNALED


def _lost(error: Exception) -> Diagnosis | None:
    if not isinstance(error, GuestLost | GuestMisbehaves):
        return None
    return Diagnosis(error.code, error.message, error.hint)
