# SPDX-License-Identifier: Apache-2.0
"""The web application: /mcp, terminals, exposed ports, /healthz, /readyz, /metrics, and its guards.

Built by `waggle.app.serving` with the low-level MCP server of `waggle.mcp` and a function that
reports readiness; served by `waggle.web.server`. A client may choose toolsets in its URL
(`/mcp?toolsets=core,ports`): the choice goes to `waggle.mcp` in the request's scope. Knows no
services, tools or settings, apart from `terminal` and `exposed`, which know theirs.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
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

from waggle.domain.errors import InvalidArgument
from waggle.domain.exposed_url import PATHS
from waggle.domain.toolset import CHOSEN, Offer
from waggle.jsonrpc import INVALID_REQUEST
from waggle.web.access import (
    OPEN,
    AccessCheck,
    AccessRules,
    HostPolicy,
    host_check,
    metadata_routes,
)
from waggle.web.answers import answered, problem, rpc_error
from waggle.web.bodies import Bodies, BodyLimits
from waggle.web.endpoint import McpEndpoint
from waggle.web.exposed import ExposedEndpoint, ExposedPorts
from waggle.web.protocol import Offers
from waggle.web.sdk import SessionLimits
from waggle.web.terminal import TerminalEndpoint, Terminals, environment_in

log = structlog.get_logger(__name__)

READINESS_SECONDS = 5.0
DEFAULT_SESSIONS = SessionLimits(idle_seconds=1800, maximum=1000)
DEFAULT_BODIES = BodyLimits()
_MCP_PATHS = ("/mcp", "/mcp/")
_CHOICES_REMEMBERED = 100

NotReady = Callable[[], Awaitable[str | None]]
"""Returns why a create would fail right now, or None."""
Scrape = Callable[[int], Awaitable[tuple[bytes, str]]]
"""Takes the number of sessions; returns the body of /metrics and its content type."""


@dataclass(slots=True)
class WebApp:
    """The application, and its endpoint, which the server drains."""

    asgi: ASGIApp
    endpoint: McpEndpoint
    crowded: Callable[[], bool] = lambda: False
    """Whether requests are refused because others are served; `waggle.web.server` sets it."""
    offers: Offers = lambda _url, _headers: False
    """See `waggle.web.protocol`."""


@dataclass(frozen=True, slots=True)
class Served:
    """The MCP server behind /mcp. `offer` is shown to clients that do not choose.

    `cut_calls` ends tool calls that outlast the grace of a shutdown, with an answer. `carriers` are
    the tools that take files, whose calls may be large. `terminals` and `exposed` ports are at
    their own paths, the latter also at their own hosts. `about` is what /readyz says when it is
    ready.
    """

    server: Server[Any]
    offer: Offer = field(default_factory=Offer)
    cut_calls: Callable[[], object] = lambda: None
    carriers: Collection[str] = ()
    terminals: Terminals | None = None
    exposed: ExposedPorts | None = None
    about: Mapping[str, object] = field(default_factory=dict[str, object])


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

    Browsers let only pages of `origins` call and read the answers: not pages of all names in
    `hosts`, since ports of guests are forwarded to loopback, so pages there may be a guest's.
    """
    reading = Bodies(bodies, served.carriers)
    endpoint = McpEndpoint(served.server, sessions, reading, served.cut_calls)
    mcp = AccessCheck(_choosing(endpoint, served.offer), access)
    terminals: ASGIApp | None = None
    if served.terminals is not None:
        terminals = AccessCheck(TerminalEndpoint(served.terminals, endpoint, origins), access)

    exposed: ExposedEndpoint | None = None
    if served.exposed is not None:
        exposed = ExposedEndpoint(served.exposed, endpoint, access, origins)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's layers cost more than all of waggle's together, so /mcp goes past them.
        if scope["type"] == "http" and scope["path"] in _MCP_PATHS:
            await answered(mcp, scope, receive, send)
        elif terminals and scope["type"] == "http" and environment_in(scope["path"]):
            await terminals(scope, receive, send)
        elif exposed and scope["type"] == "http" and scope["path"].startswith(PATHS):
            await exposed(scope, receive, send)
        else:
            await others(scope, receive, send)

    pages = CORSMiddleware(
        front,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Mcp-Session-Id", "WWW-Authenticate", "Retry-After"),
    )
    checked = host_check(pages if origins else front, hosts)

    async def by_host(scope: Scope, receive: Receive, send: Send) -> None:
        if exposed and scope["type"] == "http" and exposed.names(scope):
            await exposed(scope, receive, send)
        else:
            await checked(scope, receive, send)

    web = WebApp(by_host if exposed else checked, endpoint)
    if exposed is not None:
        web.offers = exposed.offers
    others = _others(web, reading, not_ready, scrape, access, served.about)
    return web


def _others(
    web: WebApp,
    bodies: Bodies,
    not_ready: NotReady,
    scrape: Scrape | None,
    access: AccessRules,
    about: Mapping[str, object],
) -> Starlette:
    """Return the application of every path but /mcp. Its lifespan is the endpoint's."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if web.endpoint.draining:
            reason = "The server is shutting down."
        elif web.crowded():
            reason = "As many requests are served as can be; further ones are refused."
        elif bodies.refusing:
            reason = "Large requests use up the memory for them; further ones are refused."
        else:
            reason = await _reason(not_ready)
        if reason is not None:
            return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
        return JSONResponse({"status": "ready", **about})

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with web.endpoint.running():
            yield

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            *([_metrics_route(scrape, web.endpoint, access)] if scrape else []),
            *metadata_routes(access),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _crash},
        lifespan=lifespan,
    )


def _choosing(app: ASGIApp, offer: Offer) -> ASGIApp:
    """Read the parameter `toolsets` for `app`; answer 400 if it is invalid or refused.

    `offer` is the operator's, for clients that do not choose. The parameter may be repeated, with
    names separated by commas or spaces.
    """

    @lru_cache(_CHOICES_REMEMBERED)
    def read(query: bytes) -> Offer | None:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("toolsets")
        return None if given is None else offer.choose(re.split(r"[,\s]+", ",".join(given)))

    async def choosing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            try:
                scope[CHOSEN] = read(scope["query_string"])
            except InvalidArgument as error:
                why = f"{error.message} {error.hint}".strip()
                await rpc_error(400, INVALID_REQUEST, why)(scope, receive, send)
                return
        await app(scope, receive, send)

    return choosing


def _metrics_route(scrape: Scrape, endpoint: McpEndpoint, access: AccessRules) -> Route:
    async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem(405, "Method Not Allowed", {"Allow": "GET"})(scope, receive, send)
            return
        text, media = await scrape(endpoint.sessions)
        await Response(text, headers={"Content-Type": media})(scope, receive, send)

    return Route("/metrics", AccessCheck(metrics, access, for_scraper=True))


async def _reason(not_ready: NotReady) -> str | None:
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
