# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of programs that the agent runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from waggle.infra.guest.protocol.fields import (
    MAX_SECONDS,
    Base64,
    Count,
    Message,
    Name,
    Path,
    Result,
    Seconds,
)

Argument = Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")]
Variable = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^=\x00]+$")]
Process = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""The agent's number of a process. It is never used twice by one agent, and is not a pid."""


class ExecCommand(Message):
    """Run a program, without a shell. `argv[0]` is its absolute path.

    `user` is one of the policy's, by default the first. `environment` replaces the agent's own
    small one. After `timeout` seconds the program and all that it started are killed. With `wait`
    the answer comes when the program has ended; without it at once.
    """

    argv: Annotated[list[Argument], Field(min_length=1, max_length=128)]
    environment: Annotated[dict[Variable, Argument], Field(max_length=64)] | None = None
    directory: Path | None = None
    user: Name | None = None
    input: Base64 | None = None
    timeout: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = None
    output_bytes: Annotated[int, Field(ge=0, le=262_144)] | None = None
    wait: bool = True


class GetProcess(Message):
    """Ask for a process of `exec_command`. One that has ended is forgotten with this answer."""

    process: Process


class KillProcess(Message):
    """Kill a process of `exec_command` with all that it started; idempotent while it is known."""

    process: Process


class Status(StrEnum):
    """What has become of a process. `timed_out` and `killed`: the agent has killed it."""

    RUNNING = "running"
    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    KILLED = "killed"


class ProcessInfo(Result):
    """A process and the first bytes of its output.

    `exit_code` is there for `exited`, `signal` for the other ends. `stdout_bytes` and
    `stderr_bytes` count what it has written, of which the first are kept.
    """

    process: Process
    status: Annotated[Status, Field(strict=False)]
    exit_code: Annotated[int, Field(ge=0, le=255)] | None
    signal: Annotated[int, Field(ge=1, le=64)] | None
    seconds: Seconds
    stdout_bytes: Count
    stderr_bytes: Count
    stdout: Base64
    stderr: Base64
