# SPDX-License-Identifier: Apache-2.0
"""The handlers of resource requests. Called by `waggle.mcp.server`, once per server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

import anyio
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

from waggle.domain.access import Owner
from waggle.domain.toolset import Offer
from waggle.mcp.context import Request, Services, chosen_offer, current_owner
from waggle.mcp.observed import CUT, REFUSED, About, Calls, counted
from waggle.mcp.refusals import failed, refusing
from waggle.mcp.resources.changes import Changes
from waggle.mcp.resources.listing import complete, list_page, templates
from waggle.mcp.resources.read import read_resource
from waggle.mcp.resources.subscriptions import TASKS, Subscriptions
from waggle.mcp.uris import environment_in

P = TypeVar("P", bound=BaseModel)
Handle = Callable[[Request, P], Awaitable[HandlerResult]]
_SHOWN_URI = 300


@asynccontextmanager
async def sending(_server: MCPServer[dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
    """Run the server's lifespan: the tasks that notify clients, cancelled at its end."""
    async with anyio.create_task_group() as group:
        try:
            yield {TASKS: group}
        finally:
            group.cancel_scope.cancel()


class Resources:
    """The handlers for one server."""

    def __init__(self, services: Services, changes: Changes, calls: Calls) -> None:
        self._shown = services.offer
        self._services = services = replace(services, offer=services.offer.whole)
        self._calls = calls
        self._subscriptions = Subscriptions(services, changes, _owner)

    def add_to(self, server: Server[dict[str, Any]]) -> None:
        """Add the handlers of resources, completion of their templates, and subscriptions."""
        subscriptions = self._subscriptions
        server.add_request_handler(
            "resources/templates/list", PaginatedRequestParams, self._templates
        )
        server.add_request_handler("completion/complete", CompleteRequestParams, self._complete)

        def add(method: str, kind: type[P], handle: Handle[P]) -> None:
            bounded = self._until_stop(handle)
            server.add_request_handler(method, kind, self._counted(method, bounded))

        add("resources/list", PaginatedRequestParams, self._list)
        add("resources/read", ReadResourceRequestParams, self._read)
        add("resources/subscribe", SubscribeRequestParams, subscriptions.subscribe)
        add("resources/unsubscribe", UnsubscribeRequestParams, subscriptions.unsubscribe)
        listen = self._counted("subscriptions/listen", subscriptions.listen)
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, listen)
        server.middleware.append(_announcing)

    def _counted(self, method: str, handle: Handle[P]) -> Handle[P]:
        """Return a handler that counts like a tool call: in the rate, metrics and audit."""

        async def counting(ctx: Request, params: P) -> HandlerResult:
            uri = str(getattr(params, "uri", ""))
            about = About(method, uri[:_SHOWN_URI], environment_in(uri))
            async with counted(self._services, Context(request_context=ctx), about):
                return await handle(ctx, params)

        return counting

    def _until_stop(self, handle: Handle[P]) -> Handle[P]:
        """Return a handler that answers with an error if the server stops before or meanwhile."""

        async def bounded(ctx: Request, params: P) -> HandlerResult:
            if self._calls.stopping:
                raise failed(REFUSED)
            with self._calls.one():
                return await handle(ctx, params)
            raise failed(CUT)

        return bounded

    async def _list(self, ctx: Request, params: PaginatedRequestParams) -> ListResourcesResult:
        owner = _owner(ctx)
        async with refusing("resources/list", "", ctx.protocol_version, self._told(ctx)):
            result = list_page(self._services, params.cursor, owner=owner)
        self._subscriptions.listed(ctx, owner)
        return result

    async def _templates(
        self, ctx: Request, _params: PaginatedRequestParams
    ) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=templates(self._told(ctx)))

    async def _read(self, ctx: Request, params: ReadResourceRequestParams) -> ReadResourceResult:
        async with refusing(
            "resources/read", params.uri[:_SHOWN_URI], ctx.protocol_version, self._told(ctx)
        ):
            contents = await read_resource(self._services, params.uri, owner=_owner(ctx))
        return ReadResourceResult(contents=[contents])

    def _told(self, ctx: Request) -> Offer:
        """Return the offer shown to this client; it may read everything that is allowed."""
        return chosen_offer(ctx.request) or self._shown

    async def _complete(self, ctx: Request, params: CompleteRequestParams) -> CompleteResult:
        return complete(self._services, params, owner=_owner(ctx))


def _owner(ctx: Request) -> Owner:
    return current_owner(Context(request_context=ctx))


async def _announcing(ctx: Request, call_next: CallNext) -> HandlerResult:
    """Announce list changes to 2025 clients, because the SDK has no setting for it."""
    result = await call_next(ctx)
    if ctx.method == "initialize" and isinstance(result, dict):
        capabilities = cast("dict[str, dict[str, Any]]", result["capabilities"])
        capabilities["resources"]["listChanged"] = True
    return result
