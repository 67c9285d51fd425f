# SPDX-License-Identifier: Apache-2.0
"""The tools that tell how an environment is and let it stay longer."""

from __future__ import annotations

from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.results.environments import rfc3339, success
from waggle.mcp.results.state import (
    EnvironmentState,
    ExtendedEnvironment,
    environment_state,
    in_minutes,
    state_text,
)
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import OfferedTool, make_tool

_Minutes = Annotated[
    int, Field(description=f"{MIN_TIMEOUT_MINUTES} to {MAX_TIMEOUT_MINUTES}, from now on.")
]


class LifetimeTools:
    """get_environment and extend_environment."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._services = services
        self._jobs = services.jobs

    async def get_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId
    ) -> Annotated[CallToolResult, EnvironmentState]:
        """Tell how it is; not a use of it. Its guest only says what was left running."""
        owner = current_owner(ctx)
        found = await self._environments.inspect(environment_id, owner=owner)
        left = await self._jobs.left.look(environment_id, owner=owner, always=False)
        state = environment_state(found, self._jobs.running(found.environment.id), left)
        return success(state, state_text(state, self._services.when_unused))

    async def extend_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, minutes: _Minutes
    ) -> Annotated[CallToolResult, ExtendedEnvironment]:
        """Set its idle time and restart it."""
        environment = await self._environments.extend(
            environment_id, minutes, owner=current_owner(ctx)
        )
        result = ExtendedEnvironment(
            name=environment.name,
            timeout=in_minutes(environment.idle_timeout),
            expires_at=rfc3339(environment.expires_at()),
        )
        return success(
            result,
            f"Environment {result.name} is {self._services.when_unused} after {result.timeout} "
            f"without a call: at {result.expires_at} if none comes.",
        )


def lifetime_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = LifetimeTools(services)
    return [
        make_tool(
            tools.get_environment,
            title="Look at an environment",
            description="Tell an environment's state, remaining time, running jobs, exposed ports "
            "and resources. Does not count as use.",
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
            meta=searchable("status, memory, disk and ports of a sandbox"),
        ),
        make_tool(
            tools.extend_environment,
            title="Keep an environment longer",
            description="Set for how many minutes an environment may stay unused.",
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
            meta=searchable("keep a sandbox alive for longer"),
        ),
    ]
