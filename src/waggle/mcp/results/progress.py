# SPDX-License-Identifier: Apache-2.0
"""Waiting for a job on behalf of a call, with progress, and the job's result.

Called by the tools that run programs or read jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from waggle.domain.host import Progress
from waggle.domain.programs.job import JobState, JobView, StreamName
from waggle.mcp.context import Ctx, Reports, with_heartbeat
from waggle.mcp.errors import Failure, clean
from waggle.mcp.results import Reply, failed, success
from waggle.mcp.results.images import Picture, hang
from waggle.mcp.results.jobs import command_output, command_text
from waggle.service.programs import Job
from waggle.service.programs.execution import ExecutionLimits

_MAX_LINE = 120


async def attend(
    ctx: Reports, job: Job, seconds: float, *, every: float, doing: str, since: float = 0.0
) -> JobView:
    """Wait as the call that started the job, reporting its output; see `Job.attend`.

    `since` is the client's progress so far, in seconds.
    """
    work = job.attend(seconds)
    return await with_heartbeat(ctx, lambda: _heard(job, doing), every, work, since=since)


class Phases:
    """The progress of a call with several steps, in seconds that only grow."""

    def __init__(self, ctx: Reports, heartbeat: float) -> None:
        self._ctx = ctx
        self._heartbeat = heartbeat
        self._start = anyio.current_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return anyio.current_time() - self._start

    async def say(self, message: str) -> None:
        """Report that a phase begins."""
        await self._ctx.report_progress(self.elapsed, None, message)

    async def creating(self, _share: float, message: str) -> None:
        """Report the progress of creating an environment as a step of this call."""
        await self.say(message)

    async def attend(self, job: Job, doing: str) -> JobView:
        """Wait for a job of the call, as one phase."""
        await self.say(doing)
        return await attend(
            self._ctx, job, math.inf, every=self._heartbeat, doing=doing, since=self.elapsed
        )


@dataclass(frozen=True, slots=True)
class PassedOn:
    """Reports for the call that waits for shared work, which may later be another call."""

    tell: Progress

    async def report_progress(
        self, progress: float, _total: float | None = None, message: str | None = None, /
    ) -> None:
        """Pass the progress on."""
        await self.tell(progress, message or "")


async def follow(ctx: Ctx, job: Job, seconds: float, *, every: float, doing: str) -> JobView:
    """Wait as a call whose work outlives it: cancelling leaves the job for the same call again.

    Raises the guest's error.
    """
    await with_heartbeat(ctx, lambda: _heard(job, doing), every, job.wait(seconds))
    return job.outcome()


async def watch(ctx: Ctx, job: Job, seconds: float, *, every: float) -> None:
    """Wait as a call that did not start the job: cancelling it leaves the job running."""
    await with_heartbeat(ctx, lambda: _heard(job, "running"), every, job.wait(seconds))


def _heard(job: Job, doing: str) -> str:
    """Return `doing` with the last line of output."""
    for name in (StreamName.STDOUT, StreamName.STDERR):
        if line := job.streams[name].last_line():
            return f"{doing}: {clean(line.strip(), _MAX_LINE)}"
    return doing


def result_of(
    view: JobView,
    limits: ExecutionLimits,
    *,
    shown: int,
    pictures: Sequence[Picture] = (),
) -> Reply:
    """Return a job as a result: ended, still running, or an error with the output so far.

    `shown` is the most characters of output. `pictures` are shown with it.
    """
    output, hints = command_output(view, shown)
    if view.state is JobState.TIMED_OUT:
        failure = _timeout(view, limits.max_timeout)
        return failed(failure, output, command_text, hints)
    if view.state is JobState.LOST:
        why, step = view.error, "Run it again."
        if view.diagnosis is not None:
            why, step = view.diagnosis.cause, view.diagnosis.next_step
        failure = Failure("guest_lost", f"Job {view.number} was lost: {clean(why)}", clean(step))
        return failed(failure, output, command_text, hints)
    if pictures:
        output, images, more = hang(view.environment_id, output, pictures)
        return success(output, command_text, also=images, hints=[*hints, *more])
    return success(output, command_text, hints=hints)


def _timeout(view: JobView, longest: float) -> Failure:
    return Failure(
        "timeout",
        f"The program ran into its timeout and was killed after {view.duration:.1f} s.",
        f"Give a larger timeout_seconds (at most {longest:g}) or none: what runs longer than "
        "wait_seconds goes on as a job; read_job waits for it.",
    )
