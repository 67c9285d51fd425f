# SPDX-License-Identifier: Apache-2.0
"""The web application: /mcp, /healthz, /readyz and /metrics, and their protection.

Built by `waggle.app.http` with the low-level MCP server of `waggle.mcp` and a function that reports
readiness; served by `waggle.web.server`. Knows no services, tools or settings.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qs

import anyio
import structlog
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle.domain.access import METRICS
from waggle.domain.errors import InvalidArgument
from waggle.domain.toolset import CHOSEN, Offer
from waggle.jsonrpc import INVALID_REQUEST
from waggle.web.access import OPEN, AccessCheck, AccessRules, HostCheck, HostPolicy, metadata_routes
from waggle.web.answers import Load, answered, problem, rpc_error
from waggle.web.bodies import Bodies, BodyLimits, MessageReader
from waggle.web.endpoint import McpEndpoint, SessionLimits

log = structlog.get_logger(__name__)

READINESS_SECONDS = 5.0

NotReady = Callable[[], Awaitable[str | None]]
"""Returns why a create would fail right now, or None."""
Scrape = Callable[[int], tuple[bytes, str]]
"""Takes the number of sessions; returns the body of /metrics and its content type."""


_MCP_PATHS = ("/mcp", "/mcp/")
DEFAULT_SESSIONS = SessionLimits(idle_seconds=1800, maximum=1000)
DEFAULT_BODIES = BodyLimits()


@dataclass(frozen=True, slots=True)
class WebApp:
    """The application, its endpoint, which the server drains, and its shared load."""

    asgi: ASGIApp
    endpoint: McpEndpoint
    load: Load


@dataclass(frozen=True, slots=True)
class Served:
    """The MCP server behind /mcp. `offer` is shown to clients that do not choose.

    `cut_calls` ends tool calls that outlast the grace of a shutdown, with an answer. `carriers` are
    the tools that take files, whose calls may be large.
    """

    server: Server[Any]
    offer: Offer = field(default_factory=Offer)
    cut_calls: Callable[[], object] = lambda: None
    carriers: Collection[str] = ()


def build_app(
    served: Served,
    *,
    not_ready: NotReady,
    hosts: HostPolicy,
    sessions: SessionLimits = DEFAULT_SESSIONS,
    bodies: BodyLimits = DEFAULT_BODIES,
    access: AccessRules = OPEN,
    scrape: Scrape | None = None,
    origins: Collection[str] = (),
) -> WebApp:
    """Build the application. It runs the MCP sessions within its lifespan.

    Browsers let only pages of `origins` call and read the answers.
    """
    reading = Bodies(bodies)
    reader = MessageReader(served.carriers, bodies)
    endpoint = McpEndpoint(served.server, sessions, reading, reader, served.cut_calls)
    load = Load(reading)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        stopping = "The server is shutting down." if endpoint.draining else None
        reason = stopping or load.reason or await _ask(not_ready)
        if reason is not None:
            return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
        return JSONResponse({"status": "ready"})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with endpoint.running():
            yield

    others = Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            *([_metrics_route(scrape, endpoint, access)] if scrape else []),
            *metadata_routes(access),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _crash},
        lifespan=lifespan,
    )
    mcp = AccessCheck(ToolsetChoice(endpoint, served.offer), access)
    front = _Front(mcp, others)
    return WebApp(
        HostCheck(_for_pages(front, origins) if origins else front, hosts), endpoint, load
    )


def _for_pages(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Add CORS to `app`, so that browsers give its answers to pages of `origins`.

    Not to all pages that `hosts` allows: ports of guests are forwarded to loopback, so pages there
    may be a guest's.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Mcp-Session-Id", "WWW-Authenticate", "Retry-After"),
    )


class _Front:
    """The router of /mcp past Starlette, whose layers cost more than all of waggle's together."""

    def __init__(self, mcp: ASGIApp, others: ASGIApp) -> None:
        self._mcp = mcp
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request by its path."""
        if scope["type"] == "http" and scope["path"] in _MCP_PATHS:
            await answered(self._mcp, scope, receive, send)
        else:
            await self._others(scope, receive, send)


PARAMETER = "toolsets"
MOST_REMEMBERED = 100


class ToolsetChoice:
    """ASGI middleware for /mcp that reads the toolsets parameter.

    `offer` is the operator's, for clients that do not choose. The parameter may be repeated, with
    names separated by commas or spaces.
    """

    def __init__(self, app: ASGIApp, offer: Offer) -> None:
        self._app = app
        self._offer = offer
        self._read = lru_cache(MOST_REMEMBERED)(self._choice)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the client's choice; answer 400 if it is invalid or refused."""
        if scope["query_string"]:
            try:
                chosen = self._read(scope["query_string"])
            except InvalidArgument as error:
                told = f"{error.message} {error.hint}".strip()
                await rpc_error(400, INVALID_REQUEST, told)(scope, receive, send)
                return
            scope[CHOSEN] = chosen
        await self._app(scope, receive, send)

    def _choice(self, query: bytes) -> Offer | None:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get(PARAMETER)
        words = re.split(r"[,\s]+", ",".join(given or ()))
        return None if given is None else self._offer.choose(words)


def _metrics_route(scrape: Scrape, endpoint: McpEndpoint, access: AccessRules) -> Route:
    async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem(405, "Method Not Allowed", {"Allow": "GET"})(scope, receive, send)
            return
        text, media = scrape(endpoint.sessions)
        await Response(text, headers={"Content-Type": media})(scope, receive, send)

    only = METRICS if access.verifier else None
    return Route("/metrics", AccessCheck(metrics, access, only=only))


async def _ask(not_ready: NotReady) -> str | None:
    try:
        with anyio.fail_after(READINESS_SECONDS):
            return await not_ready()
    except TimeoutError:
        return f"The readiness check took more than {READINESS_SECONDS:g} s."
    except Exception:
        log.exception("readiness_check_failed")
        return "The readiness check failed; the server's log has the details."


async def _http_problem(_request: Request, error: Exception) -> Response:
    http = cast("HTTPException", error)  # Starlette calls this handler for no other
    return problem(http.status_code, http.detail, http.headers)


async def _crash(_request: Request, _error: Exception) -> Response:
    return problem(500, "Internal error; the server's log has the details.")
