# SPDX-License-Identifier: Apache-2.0
"""What the tools that run programs return, as models.

As in `waggle.mcp.results.environments`: a field with its default value is left out of a result,
sizes are bytes.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from waggle.domain.programs.job import JobState
from waggle.mcp.results.environments import NOTE

_ENDS = "exited, signaled, timed_out, killed or lost."


class FailureCause(BaseModel):
    """Why a program failed, from evidence: what the machine knows, not what was printed."""

    code: str = Field(
        description="out_of_memory, disk_full, network_refused, no_direct_network, "
        "command_not_found, interpreter_not_found, windows_line_ends, not_executable, "
        "no_working_directory, module_not_found, too_many_processes, "
        "killed_by_signal or guest_lost."
    )
    cause: str
    next_step: str = ""


class LeftProgram(BaseModel):
    """A program that goes on although the call that started it has ended."""

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
    """What a program printed and how it ended, wherever it ran."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = Field(default=None, description="Only if it exited by itself.")
    duration_ms: int = Field(default=0, description="Only from a second on, or if it did not exit.")
    signal: str = Field(default="", description="The signal that ended it, e.g. SIGKILL.")
    stdout_bytes_cut: int = Field(default=0, description="Bytes cut from the middle of stdout.")
    stderr_bytes_cut: int = Field(default=0, description="Bytes cut from the middle of stderr.")
    diagnosis: FailureCause | None = Field(default=None, description="Why it failed, where known.")


class CommandOutput(ProgramOutput):
    """How a program stands and what it printed; text that is not UTF-8 has U+FFFD in it."""

    job_id: int = Field(description="Counts from 1 in its environment; read_job takes it.")
    status: str = Field(description=f"running (it goes on as this job), {_ENDS}")
    ends_at: str = Field(
        default="", description="RFC 3339; when a running one is killed at the latest."
    )
    stdout_uri: str = Field(default="", description="Resource with all of stdout, if it was cut.")
    stderr_uri: str = Field(default="", description="Resource with all of stderr, if it was cut.")
    images: list[ShownImage] = Field(
        default_factory=list[ShownImage],
        description="Images that the program wrote. Where one is shown, the result is text and "
        "images only.",
    )
    left_running: list[LeftProgram] = Field(
        default_factory=list[LeftProgram],
        description="Programs that it left running in the background; they go on.",
    )
    note: str = Field(default="", description=NOTE)


class RunOutput(ProgramOutput):
    """How a program ended and what it printed; its environment is gone."""

    phase: str = Field(
        default="run", description="install when the packages could not be installed."
    )
    status: str = Field(description=_ENDS)


class JobItem(BaseModel):
    """A job in a list."""

    job_id: int
    tool: str = Field(description="execute, run_command or install_packages.")
    summary: str = Field(default="", description="The first line of what runs.")
    status: str = Field(description=f"running, {_ENDS}")
    exit_code: int | None = None
    duration_ms: int = Field(default=0, description="Only from a second on, or if it did not exit.")


class JobList(BaseModel):
    """What ran and runs in an environment, oldest first."""

    jobs: list[JobItem] = Field(default_factory=list[JobItem])
    count: int = 0
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem],
        description="Programs that ended jobs left running in the background.",
    )
    note: str = Field(default="", description=NOTE)


class JobReport(ProgramOutput):
    """What read_job tells: the jobs, how one stands, or a part of what it printed."""

    jobs: list[JobItem] = Field(
        default_factory=list[JobItem], description="Without job_id: all, oldest first."
    )
    count: int = 0
    job_id: int = 0
    status: str = Field(default="", description=f"Of the job: running, {_ENDS}")
    ends_at: str = Field(
        default="", description="RFC 3339; when a running one is killed at the latest."
    )
    stdout_uri: str = Field(default="", description="Resource with all of stdout, if it was cut.")
    stderr_uri: str = Field(default="", description="Resource with all of stderr, if it was cut.")
    content: str = Field(default="", description="Text; with search, lines as 'offset: line'.")
    offset: int = Field(default=0, description="Where content begins, in bytes.")
    next_offset: int | None = Field(
        default=None, description="Where to go on, unless this is the end."
    )
    size: int = Field(default=0, description="Bytes printed so far.")
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem], description="Programs that ended jobs left running."
    )
    note: str = Field(default="", description=NOTE)


def told_ms(seconds: float, state: JobState) -> int:
    """A duration where it says something: of what takes a second or more, or did not exit."""
    return round(seconds * 1000) if seconds >= 1 or state is not JobState.EXITED else 0


def took(duration_ms: int) -> str:
    """The same for a text, after a comma; empty where it is not told."""
    return f", {duration_ms / 1000:.1f} s" if duration_ms else ""
