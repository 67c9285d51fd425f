# SPDX-License-Identifier: Apache-2.0
"""Wait for a job on behalf of a call, and show how it stands. Shared by all tools with jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from mcp_types import CallToolResult

from waggle.domain.host import Progress
from waggle.domain.programs.job import JobState, JobView, StreamName
from waggle.domain.toolset import Offer
from waggle.mcp.context import Ctx, Reports, with_heartbeat
from waggle.mcp.errors import Failure, clean, failure_result
from waggle.mcp.results.environments import success
from waggle.mcp.results.images import Picture, hang
from waggle.mcp.results.jobs import command_output, command_text
from waggle.service.programs.execution import ExecutionLimits
from waggle.service.programs.job import Job

_MAX_LINE = 120


async def attend(
    ctx: Reports, job: Job, seconds: float, *, every: float, doing: str, since: float = 0.0
) -> JobView:
    """Wait as the call that started it; see `Job.attend`. Tells the client what it prints.

    `since` is what the client's progress stands at, in seconds.
    """
    work = job.attend(seconds)
    return await with_heartbeat(ctx, lambda: _heard(job, doing), every, work, since=since)


class Phases:
    """A call of several steps: tells the client of each, in seconds that only grow."""

    def __init__(self, ctx: Reports, heartbeat: float) -> None:
        self._ctx = ctx
        self._heartbeat = heartbeat
        self._start = anyio.current_time()

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return anyio.current_time() - self._start

    async def say(self, message: str) -> None:
        """A phase begins."""
        await self._ctx.report_progress(self.elapsed, None, message)

    async def creating(self, _share: float, message: str) -> None:
        """The progress of a create, which is a part of this."""
        await self.say(message)

    async def attend(self, job: Job, doing: str) -> JobView:
        """Wait for a job of the call, as its phase."""
        await self.say(doing)
        return await attend(
            self._ctx, job, math.inf, every=self._heartbeat, doing=doing, since=self.elapsed
        )


@dataclass(frozen=True, slots=True)
class PassedOn:
    """Reports to whoever waits for shared work, which may be another caller later."""

    tell: Progress

    async def report_progress(
        self, progress: float, _total: float | None = None, message: str | None = None, /
    ) -> None:
        """Pass it on."""
        await self.tell(progress, message or "")


async def follow(ctx: Ctx, job: Job, seconds: float, *, every: float, doing: str) -> JobView:
    """Wait as a call whose work outlives it: when it is cancelled, the same call finds the job.

    Raises what the guest raised.
    """
    await with_heartbeat(ctx, lambda: _heard(job, doing), every, job.wait(seconds))
    return job.outcome()


async def watch(ctx: Ctx, job: Job, seconds: float, *, every: float) -> JobView:
    """Wait as anybody else: a call that is cancelled leaves the job alone."""
    await with_heartbeat(ctx, lambda: _heard(job, "running"), every, job.wait(seconds))
    return job.view()


def _heard(job: Job, doing: str) -> str:
    """What is going on, with the last line of output."""
    for name in (StreamName.STDOUT, StreamName.STDERR):
        if line := job.streams[name].last_line():
            return f"{doing}: {clean(line.strip(), _MAX_LINE)}"
    return doing


def result_of(
    view: JobView,
    offer: Offer,
    limits: ExecutionLimits,
    *,
    shown: int,
    pictures: Sequence[Picture] = (),
) -> CallToolResult:
    """How a job stands, as a result: ended, still running, or an error with the output so far.

    `shown` is how many characters of output. `pictures` are shown beside it.
    """
    output = command_output(view, offer, shown)
    text = command_text(output)
    if view.state is JobState.TIMED_OUT:
        failure = _timeout(view, limits.max_timeout)
        return failure_result(failure, offer, before=text, structured=output)
    if view.state is JobState.LOST:
        why, step = view.error, "Run it again."
        if view.diagnosis is not None:
            why, step = view.diagnosis.cause, view.diagnosis.next_step
        failure = Failure("guest_lost", f"Job {view.number} was lost: {clean(why)}", clean(step))
        return failure_result(failure, offer, before=text, structured=output)
    if pictures:
        output, lines, images = hang(view.environment_id, output, pictures, offer)
        return success(output, f"{text}\n{lines}", also=images)
    return success(output, text)


def _timeout(view: JobView, longest: float) -> Failure:
    return Failure(
        "timeout",
        f"The program ran into its timeout and was killed after {view.duration:.1f} s.",
        f"Give a larger timeout_seconds (at most {longest:g}) or none: what runs longer than "
        "wait_seconds goes on as a job; read_job waits for it.",
    )
