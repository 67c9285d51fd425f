# SPDX-License-Identifier: Apache-2.0
"""The tool that installs packages."""

from __future__ import annotations

import math
from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.job import JobState
from waggle.domain.runtime import MAX_PACKAGES
from waggle.mcp.arguments import make_tool
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.job_results import CommandOutput
from waggle.mcp.results import success
from waggle.mcp.tools.attend import attend
from waggle.mcp.tools.output import command_output, command_text
from waggle.mcp.tools.parameters import EnvironmentId

_Packages = Annotated[
    str | list[str],
    Field(
        description=f"1 to {MAX_PACKAGES} package names, separated by spaces or as a list. "
        "Versions as the installer takes them: numpy==2.*, uvicorn[standard], @types/node@22."
    ),
]


class PackageTools:
    """install_packages."""

    def __init__(self, services: Services) -> None:
        self._execution = services.execution
        self._heartbeat = services.heartbeat
        self._offer = services.offer

    async def install_packages(
        self, ctx: Ctx, *, environment_id: EnvironmentId, packages: _Packages
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Install packages; unlike with execute, a failing installer is an error."""
        job = await self._execution.install(environment_id, packages, owner=current_owner(ctx))
        view = await attend(ctx, job, math.inf, every=self._heartbeat, doing="installing")
        output = command_output(view, self._offer)
        text = command_text(output, self._offer)
        if view.exit_code == 0:
            return success(output, text)
        failure = install_failure(timed_out=view.state is JobState.TIMED_OUT)
        return failure_result(failure, self._offer, before=text, structured=output)


def install_failure(*, timed_out: bool) -> Failure:
    """What to say when the installer did not succeed; its output says why."""
    return Failure(
        "timeout" if timed_out else "install_failed",
        "The packages were not installed.",
        "The output above has the installer's reason; check the names and versions. Refused "
        "connections (403) mean that the package index has no public address: the operator can "
        "allow it with WAGGLE_EGRESS_ALLOW_CIDRS.",
        retryable=timed_out,
    )


def package_tools(services: Services) -> list[Tool]:
    """The tools of this module."""
    return [
        make_tool(
            PackageTools(services).install_packages,
            title="Install packages",
            description=(
                "Install packages into an environment: from PyPI for python, npm for node, the "
                "distribution for shell. The next execute can use them. At most "
                f"{services.execution_limits.install_timeout:g} s.\n"
                'Example: {"environment_id": "...", "packages": "numpy pandas==2.*"} or '
                '{"environment_id": "...", "packages": ["typescript", "@types/node"]}'
            ),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=True,
            ),
        )
    ]
