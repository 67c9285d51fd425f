# SPDX-License-Identifier: Apache-2.0
"""Result models of the tools that run programs, and what their lists show. Pure.

Called by `waggle.mcp.tools` and the other modules of this package. The guest chose the command
lines of programs left running, so they are cleaned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from waggle.domain.programs import MAX_COMMAND
from waggle.domain.programs.job import JobBrief, JobState
from waggle.mcp.errors import clean
from waggle.mcp.results import ADVICE, NOTE
from waggle.mcp.results.displays import ChartItem
from waggle.service.programs.leftovers import LeftList

_ENDS = "exited, signaled, timed_out, killed or lost."


class FailureCause(BaseModel):
    """Why a program failed; docs/troubleshooting.md lists the codes."""

    code: str = Field(
        description="A word for it, such as out_of_memory, module_not_found or guest_lost; for "
        "code in a context also interrupted (variables are kept) or context_ended (they are lost)."
    )
    cause: str
    next_step: Annotated[str, ADVICE] = ""


class LeftProgram(BaseModel):
    """A program that still runs although the call that started it has ended."""

    pid: int = Field(description="read_job with this pid ends it.")
    command: str


class LeftItem(LeftProgram):
    """The same in a list of all that an environment has."""

    job_id: int | None = Field(default=None, description="The job that left it, where known.")


class ShownImage(BaseModel):
    """An image file that a program wrote."""

    path: str
    mime_type: str = Field(description="By its content.")
    size: int


class ProgramOutput(BaseModel):
    """The output of a program and how it ended."""

    stdout: str = Field(default="", description="With its displays in between, as text.")
    stderr: str = ""
    exit_code: int | None = Field(default=None, description="Only if it exited by itself.")
    duration_ms: int = Field(default=0, description="Only from a second on, or if it did not exit.")
    signal: str = Field(default="", description="The signal that ended it, e.g. SIGKILL.")
    stdout_bytes_cut: int = Field(default=0, description="Bytes cut from the middle of stdout.")
    stderr_bytes_cut: int = Field(default=0, description="Bytes cut from the middle of stderr.")
    diagnosis: FailureCause | None = Field(
        default=None,
        description="Why it failed, where known; network_refused also when it did not.",
    )


class CommandOutput(ProgramOutput):
    """The status and output of a program; text that is not UTF-8 has U+FFFD in it."""

    job_id: int = Field(description="Counts from 1 in its environment; read_job takes it.")
    status: str = Field(description=f"running or paused (as this job), {_ENDS}")
    ends_at: str = Field(
        default="", description="RFC 3339; when it is killed at the latest, once it has its turn."
    )
    stdout_uri: str = Field(default="", description="Resource with all of stdout, if it was cut.")
    stderr_uri: str = Field(default="", description="Resource with all of stderr, if it was cut.")
    images: list[ShownImage] = Field(
        default_factory=list[ShownImage],
        description="Images that the program wrote. Where one is shown, the result is text and "
        "images only.",
    )
    charts: list[ChartItem] = Field(
        default_factory=list[ChartItem], description="Of displays that are not shown."
    )
    displays_uri: str = Field(
        default="", description="Resource with all displays, if they are not all shown."
    )
    left_running: list[LeftProgram] = Field(
        default_factory=list[LeftProgram],
        description="Programs that it left running in the background.",
    )
    note: str = Field(default="", description=NOTE)


class RunOutput(ProgramOutput):
    """The output of a program and how it ended; its environment is gone."""

    phase: str = Field(
        default="run", description="install when the packages could not be installed."
    )
    status: str = Field(description=_ENDS)


class JobItem(BaseModel):
    """A job in a list."""

    job_id: int
    tool: str = Field(
        description="execute, run_command, install_packages, or context: an interpreter."
    )
    summary: str = Field(default="", description="The first line of the program.")
    status: str = Field(description=f"running, paused, {_ENDS}")
    exit_code: int | None = None
    duration_ms: int = Field(default=0, description="Only from a second on, or if it did not exit.")


class JobList(BaseModel):
    """The jobs of an environment, oldest first."""

    jobs: list[JobItem] = Field(default_factory=list[JobItem])
    count: int = 0
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem],
        description="Programs that ended jobs left running in the background.",
    )
    note: str = Field(default="", description=NOTE)


class WrittenInput(BaseModel):
    """What was written to a job."""

    job_id: int
    bytes_written: int = 0
    closed: bool = Field(default=False, description="Its standard input has ended.")
    note: str = Field(default="", description=NOTE)


class JobReport(ProgramOutput):
    """The result of read_job: the jobs, the status of one, or a part of its output."""

    jobs: list[JobItem] = Field(
        default_factory=list[JobItem], description="Without job_id: all, oldest first."
    )
    count: int = 0
    job_id: int = 0
    status: str = Field(default="", description=f"Of the job: running, paused, {_ENDS}")
    ends_at: str = Field(
        default="", description="RFC 3339; when it is killed at the latest, once it has its turn."
    )
    stdout_uri: str = Field(default="", description="Resource with all of stdout, if it was cut.")
    stderr_uri: str = Field(default="", description="Resource with all of stderr, if it was cut.")
    content: str = Field(default="", description="Text; with search, lines as 'offset: line'.")
    offset: int = Field(default=0, description="Where content begins, in bytes.")
    next_offset: int | None = Field(
        default=None, description="The next page's, unless this is the last."
    )
    size: int = Field(default=0, description="Bytes printed so far.")
    charts: list[ChartItem] = Field(
        default_factory=list[ChartItem], description="Of displays that are not shown."
    )
    displays_uri: str = Field(
        default="", description="Resource with all displays, if they are not all shown."
    )
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem], description="Programs that ended jobs left running."
    )
    note: str = Field(default="", description=NOTE)


def shown_ms(seconds: float, state: JobState) -> int:
    """Return milliseconds, or 0 (not shown) for a program that exited in less than a second."""
    return round(seconds * 1000) if seconds >= 1 or state is not JobState.EXITED else 0


def took(duration_ms: int) -> str:
    """Return the duration in seconds for a text, after a comma; empty for 0."""
    return f", {duration_ms / 1000:.1f} s" if duration_ms else ""


_MAX_SHOWN = 100


def left_items(left: LeftList) -> list[LeftItem]:
    """Return the programs left running as models, at most 100."""
    return [
        LeftItem(pid=program.pid, command=clean(program.command, MAX_COMMAND), job_id=program.job)
        for program in left.programs[:_MAX_SHOWN]
    ]


def left_lines(items: Sequence[LeftItem]) -> list[str]:
    """Return the programs left running as lines of text."""
    return [
        f"left running: pid {item.pid}"
        + (f" of job {item.job_id}" if item.job_id else "")
        + f": {item.command}"
        for item in items
    ]


def job_status(status: str, exit_code: int | None) -> str:
    """Return a job's status for a text, with its exit code."""
    return status if exit_code is None else f"{status} {exit_code}"


def job_item(job: JobBrief) -> JobItem:
    """Return a job as an item of a list."""
    return JobItem(
        job_id=job.number,
        tool=job.kind.value,
        summary=job.summary,
        status=job.status,
        exit_code=job.exit_code,
        duration_ms=shown_ms(job.duration, job.state),
    )


def job_line(item: JobItem) -> str:
    """Return an item of a list as a line of text."""
    how = f"{job_status(item.status, item.exit_code)}{took(item.duration_ms)}"
    return f"{item.job_id} {item.tool} ({how}): {item.summary}"
