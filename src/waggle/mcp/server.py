# SPDX-License-Identifier: Apache-2.0
"""The MCP server: tools, prompts, instructions, and the edge where errors become results.

Built by the composition root with `build_mcp`; served over HTTP by `waggle.web` (which gets the
low-level server) or over stdio. Calls `waggle.service` only, through the tools.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool

from waggle import __version__
from waggle.domain.errors import WaggleError
from waggle.domain.observer import NO_TOOL, Observer
from waggle.domain.toolset import Offer
from waggle.mcp.arguments import parameter_names
from waggle.mcp.call_record import ended_call
from waggle.mcp.calls import CUT, REFUSED, Calls
from waggle.mcp.context import Ctx, Services, current_owner
from waggle.mcp.errors import describe, failure_result, unknown_tool
from waggle.mcp.instructions import instructions
from waggle.mcp.prompts import Prompts
from waggle.mcp.repeats import PARAMETER, Result, once
from waggle.mcp.resources.changes import Changes
from waggle.mcp.resources.handlers import Resources, sending
from waggle.mcp.tools import all_tools
from waggle.service.rates import RateLimiter
from waggle.service.repeats import Repeats


class WaggleServer(MCPServer[dict[str, Any]]):
    """The SDK's server, with every failure of a tool turned into a result that helps."""

    def __init__(
        self,
        tools: list[Tool],
        *,
        repeats: Repeats,
        observer: Observer,
        offer: Offer,
        instructions: str,
        rates: RateLimiter | None = None,
    ) -> None:
        super().__init__(
            "waggle",
            title="waggle",
            description="Throw-away Linux machines for AI agents.",
            instructions=instructions,
            version=__version__,
            tools=tools,
            lifespan=sending,
            subscriptions=False,
        )
        self.calls = Calls()
        self._observer = observer
        self._offer = offer
        self._rates = rates
        self._repeats = repeats

    @property
    def lowlevel(self) -> Server[dict[str, Any]]:
        """The server that transports drive."""
        return self._lowlevel_server

    @property
    def tools(self) -> list[Tool]:
        """The registered tools, for the generated documentation."""
        return self._tool_manager.list_tools()

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        context: Ctx | None = None,
    ) -> Result:
        """Call a tool. Never raises for a user's mistake, a guest's failure or a crash."""
        if context is None:
            return await self._admit(name, arguments, None)
        result: Result | None = None
        began = time.perf_counter()
        try:
            result = await self._admit(name, arguments, context)
            return result  # the `finally` looks at it
        finally:
            known = name if self._tool_manager.get_tool(name) else NO_TOOL
            took = time.perf_counter() - began
            self._observer.call_ended(ended_call(context, known, arguments, result, took))

    async def _admit(self, name: str, arguments: dict[str, Any], context: Ctx | None) -> Result:
        """Answer, unless the server stops before or meanwhile."""
        if self.calls.stopping:
            return failure_result(REFUSED, self._offer)
        with self.calls.one():
            return await self._answer(name, arguments, context)
        return failure_result(CUT, self._offer)

    async def _answer(self, name: str, arguments: dict[str, Any], context: Ctx | None) -> Result:
        tool = self._tool_manager.get_tool(name)
        try:
            if self._rates is not None and context is not None:
                self._rates.take(current_owner(context))
            if tool is None:
                unknown = unknown_tool(name, [each.name for each in self.tools])
                return failure_result(unknown, self._offer)
            call = partial(super().call_tool, name, arguments, context)
            if context is None or PARAMETER not in tool.parameters["properties"]:
                return await call()
            owner = current_owner(context)
            return await once(self._repeats, name, arguments, call, owner=owner, offer=self._offer)
        except (ToolError, WaggleError) as error:
            names = parameter_names(tool) if tool else ()
            failure = describe(tool.name if tool else NO_TOOL, error, parameters=names)
            return failure_result(failure, self._offer)


def build_mcp(services: Services) -> WaggleServer:
    """The server with prompts and the tools that are offered. It owns nothing that needs closing.

    The SDK configures the root logger if nobody has: configure logging before.
    """
    tools = all_tools(services)
    names, sleep_when_idle = [tool.name for tool in tools], services.environments.sleep_when_idle
    server = WaggleServer(
        tools,
        instructions=instructions(names, sleep_when_idle=sleep_when_idle),
        repeats=services.repeats,
        observer=services.observer,
        offer=services.offer,
        rates=services.rates,
    )
    Prompts(services, server).add_to(server.lowlevel, names)
    changes = Changes()
    changes.follow(services.environments, services.jobs)
    Resources(services, changes, server.calls).add_to(server.lowlevel)
    return server
