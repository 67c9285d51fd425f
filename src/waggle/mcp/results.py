# SPDX-License-Identifier: Apache-2.0
"""What the tools return, as models: the published output schemas and the structured content.

Built by `waggle.mcp.tools` from domain values. Names are those of the Go original where it has
them. Times are RFC 3339 in UTC, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, Field

from waggle.domain.environment import Environment


@lru_cache(maxsize=1024)
def rfc3339(moment: datetime) -> str:
    """A moment as clients expect it, for example `2026-03-04T05:06:07Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def readable(text: str) -> str:
    """`text` without lone surrogates, which no JSON document can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


class EnvironmentSummary(BaseModel):
    """An environment in a list."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str
    runtime: str = Field(description="python, node or shell.")
    status: str = Field(description="creating, running, paused, destroying or error.")
    network: str = Field(description="none or public.")
    created_at: str = Field(description="RFC 3339.")
    error: str | None = Field(description="Why it is in the error status; null otherwise.")


class CreatedEnvironment(BaseModel):
    """A new, running environment."""

    environment_id: str = Field(description="UUID; every other tool takes it.")
    name: str
    runtime: str
    status: str
    network: str = Field(description="none or public.")
    ssh_port: int | None = Field(description="TCP port on the server's 127.0.0.1 (for operators).")
    working_directory: str = Field(description="Where programs start unless cwd says otherwise.")
    created_at: str = Field(description="RFC 3339.")
    timeout: str = Field(description="It is destroyed after being unused for this long, e.g. 30m.")


class EnvironmentList(BaseModel):
    """All environments of the caller, oldest first."""

    environments: list[EnvironmentSummary]
    count: int


class DestroyedEnvironment(BaseModel):
    """The end of an environment."""

    environment_id: str
    status: str
    message: str


class FailureCause(BaseModel):
    """Why a program failed, from evidence: what the machine knows, not what was printed."""

    code: str = Field(
        description="out_of_memory, disk_full, network_refused, no_direct_network, "
        "command_not_found, interpreter_not_found, not_executable, module_not_found, "
        "too_many_processes, killed_by_signal or guest_lost."
    )
    cause: str
    next_step: str


class ShownImage(BaseModel):
    """An image file that a program wrote."""

    path: str
    mime_type: str = Field(description="By its content.")
    size: int
    uri: str = Field(description="Resource with the image.")


class CommandOutput(BaseModel):
    """How a program stands and what it printed; text that is not UTF-8 has U+FFFD in it."""

    job_id: int = Field(description="Counts from 1 in its environment; read_job takes it.")
    status: str = Field(
        description="exited, running (it goes on as this job), signaled, timed_out, killed or lost."
    )
    stdout: str
    stderr: str
    exit_code: int | None = Field(description="null unless it exited by itself.")
    duration_ms: int
    signal: str | None = Field(description="The signal that ended it, e.g. SIGKILL; usually null.")
    timed_out: bool = Field(description="The timeout ended it; the output is what came until then.")
    stdout_bytes_cut: int = Field(description="Bytes cut from the middle of stdout; usually 0.")
    stderr_bytes_cut: int = Field(description="Bytes cut from the middle of stderr; usually 0.")
    stdout_uri: str = Field(description="Resource with all of stdout.")
    stderr_uri: str = Field(description="Resource with all of stderr.")
    diagnosis: FailureCause | None = Field(
        description="Why it failed, where that is known; usually null."
    )
    images: list[ShownImage] = Field(
        default_factory=list[ShownImage],
        description="Images that the program wrote; they are in the result's content.",
    )


class JobOutput(BaseModel):
    """A part of what a job printed."""

    job_id: int
    status: str = Field(description="exited, running, signaled, timed_out, killed or lost.")
    stream: str
    content: str = Field(description="Text; with search, lines as 'offset: line'.")
    offset: int = Field(description="Where this part begins, in bytes.")
    next_offset: int | None = Field(description="Where to go on; null at the end.")
    size: int = Field(description="Bytes printed so far.")
    uri: str = Field(description="Resource with all of it.")


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


class WrittenFile(BaseModel):
    """A file that was written."""

    status: Literal["written"] = "written"
    path: str
    bytes_written: int


class FileContent(BaseModel):
    """A file, or one page of it."""

    path: str
    content: str = Field(description="Text, or base64: see encoding.")
    encoding: str = Field(description="utf-8 or base64.")
    mime_type: str = Field(description="By the file's name; an image's by its content.")
    size: int = Field(description="Bytes of the whole file.")
    offset: int = Field(description="Where this page begins, in bytes.")
    truncated: bool = Field(description="There is more after this page.")
    next_offset: int | None = Field(description="The offset of the next page, or null.")


class FileItem(BaseModel):
    """One entry of a directory."""

    name: str
    size: int
    is_dir: bool
    is_link: bool
    mode: str = Field(description="Permission bits in octal, e.g. 0644.")
    modified: str = Field(description="RFC 3339.")


class FileList(BaseModel):
    """The entries of a directory, by name."""

    path: str
    files: list[FileItem]
    count: int = Field(description="Entries in this result.")
    truncated: bool = Field(description="The directory holds more than is listed.")


class SearchMatch(BaseModel):
    """A file, or a line of one."""

    path: str
    kind: str = Field(description="file, directory, link or other.")
    size: int | None = Field(description="Bytes; null for a line.")
    line: int | None = Field(description="Counts from 1; null for a match by name alone.")
    column: int | None = Field(description="Where it begins in the line, in bytes from 1.")
    text: str | None = Field(description="The line; a long one is cut around the place.")
    before: list[str] = Field(description="Lines before it.")
    after: list[str] = Field(description="Lines after it.")


class SearchResult(BaseModel):
    """What a search found, in the order of paths."""

    path: str
    matches: list[SearchMatch]
    count: int = Field(description="Matches in this result.")
    truncated: bool = Field(description="There may be more.")
    stopped_by: str | None = Field(description="results, output, entries, bytes, time or null.")
    entries_seen: int
    files_searched: int
    binary_skipped: int
    large_skipped: int
    unreadable: int


class EditedFile(BaseModel):
    """A file that was edited."""

    status: Literal["edited"] = "edited"
    path: str
    replacements: int
    first_line: int = Field(description="The line of the first one, from 1.")
    size: int = Field(description="Bytes of the file now.")
    diff: str = Field(description="What changed, as a unified diff; a long one is cut.")


class LeftOut(BaseModel):
    """Something that is missing, and why."""

    path: str
    reason: str


class UploadedFiles(BaseModel):
    """What became of an archive."""

    status: str = Field(description="uploaded, or partial when some entries failed.")
    path: str
    files: int
    directories: int
    links: int
    bytes_written: int
    failed: int
    failures: list[LeftOut] = Field(description="The first ones.")


class DownloadedFiles(BaseModel):
    """A tree as a tar.gz, or one page of it."""

    path: str
    archive_id: str = Field(description="Names this archive, for its other pages.")
    sha256: str = Field(description="Of the whole archive.")
    size: int = Field(description="Bytes of the whole archive.")
    entries: int = Field(description="Files, directories and links that the guest sent.")
    left_out: list[LeftOut] = Field(description="What is not in the archive; the first ones.")
    left_out_count: int
    content: str = Field(description="This page as base64.")
    offset: int
    truncated: bool = Field(description="There is more after this page.")
    next_offset: int | None = Field(description="The offset of the next page, or null.")


def summary(environment: Environment) -> dict[str, Any]:
    """One line of list_environments: the fields of EnvironmentSummary, as JSON has them."""
    return {
        "environment_id": environment.id,
        "name": environment.name,
        "runtime": str(environment.runtime),
        "status": str(environment.state),
        "network": str(environment.network),
        "created_at": rfc3339(environment.created_at),
        "error": environment.error,
    }


def created(environment: Environment) -> CreatedEnvironment:
    """What create_environment answers."""
    return CreatedEnvironment(
        environment_id=environment.id,
        name=environment.name,
        runtime=environment.runtime,
        status=environment.state,
        network=environment.network,
        ssh_port=environment.ssh_port,
        working_directory=readable(environment.directory),
        created_at=rfc3339(environment.created_at),
        timeout=f"{int(environment.idle_timeout.total_seconds()) // 60}m",
    )


def success(
    model: BaseModel | Mapping[str, Any], *texts: str, also: tuple[ContentBlock, ...] = ()
) -> CallToolResult:
    """A result with its text blocks for a model and its structured content for a program.

    The content may be given as its JSON, which the SDK compares with the tool's output schema.
    """
    blocks: list[ContentBlock] = [TextContent(type="text", text=text) for text in texts]
    fields = model.model_dump(mode="json") if isinstance(model, BaseModel) else {**model}
    return CallToolResult(content=[*blocks, *also], structured_content=fields)
