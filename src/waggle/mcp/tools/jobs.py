# SPDX-License-Identifier: Apache-2.0
"""The tools for jobs, also those that outlive the call that started them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from waggle.domain.access import Owner
from waggle.domain.errors import InvalidArgument
from waggle.domain.programs import parse_output
from waggle.domain.programs.job import SIGNALS, JobView, StreamName, parse_signal, parse_wait
from waggle.mcp.context import Ctx, Services, apart, current_owner, watch
from waggle.mcp.results import Hint, Reply, success
from waggle.mcp.results.images import pictures_for, result_of
from waggle.mcp.results.jobs import (
    CommandOutput,
    JobList,
    JobReport,
    WrittenInput,
    job_item,
    job_line,
    job_status,
    left_items,
    left_lines,
)
from waggle.mcp.results.pages import MAX_BYTES, MAX_PATTERN, StreamPage, read_page
from waggle.mcp.results.programs import resumes
from waggle.mcp.schema import unlisted
from waggle.mcp.schema.parameters import EnvironmentId, JobId, MaxOutput, Wait, searchable
from waggle.mcp.schema.tool import CHANGES, READS, SETTLES, OfferedTool, make_tool
from waggle.service.programs import Job

_ReadJobId = Annotated[
    int | None, Field(description="Default: list the jobs and left-over programs.")
]
_ReadWait = Annotated[float | None, Field(description="Wait so long for its end.")]
_Kill = Annotated[bool, Field(description="End it, with all its processes.")]
_Signal = Annotated[
    str | None,
    Field(
        description=f"Send it this signal ({', '.join(SIGNALS)}) to its program instead of ending "
        "all.",
        json_schema_extra=unlisted(),
    ),
]
_KillSignal = Annotated[
    str | None,
    Field(description="INT, TERM, HUP, USR1 etc. for its program. Default: end all."),
]
_Text = Annotated[str, Field(description="With a line end where the program waits for one.")]
_Close = Annotated[bool, Field(description="End its standard input.")]
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
    """wait_job, read_job, write_job, kill_job, list_jobs."""

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
        signal: _Signal = None,
        pid: _Pid = None,
    ) -> Annotated[Reply, JobReport]:
        """Wait for a job, end it, read a part of its output, or list all jobs."""
        owner = current_owner(ctx)
        if job_id is None:
            if pid is not None:
                await self._jobs.left.end(environment_id, pid, owner=owner)
            elif kill or signal:
                raise InvalidArgument(
                    "No program to kill is named.",
                    hint="Give job_id, or pid for a left-over program; without both, read_job "
                    "lists them.",
                )
            return await self._listed(environment_id, owner, ended=pid)
        if signal is not None:
            parse_signal(signal)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        if signal is not None:
            await self._jobs.control.signal(job, signal, owner=owner)
        elif kill:
            await self._jobs.kill(job, owner=owner)
        if wait_seconds is not None and (signal is not None or not kill):
            await self._jobs.resume(job, owner=owner)
            await watch(
                ctx, job, parse_wait(wait_seconds, self._limits.wait), every=self._heartbeat
            )
        if not (stream or offset is not None or limit or search):
            return await self._result(job, self._limits.output)
        name = StreamName(stream or "stdout")
        part = read_page(job.streams[name], offset=offset or 0, limit=limit, search=search or None)
        view = job.view()
        result = JobReport(
            status=view.status,
            exit_code=view.exit_code,
            content=part.content,
            offset=part.offset,
            next_offset=part.next_offset,
            size=part.size,
        )
        beside = job.streams[StreamName.STDERR].total if stream is None else 0
        hints = [*resumes(view), *_unread(beside)]
        return success(result, part.content, _place(part, view), hints=hints)

    async def _result(self, job: Job, shown: int) -> Reply:
        """Return its status, as the call that started it would."""
        view = job.view()
        pictures = await pictures_for(self._albums, job, view)
        result = partial(result_of, view, self._limits, shown=shown, pictures=pictures)
        return await apart(result, view.size)

    async def kill_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: JobId,
        signal: _KillSignal = None,
    ) -> Annotated[Reply, CommandOutput]:
        """End a job with all its processes, or send its program a signal."""
        owner = current_owner(ctx)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        if signal is None:
            await self._jobs.kill(job, owner=owner)
        else:
            await self._jobs.control.signal(job, signal, owner=owner)
        view = job.view()
        result = partial(result_of, view, self._limits, shown=self._limits.output)
        return await apart(result, view.size)

    async def write_job(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        job_id: JobId,
        text: _Text,
        close: _Close = False,
    ) -> Annotated[Reply, WrittenInput]:
        """Write to a job's standard input."""
        owner = current_owner(ctx)
        job = await self._jobs.get(environment_id, job_id, owner=owner)
        count = await self._jobs.control.write(job, text, close=close, owner=owner)
        result = WrittenInput(job_id=job.number, bytes_written=count, closed=close)
        ended = ", which is closed now" if close else ""
        said = f"{count} bytes are written to the standard input of job {job.number}{ended}."
        return success(result, said, hints=[Hint("read_job shows what it prints.")])

    async def list_jobs(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[Reply, JobList]:
        """List an environment's jobs."""
        return await self._listed(environment_id, current_owner(ctx))

    async def _listed(self, environment_id: str, owner: Owner, ended: int | None = None) -> Reply:
        """List all but the program `ended`, which the guest may still be ending."""
        jobs = await self._jobs.list(environment_id, owner=owner)
        left = await self._jobs.left.look(environment_id, owner=owner)
        items, note = [job_item(job) for job in jobs], "" if jobs else _NONE
        shown = [item for item in left_items(left) if item.pid != ended]
        result = JobList(jobs=items, count=len(items), left_running=shown, note=note)
        lines = [*map(job_line, result.jobs), *left_lines(result.left_running)]
        return success(result, "\n".join(lines))


def _unread(size: int) -> list[Hint]:
    """Say that stderr has so many bytes, which a page of stdout does not show."""
    return [Hint('Read it with stream "stderr".', f"stderr has {size} bytes")] if size else []


def _place(part: StreamPage, view: JobView) -> str:
    more = "this is the end" if part.next_offset is None else f"continue at {part.next_offset}"
    how = job_status(view.status, view.exit_code)
    return f"[from byte {part.offset} of {part.size}; {more}; {how}]"


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
            description="End a job with all processes that it started, or send it a signal.",
            annotations=SETTLES,
            meta=searchable("kill, stop, interrupt or signal a background program"),
        ),
        make_tool(
            tools.write_job,
            title="Write to a job",
            description="Write to the standard input of a job that was started with stdin_open.",
            annotations=CHANGES,
            meta=searchable("send input or stdin to a background program, answer its prompt"),
        ),
        make_tool(
            tools.list_jobs,
            title="List jobs",
            description="List the jobs of an environment, oldest first.",
            annotations=READS,
            meta=searchable("list background programs"),
        ),
    ]
