# SPDX-License-Identifier: Apache-2.0
"""What the tools that run programs return, as models.

As in `waggle.mcp.results`: times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from pydantic import BaseModel, Field


class FailureCause(BaseModel):
    """Why a program failed, from evidence: what the machine knows, not what was printed."""

    code: str = Field(
        description="out_of_memory, disk_full, network_refused, no_direct_network, "
        "command_not_found, interpreter_not_found, not_executable, "
        "no_working_directory, module_not_found, too_many_processes, "
        "killed_by_signal or guest_lost."
    )
    cause: str
    next_step: str


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
    uri: str | None = Field(description="Resource with the image; null if files are not offered.")


class ProgramOutput(BaseModel):
    """What a program printed and how it ended, wherever it ran."""

    stdout: str
    stderr: str
    exit_code: int | None = Field(description="null unless it exited by itself.")
    duration_ms: int
    signal: str | None = Field(description="The signal that ended it, e.g. SIGKILL; usually null.")
    timed_out: bool = Field(description="The timeout ended it; the output is what came until then.")
    stdout_bytes_cut: int = Field(description="Bytes cut from the middle of stdout; usually 0.")
    stderr_bytes_cut: int = Field(description="Bytes cut from the middle of stderr; usually 0.")
    diagnosis: FailureCause | None = Field(
        description="Why it failed, where that is known; usually null."
    )


class CommandOutput(ProgramOutput):
    """How a program stands and what it printed; text that is not UTF-8 has U+FFFD in it."""

    job_id: int = Field(description="Counts from 1 in its environment; read_job takes it.")
    status: str = Field(
        description="exited, running (it goes on as this job), signaled, timed_out, killed or lost."
    )
    ends_at: str | None = Field(
        description="RFC 3339; when a running one is killed at the latest, else null."
    )
    stdout_uri: str = Field(description="Resource with all of stdout.")
    stderr_uri: str = Field(description="Resource with all of stderr.")
    images: list[ShownImage] = Field(
        default_factory=list[ShownImage],
        description="Images that the program wrote; they are in the result's content.",
    )
    left_running: list[LeftProgram] = Field(
        default_factory=list[LeftProgram],
        description="Programs that it left running in the background; they go on.",
    )


class RunOutput(ProgramOutput):
    """How a program ended and what it printed; its environment is gone."""

    phase: str = Field(description="run, or install when the packages could not be installed.")
    status: str = Field(description="exited, signaled, timed_out, killed or lost.")


class JobItem(BaseModel):
    """A job in a list."""

    job_id: int
    tool: str = Field(description="execute, run_command or install_packages.")
    summary: str = Field(description="The first line of what runs.")
    status: str = Field(description="exited, running, signaled, timed_out, killed or lost.")
    exit_code: int | None
    started_at: str = Field(description="RFC 3339.")
    duration_ms: int
    stdout_bytes: int
    stderr_bytes: int


class JobList(BaseModel):
    """What ran and runs in an environment, oldest first."""

    jobs: list[JobItem]
    count: int
    left_running: list[LeftItem] = Field(
        default_factory=list[LeftItem],
        description="Programs that ended jobs left running in the background.",
    )


class JobReport(BaseModel):
    """What read_job tells: the jobs, how one stands, or a part of what it printed."""

    jobs: list[JobItem] | None = Field(
        default=None, description="Without job_id: all, oldest first."
    )
    count: int | None = None
    job_id: int | None = None
    status: str | None = Field(
        default=None, description="exited, running, signaled, timed_out, killed or lost."
    )
    exit_code: int | None = None
    stdout: str | None = Field(
        default=None, description="With wait_seconds or kill; as with execute."
    )
    stderr: str | None = None
    duration_ms: int | None = None
    signal: str | None = None
    timed_out: bool | None = None
    stdout_bytes_cut: int | None = None
    stderr_bytes_cut: int | None = None
    diagnosis: FailureCause | None = None
    stdout_uri: str | None = None
    stderr_uri: str | None = None
    stream: str | None = None
    content: str | None = Field(
        default=None, description="Text; with search, lines as 'offset: line'."
    )
    offset: int | None = Field(default=None, description="Where this part begins, in bytes.")
    next_offset: int | None = Field(
        default=None, description="Where to go on; not there at the end."
    )
    size: int | None = Field(default=None, description="Bytes printed so far.")
    uri: str | None = Field(default=None, description="Resource with all of it.")
    left_running: list[LeftItem] | None = Field(
        default=None, description="Programs that ended jobs left running."
    )
