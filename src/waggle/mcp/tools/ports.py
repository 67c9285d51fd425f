# SPDX-License-Identifier: Apache-2.0
"""The tools that open and close ports of an environment on the server's machine."""

from __future__ import annotations

from typing import Annotated

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from waggle.mcp.context import Ctx, Services, current_owner, with_heartbeat
from waggle.mcp.results.environments import success
from waggle.mcp.results.state import ClosedPort, OpenedPort
from waggle.mcp.schema.parameters import EnvironmentId, searchable
from waggle.mcp.schema.tool import OfferedTool, make_tool
from waggle.service.environments.provision import WAIT_SECONDS

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
    ) -> Annotated[CallToolResult, OpenedPort]:
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
    ) -> Annotated[CallToolResult, ClosedPort]:
        """Close a port."""
        owner = current_owner(ctx)
        environment_id = self._environments.get(environment_id, owner=owner).id
        was = await self._ports.unexpose(environment_id, port, owner=owner)
        result = ClosedPort(port=port, was_exposed=was)
        return success(result, f"Port {port} is {'closed' if was else 'not exposed'}.")


def port_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = PortTools(services)
    annotations = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    return [
        make_tool(
            tools.expose_port,
            title="Expose a port",
            description="Get a URL, on the server's machine, for a web or other TCP server that "
            "runs in an environment. Visits count as use.",
            annotations=annotations,
            meta=searchable("expose a port, preview a web server of a sandbox"),
        ),
        make_tool(
            tools.unexpose_port,
            title="Close an exposed port",
            description="Close a port that expose_port opened. The program goes on.",
            annotations=annotations,
            meta=searchable("close an exposed port"),
        ),
    ]
