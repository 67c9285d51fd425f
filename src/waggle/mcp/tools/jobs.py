# SPDX-License-Identifier: Apache-2.0
"""The tools for jobs, also those that outlive the call that started them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import parse_output
from waggle.domain.programs.job import JobBrief, JobView, StreamName, parse_wait
from waggle.mcp.context import Ctx, Services, current_owner, watch
from waggle.mcp.results import Reply, success
from waggle.mcp.results.images import pictures_for, result_of
from waggle.mcp.results.jobs import (
    CommandOutput,
    JobItem,
    JobList,
    JobReport,
    left_items,
    left_lines,
    shown_ms,
    took,
)
from waggle.mcp.results.pages import MAX_BYTES, MAX_PATTERN, StreamPage, read_page
from waggle.mcp.schema.parameters import EnvironmentId, JobId, MaxOutput, Wait, searchable
from waggle.mcp.schema.tool import READS, SETTLES, OfferedTool, make_tool
from waggle.service.programs import Job

_ReadJobId = Annotated[
    int | None, Field(description="Default: list the jobs and left-over programs.")
]
_ReadWait = Annotated[float | None, Field(description="Wait so long for its end.")]
_Kill = Annotated[bool, Field(description="End it, with all its processes.")]
_Pid = Annotated[int | None, Field(description="Left-over program to end.")]
_Stream = Annotated[Literal["stdout", "stderr"] | None, Field()]
_Offset = Annotated[
    int | None, Field(description="Where to begin, in bytes; below 0: from the end.")
]
_Limit = Annotated[int | None, Field(ge=1, le=MAX_BYTES, description="Bytes.")]
_Search = Annotated[
    str | None, Field(max_length=MAX_PATTERN, description="Only lines with this text.")
]
_NONE = "No program ran in this environment yet."


class JobTools:
    """wait_job, read_job, kill_job, list_jobs."""

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat
        self._albums = services.albums

    async def wait_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: JobId,
        wait_seconds: Wait = None,
        max_output: MaxOutput = None,
    ) -> Annotated[Reply, CommandOutput]:
        """Wait for a job's end, or a while."""
        wait = parse_wait(wait_seconds, self._limits.wait)
        shown = parse_output(max_output, self._limits.output)
        owner = current_owner(ctx)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        await self._jobs.resume(job, owner=owner)
        await watch(ctx, job, wait, every=self._heartbeat)
        return await self._result(job, shown)

    async def read_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: _ReadJobId = None,
        wait_seconds: _ReadWait = None,
        stream: _Stream = None,
        offset: _Offset = None,
        limit: _Limit = None,
        search: _Search = None,
        kill: _Kill = False,
        pid: _Pid = None,
    ) -> Annotated[Reply, JobReport]:
        """Wait for a job, end it, read a part of its output, or list all jobs."""
        owner = current_owner(ctx)
        if job_id is None:
            if pid is not None:
                await self._jobs.left.end(environment_id, pid, owner=owner)
            elif kill:
                raise InvalidArgument(
                    "No program to kill is named.",
                    hint="Give job_id, or pid for a left-over program; without both, read_job "
                    "lists them.",
                )
            return await self._listed(environment_id, owner, ended=pid)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        if kill:
            await self._jobs.kill(job, owner=owner)
        elif wait_seconds is not None:
            await self._jobs.resume(job, owner=owner)
            await watch(
                ctx, job, parse_wait(wait_seconds, self._limits.wait), every=self._heartbeat
            )
        is_page = stream or offset is not None or limit or search
        if not is_page and (kill or wait_seconds is not None):
            return await self._result(job, self._limits.output)
        name = StreamName(stream or "stdout")
        part = read_page(job.streams[name], offset=offset or 0, limit=limit, search=search or None)
        view = job.view()
        result = JobReport(
            status=view.state.value,
            exit_code=view.exit_code,
            content=part.content,
            offset=part.offset,
            next_offset=part.next_offset,
            size=part.size,
        )
        return success(result, part.content, _place(part, view))

    async def _result(self, job: Job, shown: int) -> Reply:
        """Return its status, as the call that started it would."""
        view = job.view()
        pictures = await pictures_for(self._albums, job, view)
        return result_of(view, self._limits, shown=shown, pictures=pictures)

    async def kill_job(
        self, ctx: Ctx, *, environment_id: EnvironmentId, job_id: JobId
    ) -> Annotated[Reply, CommandOutput]:
        """End a job with all its processes."""
        owner = current_owner(ctx)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        await self._jobs.kill(job, owner=owner)
        return result_of(job.view(), self._limits, shown=self._limits.output)

    async def list_jobs(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[Reply, JobList]:
        """List an environment's jobs."""
        return await self._listed(environment_id, current_owner(ctx))

    async def _listed(self, environment_id: str, owner: Owner, ended: int | None = None) -> Reply:
        """List all but the program `ended`, which the guest may still be ending."""
        jobs = await self._jobs.list(environment_id, owner=owner)
        left = await self._jobs.left.look(environment_id, owner=owner)
        items, note = [_item(job) for job in jobs], "" if jobs else _NONE
        shown = [item for item in left_items(left) if item.pid != ended]
        result = JobList(jobs=items, count=len(items), left_running=shown, note=note)
        lines = [*map(_line, result.jobs), *left_lines(result.left_running)]
        return success(result, "\n".join(lines))


def _place(part: StreamPage, view: JobView) -> str:
    more = "this is the end" if part.next_offset is None else f"continue at {part.next_offset}"
    return f"[from byte {part.offset} of {part.size}; {more}; {_how(view.state, view.exit_code)}]"


def _how(state: str, exit_code: int | None) -> str:
    return state if exit_code is None else f"{state} {exit_code}"


def _item(job: JobBrief) -> JobItem:
    return JobItem(
        job_id=job.number,
        tool=job.kind.value,
        summary=job.summary,
        status=job.state.value,
        exit_code=job.exit_code,
        duration_ms=shown_ms(job.duration, job.state),
    )


def _line(item: JobItem) -> str:
    how = f"{_how(item.status, item.exit_code)}{took(item.duration_ms)}"
    return f"{item.job_id} {item.tool} ({how}): {item.summary}"


def job_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = JobTools(services)
    return [
        make_tool(
            tools.read_job,
            title="Read, wait for or kill a job",
            description="Wait for a job (a program that outlived its call), read or search its "
            "output, or kill it.",
            annotations=SETTLES,
            meta=searchable("wait for, read the output of, list or kill background programs"),
            shows_pictures=True,
        ),
        make_tool(
            tools.wait_job,
            title="Wait for a job",
            description="Wait until a job ends, and return its output.",
            annotations=READS,
            meta=searchable("wait for a background program"),
            shows_pictures=True,
        ),
        make_tool(
            tools.kill_job,
            title="Kill a job",
            description="End a job with all processes that it started.",
            annotations=SETTLES,
            meta=searchable("kill or stop a background program"),
        ),
        make_tool(
            tools.list_jobs,
            title="List jobs",
            description="List the jobs of an environment, oldest first.",
            annotations=READS,
            meta=searchable("list background programs"),
        ),
    ]
