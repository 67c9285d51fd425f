# SPDX-License-Identifier: Apache-2.0
"""The tool that changes what an environment reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.results import Hint, Reply, success
from waggle.mcp.results.state import ChangedNetwork
from waggle.mcp.schema import listed_as
from waggle.mcp.schema.parameters import EnvironmentId, NetworkArgument, parse_reach, searchable
from waggle.mcp.schema.tool import SETTLES, OfferedTool, make_tool

_RULES = listed_as(type="array", items={"type": "string"})
_Allow = Annotated[
    str | list[str] | None,
    Field(
        description="Rules to add, as example.org or *.example.org:22.", json_schema_extra=_RULES
    ),
]
_Deny = Annotated[
    str | list[str] | None, Field(description="Never to be reached.", json_schema_extra=_RULES)
]


class NetworkTools:
    """set_network."""

    def __init__(self, services: Services) -> None:
        self._networks = services.networks

    async def set_network(
        self,
        ctx: Ctx,
        *,
        environment_id: EnvironmentId,
        network: NetworkArgument = None,
        allow: _Allow = None,
        deny: _Deny = None,
    ) -> Annotated[Reply, ChangedNetwork]:
        """Change what an environment reaches."""
        changed = await self._networks.set_network(
            environment_id,
            owner=current_owner(ctx),
            network=parse_reach(network),
            allow=_items(allow),
            deny=_items(deny),
        )
        result = ChangedNetwork(
            network=str(changed.environment.network), closed_connections=changed.closed
        )
        text = f"Its network is {result.network} now."
        if changed.closed:
            text += f" Open connections that were closed: {changed.closed}."
        for_good = Hint("Create another environment for one that has a network.", "It stays so")
        hints = [for_good] if changed.environment.network.is_none else []
        return success(result, text, hints=hints)


def _items(given: str | Sequence[str] | None) -> list[str]:
    """Return a list of rules, of which one text is also one."""
    items = [given] if isinstance(given, str) else given or []
    return [item.strip() for item in items if item.strip()]


def network_tools(services: Services) -> list[OfferedTool]:
    """The tools of this module."""
    tools = NetworkTools(services)
    return [
        make_tool(
            tools.set_network,
            title="Change the network",
            description="Change at once which hosts a running environment reaches: another "
            "network, or more rules.",
            annotations=SETTLES,
            meta=searchable("allow or block hosts, internet access of a sandbox"),
        ),
    ]
