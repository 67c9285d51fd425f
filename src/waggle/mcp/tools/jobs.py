# SPDX-License-Identifier: Apache-2.0
"""The tools for programs that outlive the call that started them."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.job import JobBrief, JobState, JobView, StreamName, parse_wait
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.job_results import CommandOutput, JobItem, JobList, JobOutput
from waggle.mcp.resources.uris import output_uri
from waggle.mcp.results import rfc3339, success
from waggle.mcp.stream_page import DEFAULT_BYTES, MAX_BYTES, MAX_PATTERN, StreamPage, read_page
from waggle.mcp.tools.attend import result_of, watch
from waggle.mcp.tools.parameters import EnvironmentId, JobId, Wait

_Stream = Annotated[Literal["stdout", "stderr"], Field(description="Which of its streams.")]
_Offset = Annotated[
    int,
    Field(
        description="Where to begin, in bytes: 0, or next_offset of the last result. Below 0 it "
        "counts from the end, as -2000 for the last 2,000 bytes."
    ),
]
_Limit = Annotated[
    int | None,
    Field(ge=1, le=MAX_BYTES, description=f"Bytes of output to return. Default {DEFAULT_BYTES:,}."),
]
_Search = Annotated[
    str | None,
    Field(
        max_length=MAX_PATTERN,
        description="Return only lines from there on that contain this text, with their offsets.",
    ),
]


class JobTools:
    """wait_job, read_job, kill_job, list_jobs."""

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat
        self._offer = services.offer

    async def wait_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: JobId,
        wait_seconds: Wait = None,
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Wait for a job's end, or a while."""
        wait = parse_wait(wait_seconds, self._limits.wait)
        job = self._jobs.get(environment_id, job_id, owner=current_owner(ctx))
        view = await watch(ctx, job, wait, every=self._heartbeat)
        return result_of(view, self._offer, self._limits.max_timeout)

    async def read_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: JobId,
        stream: _Stream = "stdout",
        offset: _Offset = 0,
        limit: _Limit = None,
        search: _Search = None,
    ) -> Annotated[CallToolResult, JobOutput]:
        """Read what a job printed."""
        job = self._jobs.get(environment_id, job_id, owner=current_owner(ctx))
        name = StreamName(stream)
        part = read_page(job.streams[name], offset=offset, limit=limit, search=search or None)
        view = job.view()
        result = JobOutput(
            job_id=job_id,
            status=view.state.value,
            stream=stream,
            content=part.content,
            offset=part.offset,
            next_offset=part.next_offset,
            size=part.size,
            uri=output_uri(job.environment_id, job_id, name),
        )
        return success(result, *([part.content] if part.content else []), _note(part, view))

    async def kill_job(
        self, ctx: Ctx, *, environment_id: EnvironmentId, job_id: JobId
    ) -> Annotated[CallToolResult, CommandOutput]:
        """End a job with all its processes."""
        job = self._jobs.get(environment_id, job_id, owner=current_owner(ctx))
        await job.kill()
        return result_of(job.view(), self._offer, self._limits.max_timeout)

    async def list_jobs(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[CallToolResult, JobList]:
        """List an environment's jobs."""
        jobs = self._jobs.list(environment_id, owner=current_owner(ctx))
        result = JobList(jobs=[_item(job) for job in jobs], count=len(jobs))
        lines = [_line(item) for item in result.jobs]
        return success(result, "\n".join(lines or ["No program ran in this environment yet."]))


def _note(part: StreamPage, view: JobView) -> str:
    going = "; the job still runs" if view.state is JobState.RUNNING else ""
    more = "this is the end" if part.next_offset is None else f"go on at {part.next_offset}"
    return f"[from byte {part.offset} of {part.size}; {more}{going}]"


def _item(job: JobBrief) -> JobItem:
    return JobItem(
        job_id=job.number,
        tool=job.kind.value,
        summary=job.summary,
        status=job.state.value,
        exit_code=job.exit_code,
        started_at=rfc3339(job.started_at),
        duration_ms=round(job.duration * 1000),
        stdout_bytes=job.stdout_bytes,
        stderr_bytes=job.stderr_bytes,
    )


def _line(item: JobItem) -> str:
    code = "" if item.exit_code is None else f" {item.exit_code}"
    return f"{item.job_id} {item.status}{code} ({item.duration_ms} ms) {item.tool}: {item.summary}"


def job_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    tools = JobTools(services)
    example = '"environment_id": "...", "job_id": 3'
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    return [
        make_tool(
            tools.wait_job,
            title="Wait for a job",
            description=(
                "Wait until a job ends, at most wait_seconds, and return its output and how it "
                "stands. A job goes on when this call ends or is cancelled.\n"
                f'Example: {{{example}, "wait_seconds": 60}}'
            ),
            annotations=reads,
        ),
        make_tool(
            tools.read_job,
            title="Read a job's output",
            description=(
                "Read what a job printed, while it runs or afterwards: from an offset on, from "
                "the end, or only lines with a text.\n"
                f'Example: {{{example}, "offset": -2000}} or {{{example}, "search": "ERROR"}}'
            ),
            annotations=reads,
        ),
        make_tool(
            tools.kill_job,
            title="Kill a job",
            description=(
                "End a job with all processes that it started. Killing one that has ended is "
                f"fine.\nExample: {{{example}}}"
            ),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        ),
        make_tool(
            tools.list_jobs,
            title="List jobs",
            description=(
                "List what ran and runs in an environment, oldest first. Every execute and "
                'run_command is a job.\nExample: {"environment_id": "..."}'
            ),
            annotations=reads,
        ),
    ]
