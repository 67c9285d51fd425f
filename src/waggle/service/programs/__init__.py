# SPDX-License-Identifier: Apache-2.0
"""One job: a program from its start until its output is forgotten.

`JobService` makes jobs and owns their tasks; any holder of a `Job` may wait, read and kill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import anyio
import structlog

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import GuestLost, GuestMisbehaves, WaggleError
from waggle.domain.host import Guest
from waggle.domain.observer import Clock
from waggle.domain.programs import (
    NOTHING_LEFT,
    Command,
    ExecutionResult,
    NewRecording,
    Output,
    Recording,
    Streams,
)
from waggle.domain.programs.job import JobBrief, JobKind, JobState, JobView, StreamName

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """A recording that calls `grown` after every feed."""

    recording: Recording
    grown: Callable[[], None]

    def feed(self, data: bytes) -> None:
        """Keep the data and call `grown`."""
        self.recording.feed(data)
        self.grown()

    def output(self) -> Output:
        """Return the recording's output."""
        return self.recording.output()


Grown = Callable[["Job", StreamName], None]
"""Called when a job has printed. It must not raise or wait."""


@dataclass(frozen=True, slots=True)
class What:
    """A description, for its owner, of what a job runs.

    Jobs with a `turn` run one after the other in their environment. While one runs or waits, a
    start with an equal `turn` returns that job.
    """

    kind: JobKind
    summary: str
    turn: tuple[str, ...] = ()


class Job:
    """A program that runs or ran. Safe for any number of waiting tasks."""

    def __init__(
        self, environment_id: str, number: int, what: What, record: NewRecording, clock: Clock
    ) -> None:
        self.environment_id = environment_id
        self.number = number
        self.what = what
        self.streams = {StreamName.STDOUT: record(), StreamName.STDERR: record()}
        self.failure: Exception | None = None
        """The error of the guest, for the call that started the job."""
        self.limit: float = 0.0
        """Seconds after which it is killed."""
        self._clock = clock
        self._started_at: datetime = clock()
        self._ended_at: datetime | None = None
        self._state = JobState.RUNNING
        self._result: ExecutionResult | None = None
        self._diagnosis: Diagnosis | None = None
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._state is JobState.RUNNING

    @property
    def state(self) -> JobState:
        """Its state now."""
        return self._state

    @property
    def run_id(self) -> str:
        """The guest's name for it once it has ended; empty before, and if it was lost."""
        return self._result.run_id if self._result else ""

    @property
    def has_left(self) -> bool:
        """Whether it left programs running when it ended."""
        return self._result is not None and self._result.left.count > 0

    def forget_left(self) -> None:
        """Note that the programs it left have been killed, so that no result names them."""
        if self._result is not None:
            self._result = replace(self._result, left=NOTHING_LEFT)

    @property
    def kept_bytes(self) -> int:
        """The bytes of output that it holds."""
        return sum(stream.kept for stream in self.streams.values())

    async def run(
        self, guest: Guest, command: Command, grown: Grown, after: Sequence[Job] = ()
    ) -> None:
        """Run it to its end; see `Guest.run`. Raises only when the server stops.

        It starts when the jobs in `after` have ended.
        """
        out, err = (
            Watched(self.streams[name], partial(grown, self, name))
            for name in (StreamName.STDOUT, StreamName.STDERR)
        )
        into = Streams(out, err)
        state, result = JobState.KILLED, None
        try:
            with self._scope:
                for earlier in after:
                    await earlier.wait(math.inf)
                result = await guest.run(command, into)
                state = _ending(result)
                self._diagnosis = await guest.diagnose(command, result)
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
        """Return when it has ended, or after `seconds`. Cancelling ends the wait only."""
        with anyio.move_on_after(seconds):
            await self._ended.wait()

    async def attend(self, seconds: float) -> JobView:
        """Wait as the call that started it and return its outcome. Cancelling kills the job.

        Raises what the guest raised.
        """
        try:
            await self.wait(seconds)
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

    def view(self) -> JobView:
        """Return what is known now."""
        result = self._result
        return JobView(
            environment_id=self.environment_id,
            number=self.number,
            kind=self.what.kind,
            summary=self.what.summary,
            state=self._state,
            started_at=self._started_at,
            duration=self._duration(),
            stdout=self.streams[StreamName.STDOUT].output(),
            stderr=self.streams[StreamName.STDERR].output(),
            exit_code=result.exit_code if result else None,
            signal=result.signal if result else None,
            error=_words(self.failure),
            diagnosis=self._diagnosis,
            left=result.left if result else NOTHING_LEFT,
            limit=self.limit,
        )

    def brief(self) -> JobBrief:
        """Return what is known now, without reading its output."""
        result = self._result
        return JobBrief(
            number=self.number,
            kind=self.what.kind,
            summary=self.what.summary,
            state=self._state,
            started_at=self._started_at,
            duration=self._duration(),
            exit_code=result.exit_code if result else None,
            stdout_bytes=self.streams[StreamName.STDOUT].total,
            stderr_bytes=self.streams[StreamName.STDERR].total,
        )

    def _duration(self) -> float:
        if self._result is not None:
            return self._result.duration
        return ((self._ended_at or self._clock()) - self._started_at).total_seconds()

    def close(self) -> None:
        """Free its output. Idempotent."""
        for stream in self.streams.values():
            stream.close()


def _ending(result: ExecutionResult) -> JobState:
    if result.timed_out:
        return JobState.TIMED_OUT
    return JobState.EXITED if result.signal is None else JobState.SIGNALED


def _lost(error: Exception) -> Diagnosis | None:
    if not isinstance(error, GuestLost | GuestMisbehaves):
        return None
    return Diagnosis(error.code, error.message, error.hint)


def _words(error: Exception | None) -> str:
    if error is None:
        return ""
    return error.message if isinstance(error, WaggleError) else "internal error"
