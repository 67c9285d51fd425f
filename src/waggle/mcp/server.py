# SPDX-License-Identifier: Apache-2.0
"""The MCP server: tools, prompts and instructions. Errors of tools become results by `errors`.

Built by the composition root with `build_mcp`; served over HTTP by `waggle.web` (which gets the
low-level server) or over stdio. Calls `waggle.service` only, through the tools. The tools and
prompts of a client depend on its request: `waggle.mcp.surfaces`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    GetPromptRequestParams,
    GetPromptResult,
    Icon,
    ListPromptsResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from waggle import __version__
from waggle.domain.errors import WaggleError
from waggle.domain.network.questions import Question
from waggle.domain.observer import NO_TOOL, release
from waggle.mcp.context import Ctx, Request, Services, current_owner, whole_arguments
from waggle.mcp.errors import Failure, describe, unknown_tool
from waggle.mcp.held import Held
from waggle.mcp.observed import (
    CUT,
    PARAMETER,
    REFUSED,
    About,
    Calls,
    ToolResult,
    counted,
    ended_call,
    once,
)
from waggle.mcp.offered import result_for
from waggle.mcp.prompts import rendered
from waggle.mcp.resources import Resources, sending
from waggle.mcp.resources.changes import Changes
from waggle.mcp.results import failed
from waggle.mcp.schema.tool import OfferedTool, parameters, takes
from waggle.mcp.sdk import lowlevel_of
from waggle.mcp.surfaces import Surface, Surfaces

_INTRODUCING = ("initialize", "server/discover")
_HOUR = CacheHint(ttl_ms=3_600_000)
_LASTING: Mapping[CacheableMethod, CacheHint] = {
    "tools/list": _HOUR,
    "prompts/list": _HOUR,
    "resources/templates/list": _HOUR,
    "server/discover": _HOUR,
}
"""The answers that do not change while the server runs, so that clients can cache them."""
_ICON = (
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3"
    "g9IjAgMCAyNCAyNCI+PHBhdGggZmlsbD0iI2YwYTAwMCIgZD0iTTEyIDFsOS41IDUuNXYxMUwxMiAyM2wtOS41LT"
    "UuNXYtMTF6Ii8+PC9zdmc+"
)
"""A honeycomb cell. Every answer of 2026-07-28 includes it, so it is small."""


class WaggleServer(MCPServer[dict[str, Any]]):
    """The SDK's server; every failure of a tool becomes a result with a code and a hint."""

    def __init__(self, services: Services) -> None:
        surfaces = Surfaces(services)
        super().__init__(
            "waggle",
            title="waggle",
            description="Sandboxes for AI agents: isolated, throw-away Linux VMs.",
            instructions=surfaces.default.instructions,
            version=__version__,
            tools=[*surfaces.whole.tools.values()],
            icons=[Icon(src=_ICON, mime_type="image/svg+xml", sizes=["any"])],
            cache_hints=_LASTING,
            lifespan=sending,
            subscriptions=False,
        )
        self.calls = Calls()
        self._held = Held(services.questions, self._name_of)
        self.calls.when_cut = self._held.close
        self._services = services
        self._surfaces = surfaces
        serve = self.lowlevel.add_request_handler
        serve("tools/list", PaginatedRequestParams, self._list_tools)
        serve("prompts/list", PaginatedRequestParams, self._list_prompts)
        serve("prompts/get", GetPromptRequestParams, self._get_prompt)
        self.lowlevel.middleware.append(self._introducing)

    @property
    def lowlevel(self) -> Server[dict[str, Any]]:
        """The low-level server, which transports run."""
        return lowlevel_of(self)

    @property
    def tools(self) -> list[OfferedTool]:
        """The tools that a client sees by default."""
        return [*self._surfaces.default.tools.values()]

    def _name_of(self, question: Question) -> str:
        """Return the name of the environment that a question is about."""
        life = self._services.environments.life(question.environment_id)
        return life.environment.name if life else question.environment_id

    async def _introducing(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """Send the instructions for the client's own toolsets, if it chose some."""
        result = await call_next(ctx)
        if ctx.method in _INTRODUCING and isinstance(result, dict):
            result["instructions"] = self._surfaces.of(ctx.request).instructions
        return result

    async def _list_tools(self, ctx: Request, _params: PaginatedRequestParams) -> ListToolsResult:
        return self._surfaces.of(ctx.request).tool_list

    async def _list_prompts(
        self, ctx: Request, _params: PaginatedRequestParams
    ) -> ListPromptsResult:
        return self._surfaces.of(ctx.request).prompt_list

    async def _get_prompt(self, ctx: Request, params: GetPromptRequestParams) -> GetPromptResult:
        context = Context(request_context=ctx, mcp_server=self, input_params=params)
        surface = self._surfaces.of(ctx.request)
        about, advise = About(ctx.method), surface.offer.advice
        async with counted(self._services, context, about, advise):
            return await rendered(surface.prompts, params.name, params.arguments or {}, context)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Ctx | None = None
    ) -> ToolResult:
        """Call a tool. Never raises for a user's mistake, a guest's failure or a crash."""
        request = context and context.request_context.request
        arguments = whole_arguments(request, arguments)
        surface = self._surfaces.of(request)
        tool = self._surfaces.tool(surface, name)
        if tool is not None:
            # One name per parameter, without names that clients add.
            arguments = tool.fn_metadata.pre_parse_json(arguments)
        if context is None:
            return await self._admit(surface, tool, name, arguments, None)
        result: ToolResult | None = None
        began, given = time.perf_counter(), self._with_id(arguments, context)
        try:
            result = await self._admit(surface, tool, name, arguments, context)
            return result  # `finally` needs the variable
        finally:
            known, took = tool.name if tool else NO_TOOL, time.perf_counter() - began
            call = ended_call(context, known, given, result, took)
            self._services.observer.call_ended(call)

    def _with_id(self, arguments: dict[str, Any], context: Ctx) -> dict[str, Any]:
        """Return the arguments with the environment's id, if they name one of the owner's."""
        given: object = arguments.get("environment_id")
        if not isinstance(given, str):
            return arguments
        try:
            found = self._services.environments.get(given, owner=current_owner(context))
        except WaggleError:
            return arguments
        return {**arguments, "environment_id": found.id}

    async def _admit(
        self,
        surface: Surface,
        tool: OfferedTool | None,
        name: str,
        arguments: dict[str, Any],
        context: Ctx | None,
    ) -> ToolResult:
        """Answer a call; with an error if the server stops before or meanwhile."""
        if self.calls.stopping:
            return _refusal(REFUSED, surface)
        with self.calls.one():
            if tool is None:
                return self._unknown(surface, name, context)
            return await self._answer(surface, tool, arguments, context)
        return _refusal(CUT, surface)

    def _unknown(self, surface: Surface, name: str, context: Ctx | None) -> ToolResult:
        try:
            self._count(context)
        except WaggleError as error:
            return _refusal(describe(NO_TOOL, error), surface)
        return _refusal(unknown_tool(name, surface.tools), surface)

    def _count(self, context: Ctx | None) -> None:
        """Count a call. Raises RateLimited if the owner calls too often."""
        if self._services.rates is not None and context is not None:
            self._services.rates.take(current_owner(context))

    async def _answer(
        self, surface: Surface, tool: OfferedTool, arguments: dict[str, Any], context: Ctx | None
    ) -> ToolResult:
        offer = self._surfaces.offer_with(surface, tool.name)

        async def call(called: Ctx) -> ToolResult:
            reply = await tool.run(arguments, called)
            try:
                return result_for(reply, offer)
            except Exception as error:  # a fault of ours, described with an id as others are
                raise ToolError(tool.name) from error

        async def work(called: Ctx) -> ToolResult:
            if not takes(tool, PARAMETER):
                return await call(called)
            return await once(
                self._services.repeats,
                tool.name,
                arguments,
                partial(call, called),
                owner=current_owner(called),
                advise=surface.offer.advice,
                fail=fail,
            )

        def fail(error: Exception) -> ToolResult:
            failure = describe(tool.name, error, parameters=parameters(tool))
            release(error)
            return _refusal(failure, surface)

        try:
            self._count(context)
            if context is None:
                return await call(Context(mcp_server=self))
            return await self._held.run(current_owner(context), context, work)
        except (ToolError, WaggleError) as error:
            return fail(error)
        except asyncio.CancelledError as error:  # the client hung up
            release(error)
            raise


def _refusal(failure: Failure, surface: Surface) -> ToolResult:
    return result_for(failed(failure), surface.offer)


def build_mcp(services: Services) -> WaggleServer:
    """Build the server with its prompts, offered tools and resources. It needs no closing.

    The SDK configures the root logger unless it is configured: configure logging before.
    """
    server = WaggleServer(services)
    services.environments.events.when_removed(services.questions.forget)
    changes = Changes()
    changes.follow(services.environments, services.jobs, services.watches)
    Resources(services, changes, server.calls).add_to(server.lowlevel)
    return server
