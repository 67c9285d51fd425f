# SPDX-License-Identifier: Apache-2.0
"""The conformance suite's tools and prompts, served together with the product's.

The fixtures are registered with the SDK's server. Tools and prompts that the product knows go to
its own handlers, all others to the SDK's. Only `tests.conformance.server` loads this.
"""

from __future__ import annotations

from typing import Any

from mcp.server.context import HandlerResult
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    ListPromptsResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)

from waggle.mcp.context import Request
from waggle.mcp.server import WaggleServer


class Beside:
    """Handlers for both. Create it after the product's handlers; call `add` after the fixtures."""

    def __init__(self, server: WaggleServer) -> None:
        self._server = server
        low = server.lowlevel
        self._theirs = {
            method: low.get_request_handler(method)
            for method in ("tools/list", "tools/call", "prompts/list", "prompts/get")
        }
        self._tools = {tool.name for tool in server._tool_manager.list_tools()}

    def add(self) -> None:
        low = self._server.lowlevel
        low.add_request_handler("tools/list", PaginatedRequestParams, self._list_tools)
        low.add_request_handler("tools/call", CallToolRequestParams, self._call)
        low.add_request_handler("prompts/list", PaginatedRequestParams, self._list_prompts)
        low.add_request_handler("prompts/get", GetPromptRequestParams, self._get_prompt)

    async def _product(self, ctx: Request, params: Any) -> Any:
        entry = self._theirs[ctx.method]
        assert entry is not None
        return await entry.handler(ctx, params)

    async def _list_tools(self, ctx: Request, params: PaginatedRequestParams) -> ListToolsResult:
        listed = await self._product(ctx, params)
        more = [tool for tool in await self._server.list_tools() if tool.name not in self._tools]
        return ListToolsResult(tools=[*listed.tools, *more])

    async def _call(self, ctx: Request, params: CallToolRequestParams) -> HandlerResult:
        fixture = self._server._tool_manager.get_tool(params.name)
        if params.name in self._tools or fixture is None:
            return await self._product(ctx, params)
        context = Context(request_context=ctx, mcp_server=self._server, input_params=params)
        arguments = params.arguments or {}
        try:
            return await MCPServer.call_tool(self._server, params.name, arguments, context)
        except ToolError as error:
            text = TextContent(type="text", text=str(error))
            return CallToolResult(content=[text], is_error=True)

    async def _list_prompts(
        self, ctx: Request, params: PaginatedRequestParams
    ) -> ListPromptsResult:
        listed = await self._product(ctx, params)
        return ListPromptsResult(prompts=[*listed.prompts, *await self._server.list_prompts()])

    async def _get_prompt(self, ctx: Request, params: GetPromptRequestParams) -> HandlerResult:
        if params.name not in {prompt.name for prompt in await self._server.list_prompts()}:
            return await self._product(ctx, params)
        context = Context(request_context=ctx, mcp_server=self._server, input_params=params)
        return await self._server.get_prompt(params.name, params.arguments, context)
