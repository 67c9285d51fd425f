# SPDX-License-Identifier: Apache-2.0
"""The tools that run programs: execute for code, run_command for a shell line or a program."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.errors import InvalidArgument
from waggle.domain.execution import MAX_CODE_BYTES, GuestUser
from waggle.domain.job import parse_wait
from waggle.domain.runtime import RuntimeName
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.job_results import CommandOutput
from waggle.mcp.repeats import IdempotencyKey
from waggle.mcp.tools.attend import attend, result_of
from waggle.mcp.tools.parameters import Background, Cwd, Env, EnvironmentId, Seconds, Stdin, Wait
from waggle.mcp.tools.pictures import MAX_IMAGES, Album, album_of, names_image
from waggle.service.execution import Surroundings
from waggle.service.job import Job

_Code = Annotated[
    str,
    Field(description=f"The whole program, at most {MAX_CODE_BYTES:,} bytes of UTF-8. No quoting."),
]
_Language = Annotated[
    Annotated[str, Field(json_schema_extra={"enum": [name.value for name in RuntimeName]})] | None,
    Field(
        description=f"Another interpreter than the environment's: {', '.join(RuntimeName)}. "
        "It must be in the environment's image; shell always works where there is a shell."
    ),
]
_Command = Annotated[
    str | list[str],
    Field(
        description="A line for the shell (bash, else sh), or a list: a program and its arguments, "
        "run without a shell."
    ),
]
_User = Annotated[
    Annotated[str, Field(json_schema_extra={"enum": [user.value for user in GuestUser]})] | None,
    Field(
        description="Who runs it: sandbox, the same user as with execute (the default), or root."
    ),
]
_Images = Annotated[
    bool | None,
    Field(
        description="Show the image files (png, jpeg, gif, webp, svg) that the program writes into "
        f"its working directory, at most {MAX_IMAGES}. Default: if its text names one."
    ),
]


class ExecutionTools:
    """execute and run_command."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._files = services.filesystem
        self._execution = services.execution
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat
        self._offer = services.offer

    async def execute(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        code: _Code,
        language: _Language = None,
        timeout_seconds: Seconds = None,
        wait_seconds: Wait = None,
        background: Background = False,
        cwd: Cwd = None,
        env: Env = None,
        stdin: Stdin = "",
        idempotency_key: IdempotencyKey = None,  # `mcp.repeats` heeds it
        images: _Images = None,
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Run code; a timeout is an error result that carries the output so far."""
        wait = self._wait(wait_seconds, background=background)
        look = names_image(code) if images is None else images
        album = await self._album(ctx, environment_id, cwd) if look and wait else None
        job = await self._execution.execute(
            environment_id,
            code,
            owner=current_owner(ctx),
            language=language,
            how=Surroundings(timeout_seconds, cwd or None, env or {}, stdin),
        )
        return await self._answer(ctx, job, wait, album)

    async def run_command(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        command: _Command,
        user: _User = None,
        timeout_seconds: Seconds = None,
        wait_seconds: Wait = None,
        background: Background = False,
        cwd: Cwd = None,
        env: Env = None,
        stdin: Stdin = "",
        idempotency_key: IdempotencyKey = None,  # `mcp.repeats` heeds it
        images: _Images = None,
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Run a command; results as those of execute."""
        wait = self._wait(wait_seconds, background=background)
        look = names_image(command) if images is None else images
        album = await self._album(ctx, environment_id, cwd) if look and wait else None
        job = await self._execution.run_command(
            environment_id,
            command,
            owner=current_owner(ctx),
            user=_parse_user(user),
            how=Surroundings(timeout_seconds, cwd or None, env or {}, stdin),
        )
        return await self._answer(ctx, job, wait, album)

    def _wait(self, seconds: float | None, *, background: bool) -> float:
        return 0.0 if background else parse_wait(seconds, self._limits.wait)

    async def _album(self, ctx: Ctx, environment_id: str, cwd: str | None) -> Album | None:
        owner = current_owner(ctx)
        environment = self._environments.get(environment_id, owner=owner)
        directory = cwd or environment.directory
        return await album_of(self._files, environment.id, directory, owner=owner)

    async def _answer(self, ctx: Ctx, job: Job, wait: float, album: Album | None) -> CallToolResult:
        view = await attend(ctx, job, wait, every=self._heartbeat, doing="running")
        pictures = await album.new(view) if album else ()
        return result_of(view, self._offer, self._limits.max_timeout, pictures)


def _parse_user(text: str | None) -> GuestUser:
    try:
        return GuestUser(text or GuestUser.SANDBOX)
    except ValueError:
        raise InvalidArgument(
            f"There is no user {(text or '')[:40]!r} to run as.",
            hint=f"Use one of: {', '.join(GuestUser)}.",
        ) from None


_RUNS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
)


def execution_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    limits = services.execution_limits
    tools = ExecutionTools(services)
    return [
        make_tool(
            tools.execute,
            title="Run code",
            description=(
                "Run a program in an environment and return stdout, stderr and the exit code. A "
                "non-zero exit code is a result, not an error. Every call is a new process: "
                "variables do not last between calls, files and packages do. Not as root. After "
                f"wait_seconds (default {limits.wait:g}) you get the "
                "output so far and a job_id, and the program goes on; it is killed after "
                f"timeout_seconds (at most and by default {limits.max_timeout:g}). Of each stream "
                f"about {limits.output_bytes:,} bytes are shown (start and end); read_job has the "
                "rest. Save a chart to a file such as chart.png in the working directory to see "
                "it.\n"
                'Example: {"environment_id": "...", "code": "print(6 * 7)"} or '
                '{"environment_id": "...", "language": "shell", "code": "ls -l | head"}'
            ),
            annotations=_RUNS,
        ),
        make_tool(
            tools.run_command,
            title="Run a command",
            description=(
                "Run a shell line, or a program with its arguments, in an environment. Like "
                "execute in everything else; servers and other long work belong in the "
                "background.\n"
                'Example: {"environment_id": "...", "command": "pytest -q 2>&1 | tail -20"} or '
                '{"environment_id": "...", "command": ["python3", "-m", "http.server", "8000"], '
                '"background": true} or '
                '{"environment_id": "...", "command": "apt-get install -y jq", "user": "root"}'
            ),
            annotations=_RUNS,
        ),
    ]
