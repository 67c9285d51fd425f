# SPDX-License-Identifier: Apache-2.0
"""The tool that installs packages."""

from __future__ import annotations

import math
from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations

from waggle.domain.programs.job import JobState, parse_wait
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import Failure, failure_result
from waggle.mcp.placed import introduced
from waggle.mcp.results.environments import success
from waggle.mcp.results.jobs import CommandOutput
from waggle.mcp.results.output import command_output, command_text
from waggle.mcp.results.progress import Phases, follow
from waggle.mcp.schema.parameters import (
    NewRuntime,
    OptionalEnvironmentId,
    Packages,
    Wait,
    searchable,
)
from waggle.mcp.schema.tool import OfferedTool, make_tool
from waggle.service.environments.creating import CreateRequest
from waggle.service.environments.provision import provided
from waggle.service.programs.job import Job


class PackageTools:
    """install_packages."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._execution = services.execution
        self._shown = services.execution_limits.output
        self._heartbeat = services.heartbeat
        self._offer = services.offer

    async def install_packages(
        self,
        ctx: Ctx,
        *,
        packages: Packages,
        environment_id: OptionalEnvironmentId = None,
        runtime: NewRuntime = None,
        wait_seconds: Wait = None,
    ) -> Annotated[CallToolResult, CommandOutput]:
        """Install packages; unlike with execute, a failing installer is an error.

        A call that is given up leaves the job alone: the same call again waits for it.
        """
        wait = parse_wait(wait_seconds, math.inf)
        owner, phases = current_owner(ctx), Phases(ctx, self._heartbeat)

        def new() -> CreateRequest:
            return CreateRequest(self._execution.runtime_for_packages(packages, runtime))

        async with provided(
            self._environments, environment_id, new, owner=owner, progress=phases.creating
        ) as place:
            job = await self._execution.install(place.id, packages, owner=owner)
            place.keep()
            return introduced(await self._answer(ctx, job, wait), place)

    async def _answer(self, ctx: Ctx, job: Job, wait: float) -> CallToolResult:
        view = await follow(ctx, job, wait, every=self._heartbeat, doing="installing")
        output = command_output(view, self._offer, self._shown)
        text = command_text(output)
        if view.exit_code == 0 or view.is_running:
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


def package_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    return [
        make_tool(
            PackageTools(services).install_packages,
            title="Install packages",
            description="Install packages: from PyPI (pip) for python, npm for node, the "
            "distribution (apt) for shell.",
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=True,
            ),
            meta=searchable("pip install, npm install or apt install in a sandbox"),
        )
    ]
