# SPDX-License-Identifier: Apache-2.0
"""The tool that runs code."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.execution import HOME, MAX_CODE_BYTES
from waggle.domain.runtime import RuntimeName
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner, with_heartbeat
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.results import CommandOutput, success
from waggle.mcp.tools.environments import EnvironmentId
from waggle.mcp.tools.output import command_output, command_text

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
_Seconds = Annotated[
    Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0})] | None,
    Field(description="Kill the program and all it started after so many seconds."),
]
_Cwd = Annotated[
    str | None,
    Field(
        description=f"Directory to run in; relative to {HOME}. Default: the working_directory of "
        f"create_environment, {HOME} unless the image names another."
    ),
]
_Env = Annotated[
    dict[str, str] | None, Field(description="Environment variables to add for this call.")
]
_Stdin = Annotated[str, Field(description="What the program reads on its standard input.")]


class ExecutionTools:
    """execute."""

    def __init__(self, services: Services) -> None:
        self._execution = services.execution
        self._limits = services.execution_limits
        self._heartbeat = services.heartbeat

    async def execute(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        code: _Code,
        language: _Language = None,
        timeout_seconds: _Seconds = None,
        cwd: _Cwd = None,
        env: _Env = None,
        stdin: _Stdin = "",
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Run code; a timeout is an error result that carries the output so far."""
        result = await with_heartbeat(
            ctx,
            "running",
            self._heartbeat,
            self._execution.execute(
                environment_id,
                code,
                owner=current_owner(ctx),
                language=language,
                timeout_seconds=timeout_seconds,
                cwd=cwd or None,
                env=env,
                stdin=stdin,
            ),
        )
        output = command_output(result)
        text = command_text(output)
        if not result.timed_out:
            return success(output, text)
        failure = Failure(
            "timeout",
            f"The code ran into its timeout and was killed after {result.duration:.1f} s.",
            f"Give a larger timeout_seconds (at most {self._limits.max_timeout:g}), do less in one "
            "call, or start it in the background and look at it in later calls.",
        )
        return failure_result(failure, text=f"{text}\n{failure.text}", structured=output)


def execution_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    limits = services.execution_limits
    return [
        make_tool(
            ExecutionTools(services).execute,
            title="Run code",
            description=(
                "Run a program in an environment and return stdout, stderr and the exit code. A "
                "non-zero exit code is a result, not an error. Every call is a new process: "
                "variables do not last between calls, files and packages do. Not as root. "
                f"Default timeout {limits.default_timeout:g} s, at most "
                f"{limits.max_timeout:g} s; on timeout the output so far is returned. Of each "
                f"stream about {limits.output_bytes:,} bytes are kept (start and end); write more "
                "to a file.\n"
                'Example: {"environment_id": "...", "code": "print(6 * 7)"} or '
                '{"environment_id": "...", "language": "shell", "code": "ls -l | head"}'
            ),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=False,
                open_world_hint=True,
            ),
        )
    ]
