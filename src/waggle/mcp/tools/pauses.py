# SPDX-License-Identifier: Apache-2.0
"""The tools that have an environment stand still, and go on."""

from __future__ import annotations

from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.mcp.context import Ctx, Services, current_owner, reporter
from waggle.mcp.results.environments import success
from waggle.mcp.results.snapshots import PausedEnvironment, paused
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import OfferedTool, make_tool

_ToDisk = Annotated[
    bool, Field(description="Free its memory, too; it survives a restart of the server.")
]


class PauseTools:
    """pause_environment and resume_environment."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._services = services

    async def pause_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, to_disk: _ToDisk = False
    ) -> Annotated[CallToolResult, PausedEnvironment]:
        """Have it stand still, in memory or on the disk."""
        environment = await self._environments.pause(
            environment_id, owner=current_owner(ctx), to_disk=to_disk
        )
        result = paused(environment)
        kept = f"in memory{self._until(result)}"
        if result.on_disk_until:
            kept = f"on the disk, and kept until {result.on_disk_until}"
        result.note = "Any call that uses it resumes it."
        return success(result, f"Environment {result.name} is {result.status} {kept}.")

    async def resume_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[CallToolResult, PausedEnvironment]:
        """Have it go on."""
        environment = await self._environments.resume(
            environment_id, owner=current_owner(ctx), progress=reporter(ctx)
        )
        result = paused(environment)
        return success(
            result, f"Environment {result.name} is {result.status}{self._until(result)}."
        )

    def _until(self, result: PausedEnvironment) -> str:
        return f", and {self._services.when_unused} at {result.expires_at} if no call comes"


def pause_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = PauseTools(services)
    annotations = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    return [
        make_tool(
            tools.pause_environment,
            title="Pause an environment",
            description="Freeze an environment with its memory, files and programs; any call "
            "resumes it. With to_disk, connections break and exposed ports close. Refused while "
            "calls or jobs run.",
            annotations=annotations,
            meta=searchable("pause, suspend or hibernate a sandbox"),
        ),
        make_tool(
            tools.resume_environment,
            title="Resume an environment",
            description="Have a paused environment go on, before a call does so.",
            annotations=annotations,
            meta=searchable("resume a paused sandbox"),
        ),
    ]
