# SPDX-License-Identifier: Apache-2.0
"""The tool that boots an environment again from its disk."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.mcp.context import Ctx, Services, current_owner, reporter
from waggle.mcp.results import Reply, success
from waggle.mcp.results.restarts import RestartedEnvironment, restarted, restarted_text
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import DESTROYS, OfferedTool, make_tool
from waggle.service.environments.restarts import Restarts

_Force = Annotated[bool, Field(description="Kill programs at once.")]


class RestartTools:
    """restart_environment."""

    def __init__(self, services: Services) -> None:
        self._environments = services.environments
        self._jobs = services.jobs
        self._restarts = Restarts(services.environments)

    async def restart_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, force: _Force = False
    ) -> Annotated[Reply, RestartedEnvironment]:
        """Restart an environment."""
        owner = current_owner(ctx)
        found = self._environments.get(environment_id, owner=owner)
        going = self._jobs.going(found.id)
        done = await self._restarts.restart(
            found.id, owner=owner, force=force, progress=reporter(ctx)
        )
        result = restarted(done, going)
        return success(result, restarted_text(result))


def restart_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = RestartTools(services)
    return [
        make_tool(
            tools.restart_environment,
            title="Restart an environment",
            description="Boot an environment again when its machine is broken: no answer, out of "
            "memory or processes, system files deleted. Its files stay; programs, jobs and "
            "contexts end.",
            annotations=DESTROYS.model_copy(update={"idempotent_hint": False}),
            meta=searchable("restart or reboot a sandbox that is broken or hangs"),
        ),
    ]
