# SPDX-License-Identifier: Apache-2.0
"""The tools that show an environment's state, extend its lifetime, and expose and close its ports.

Exposed ports are on the host.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from waggle.domain.environment import MAX_TIMEOUT_MINUTES, MIN_TIMEOUT_MINUTES
from waggle.mcp.context import Ctx, Services, current_owner, with_heartbeat
from waggle.mcp.results import Reply, rfc3339, success
from waggle.mcp.results.state import (
    ClosedPort,
    EnvironmentState,
    ExtendedEnvironment,
    OpenedPort,
    environment_state,
    in_minutes,
    state_text,
)
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import READS, SETTLES, OfferedTool, make_tool
from waggle.service.environments.provision import WAIT_SECONDS

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
    ) -> Annotated[Reply, EnvironmentState]:
        """Tell how it is; not a use of it. Its guest only says what was left running."""
        owner = current_owner(ctx)
        found = await self._environments.inspect(environment_id, owner=owner)
        left = await self._jobs.left.look(environment_id, owner=owner, always=False)
        state = environment_state(found, self._jobs.running(found.environment.id), left)
        return success(state, state_text(state, self._services.when_unused))

    async def extend_environment(
        self, ctx: Ctx, *, environment_id: EnvironmentId, minutes: _Minutes
    ) -> Annotated[Reply, ExtendedEnvironment]:
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
            annotations=READS,
            meta=searchable("status, memory, disk and ports of a sandbox"),
        ),
        make_tool(
            tools.extend_environment,
            title="Keep an environment longer",
            description="Set for how many minutes an environment may stay unused.",
            annotations=SETTLES,
            meta=searchable("keep a sandbox alive for longer"),
        ),
    ]


_Port = Annotated[int, Field(description="TCP port in the environment.")]
_Wait = Annotated[
    float | None, Field(description=f"For something to listen. Default {WAIT_SECONDS:g}.")
]
_SILENT = "Nothing listens there yet: start the server as a background job and use the URL then."


class PortTools:
    """expose_port and unexpose_port."""

    def __init__(self, services: Services) -> None:
        self._ports = services.ports
        self._environments = services.environments
        self._heartbeat = services.heartbeat

    async def expose_port(
        self, ctx: Ctx, *, environment_id: EnvironmentId, port: _Port, wait_seconds: _Wait = None
    ) -> Annotated[Reply, OpenedPort]:
        """Open a port and wait a while until something listens."""
        owner = current_owner(ctx)
        environment_id = self._environments.get(environment_id, owner=owner).id
        work = self._ports.expose(environment_id, port, owner=owner, wait_seconds=wait_seconds)
        exposed, listening = await with_heartbeat(
            ctx, lambda: "waiting for the port", self._heartbeat, work
        )
        note = "" if listening else _SILENT
        result = OpenedPort(port=port, url=exposed.url, listening=listening, note=note)
        return success(result, f"Port {port} is at {exposed.url} on the server's machine.")

    async def unexpose_port(
        self, ctx: Ctx, *, environment_id: EnvironmentId, port: _Port
    ) -> Annotated[Reply, ClosedPort]:
        """Close a port."""
        owner = current_owner(ctx)
        environment_id = self._environments.get(environment_id, owner=owner).id
        was = await self._ports.unexpose(environment_id, port, owner=owner)
        result = ClosedPort(port=port, was_exposed=was)
        return success(result, f"Port {port} is {'closed' if was else 'not exposed'}.")


def port_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = PortTools(services)
    return [
        make_tool(
            tools.expose_port,
            title="Expose a port",
            description="Get a URL, on the server's machine, for a web or other TCP server that "
            "runs in an environment. Visits count as use.",
            annotations=SETTLES,
            meta=searchable("expose a port, preview a web server of a sandbox"),
        ),
        make_tool(
            tools.unexpose_port,
            title="Close an exposed port",
            description="Close a port that expose_port opened. The program goes on.",
            annotations=SETTLES,
            meta=searchable("close an exposed port"),
        ),
    ]
