# SPDX-License-Identifier: Apache-2.0
"""Resources of the protocol: environments, the output of programs, files and archives.

`waggle.mcp.server` adds the handlers of this package to the SDK's low-level server. Only
`waggle.mcp.uris` knows how URIs are formed; the other modules here do not know offers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import anyio
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    ResourceTemplateReference,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

from waggle.domain.toolset import Offer
from waggle.mcp.context import Request, Services, owner_of
from waggle.mcp.errors import unanswered
from waggle.mcp.observed import CUT, REFUSED, About, Calls, counted
from waggle.mcp.offered import chosen_offer, offered_address, offers, offers_template
from waggle.mcp.resources.changes import Changes
from waggle.mcp.resources.listing import TEMPLATES, complete, list_page
from waggle.mcp.resources.read import EXECUTIONS_SHOWN, read_resource
from waggle.mcp.resources.subscriptions import TASKS, Subscriptions
from waggle.mcp.uris import StreamAddress, environment_in, parse_uri

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
        self._shown, self._whole = services.offer, services.offer.whole
        self._services = services
        self._calls = calls
        known = partial(offered_address, self._whole)
        self._subscriptions = Subscriptions(services, changes, known)

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
            advise = self._offer(ctx).advice
            async with counted(self._services, Context(request_context=ctx), about, advise):
                return await handle(ctx, params)

        return counting

    def _until_stop(self, handle: Handle[P]) -> Handle[P]:
        """Return a handler that answers with an error if the server stops before or meanwhile."""

        async def bounded(ctx: Request, params: P) -> HandlerResult:
            if self._calls.stopping:
                raise unanswered(REFUSED)
            with self._calls.one():
                return await handle(ctx, params)
            raise unanswered(CUT)

        return bounded

    async def _list(self, ctx: Request, params: PaginatedRequestParams) -> ListResourcesResult:
        owner = owner_of(ctx)
        page = list_page(self._services, params.cursor, owner=owner)
        self._subscriptions.listed(ctx, owner)
        listed = [resource for resource in page.resources if self._has(resource.uri)]
        return page.model_copy(update={"resources": listed})

    def _has(self, uri: str) -> bool:
        address = parse_uri(uri)
        return address is not None and offers(self._whole, type(address))

    async def _templates(
        self, ctx: Request, _params: PaginatedRequestParams
    ) -> ListResourceTemplatesResult:
        offer = self._offer(ctx)
        listed = [kind for kind in TEMPLATES if offers_template(offer, kind.uri_template)]
        return ListResourceTemplatesResult(resource_templates=listed)

    async def _read(self, ctx: Request, params: ReadResourceRequestParams) -> ReadResourceResult:
        contents = await read_resource(
            self._services,
            params.uri,
            offered_address(self._whole, params.uri),
            owner=owner_of(ctx),
            executions=EXECUTIONS_SHOWN if offers(self._whole, StreamAddress) else 0,
        )
        return ReadResourceResult(contents=[contents])

    def _offer(self, ctx: Request) -> Offer:
        """Return the offer shown to this client; it may read everything that is allowed."""
        return chosen_offer(ctx.request) or self._shown

    async def _complete(self, ctx: Request, params: CompleteRequestParams) -> CompleteResult:
        template = params.ref.uri if isinstance(params.ref, ResourceTemplateReference) else None
        if template is not None and not offers_template(self._whole, template):
            return CompleteResult(completion=Completion(values=[], total=0, has_more=False))
        return complete(self._services, params, owner=owner_of(ctx))


async def _announcing(ctx: Request, call_next: CallNext) -> HandlerResult:
    """Announce list changes to 2025 clients, because the SDK has no setting for it."""
    result = await call_next(ctx)
    if ctx.method == "initialize" and isinstance(result, dict):
        capabilities = cast("dict[str, dict[str, Any]]", result["capabilities"])
        capabilities["resources"]["listChanged"] = True
    return result
