# SPDX-License-Identifier: Apache-2.0
"""A whole server in the test's event loop: real services, MCP and HTTP, over a fake host.

`serving()` listens on a free port of loopback. `client(url)` is the SDK's real client, in either
era. Everything ends with the `async with`.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import anyio.abc
import httpx2
from mcp import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent
from tests.support.fakes import FakeHost, MemoryCalls, MemoryShelf, MemoryStore

from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.files.tree import MAX_RECORDS_BYTES
from waggle.domain.link import KEY_BYTES
from waggle.domain.machine import Resources
from waggle.domain.network import PUBLIC_NETWORK, Network
from waggle.domain.observer import Clock, Observer
from waggle.domain.programs import MAX_OUTPUT
from waggle.domain.programs.runtime import Runtime, RuntimeName
from waggle.domain.toolset import ALL_TOOLSETS, Offer, Toolset
from waggle.infra.shared.spool import Spool
from waggle.mcp.context import Services
from waggle.mcp.schema.tool import OfferedTool
from waggle.mcp.server import WaggleServer, build_mcp
from waggle.mcp.tools import CARRIERS, all_tools
from waggle.service.environments.creating import Pausing
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.ports import PortService
from waggle.service.environments.questions import Questions
from waggle.service.environments.service import EnvironmentService, Limits
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService
from waggle.service.files import FilesystemService
from waggle.service.files.trees import TreeService
from waggle.service.files.watches import WatchService
from waggle.service.idempotency import Repeats
from waggle.service.programs.execution import ExecutionLimits, ExecutionService
from waggle.service.programs.jobs import JobService
from waggle.service.programs.terminals import TerminalService
from waggle.service.sharing import RateLimiter
from waggle.web import DEFAULT_BODIES, DEFAULT_SESSIONS, Scrape, Served, WebApp, build_app
from waggle.web.access import OPEN, AccessRules, host_policy
from waggle.web.bodies import BodyLimits
from waggle.web.exposed import ExposedLimits, ExposedPorts
from waggle.web.sdk import SessionLimits
from waggle.web.server import ServerLimits, WebServer, bind
from waggle.web.terminal import TerminalLimits, Terminals

LEGACY = "legacy"
MODERN = "2026-07-28"
ERAS = (LEGACY, MODERN)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts no certificate. Reading the machine's certificates takes longer than most tests."""
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
EXECUTION = ExecutionLimits(wait=30, max_timeout=300, install_timeout=600, output=24_000)
RUNTIMES = {
    name: Runtime(name, ".x", (name.value, "{file}"), ("install", "{packages}"))
    for name in RuntimeName
}


@dataclass(slots=True)
class Setup:
    """The settings that a test may change."""

    host: FakeHost = field(default_factory=FakeHost)
    store: MemoryStore = field(default_factory=MemoryStore)
    calls: MemoryCalls = field(default_factory=MemoryCalls)
    shelf: MemoryShelf = field(default_factory=MemoryShelf)
    max_environments: int = 3
    heartbeat: float = 60.0
    sessions: SessionLimits = DEFAULT_SESSIONS
    bodies: BodyLimits = DEFAULT_BODIES
    limits: ServerLimits = field(default_factory=lambda: ServerLimits(grace=0.0))
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    access: AccessRules = OPEN
    observer: Observer | None = None
    scrape: Scrape | None = None
    per_owner: int = 0
    network: Network = PUBLIC_NETWORK
    rates: RateLimiter | None = None
    toolsets: Collection[Toolset] = ALL_TOOLSETS
    """The toolsets that are shown, and also allowed unless there is an `offer`."""
    offer: Offer | None = None
    parameter_headers: bool = False
    pausing: Pausing = field(default_factory=Pausing)
    several_owners: bool = False
    terminals: TerminalLimits = field(default_factory=TerminalLimits)
    exposed: ExposedLimits = field(default_factory=ExposedLimits)
    urls: ExposedUrls = field(default_factory=ExposedUrls)
    link_key: bytes | None = bytes(KEY_BYTES)
    clock: Clock = lambda: NOW
    runtimes: Mapping[RuntimeName, Runtime] = field(default_factory=lambda: RUNTIMES)
    questions: Questions = field(default_factory=Questions)


@dataclass(slots=True)
class Rig:
    """A running server."""

    url: str
    host: FakeHost
    services: Services
    web: WebApp
    server: WebServer
    cancel: Callable[[], None]
    """Cancels the server's run, as a second signal does."""

    @property
    def mcp(self) -> str:
        return f"{self.url}/mcp"


def make_services(setup: Setup, tasks: anyio.abc.TaskGroup) -> Services:
    numbers = itertools.count(1)
    environments = EnvironmentService(
        host=setup.host,
        store=setup.store,
        limits=Limits(
            max_environments=setup.max_environments,
            resources=Resources(cpus=1, memory_mib=512, disk_mib=1024),
            idle_timeout=timedelta(minutes=30),
            network=setup.network,
            images={name: f"local/{name}" for name in RuntimeName},
            per_owner=setup.per_owner,
            pausing=setup.pausing,
            several_owners=lambda: setup.several_owners,
            most=Resources(cpus=2, memory_mib=2048, disk_mib=4096),
        ),
        clock=setup.clock,
        new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012x}",
        tasks=tasks,
        observer=setup.observer,
    )
    jobs = JobService(
        environments,
        record=lambda: Spool(Path("/tmp"), keep=1 << 23, view=MAX_OUTPUT),
        clock=setup.clock,
        tasks=tasks,
    )
    return Services(
        environments=environments,
        snapshots=SnapshotService(
            environments,
            setup.shelf,
            SnapshotLimits(per_owner=3),
            clock=setup.clock,
            new_id=lambda: f"00000000-0000-4000-8000-5{next(numbers):011x}",
        ),
        execution=ExecutionService(environments, jobs, setup.runtimes, EXECUTION),
        jobs=jobs,
        filesystem=FilesystemService(environments),
        repeats=Repeats(setup.calls),
        trees=TreeService(
            environments, record=lambda: Spool(Path("/tmp"), keep=MAX_RECORDS_BYTES, view=0)
        ),
        watches=WatchService(environments, tasks),
        ports=PortService(environments, setup.link_key, setup.clock),
        networks=NetworkService(environments),
        execution_limits=EXECUTION,
        heartbeat=setup.heartbeat,
        offer=setup.offer or Offer(frozenset(setup.toolsets), frozenset(setup.toolsets)),
        parameter_headers=setup.parameter_headers,
        rates=setup.rates,
        observer=setup.observer or Observer(),
        urls=setup.urls,
        questions=setup.questions,
    )


def unused_services() -> Services:
    """Return services for tools that are inspected, not called."""
    unused = cast("Any", None)
    return Services(
        *(unused, unused, unused, unused, unused, unused, unused, unused, unused, unused),
        execution_limits=EXECUTION,
    )


@cache
def default_tools() -> list[OfferedTool]:
    """Return every tool, always the same ones: for inspection, not for calls."""
    return all_tools(unused_services())


@asynccontextmanager
async def mcp_server(setup: Setup | None = None) -> AsyncGenerator[WaggleServer]:
    """Run the MCP server alone, for a client in the same process."""
    async with anyio.create_task_group() as group:
        services = make_services(setup or Setup(), group)
        yield build_mcp(services)
        await _end(services, group)


async def _end(services: Services, group: anyio.abc.TaskGroup) -> None:
    """Destroy what is left, as the composition root does, and end every task."""
    await services.environments.aclose()
    group.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    setup: Setup | None = None, listener: socket.socket | None = None
) -> AsyncGenerator[Rig]:
    """Run a server on loopback, or on `listener` if given."""
    setup = setup or Setup()
    async with anyio.create_task_group() as group:
        services = make_services(setup, group)
        mcp = build_mcp(services)
        shells = TerminalService(services.environments, services.jobs)
        terminals = Terminals(shells, services.rates, services.observer, setup.terminals)
        exposed = ExposedPorts(
            services.ports, setup.urls, setup.exposed, lambda: setup.clock().timestamp()
        )
        web = build_app(
            Served(mcp.lowlevel, services.offer, mcp.calls.cut, CARRIERS, terminals, exposed),
            not_ready=services.environments.not_ready,
            hosts=host_policy("127.0.0.1", setup.names),
            sessions=setup.sessions,
            bodies=setup.bodies,
            access=setup.access,
            scrape=setup.scrape,
            origins=setup.origins,
        )
        server = WebServer(web, listener or bind("127.0.0.1", 0), setup.limits)
        running = anyio.CancelScope()
        async with anyio.create_task_group() as serving_group:
            url = await serving_group.start(_run, server, running)
            try:
                yield Rig(url, setup.host, services, web, server, running.cancel)
            finally:
                server.stop()
        await _end(services, group)


async def _run(
    server: WebServer,
    scope: anyio.CancelScope,
    *,
    task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with scope:
        await server.run(task_status=task_status)


@asynccontextmanager
async def client(
    rig: Rig,
    era: str = LEGACY,
    *,
    max_event: int | None = 1024 * 1024,
    token: str = "",
    after: str = "",
    person: ElicitationFnT | None = None,
) -> AsyncGenerator[Client]:
    """Connect the SDK's client over real HTTP. `max_event` is the SDK's own default.

    `after` follows the URL: a query. `person` answers what the server asks.
    """
    seconds = httpx2.Timeout(20, read=300)  # a stream may be silent for long
    async with httpx2.AsyncClient(headers=bearer(token), timeout=seconds, verify=NO_TLS) as http:
        transport = streamable_http_client(
            f"{rig.mcp}{after}", max_sse_event_size=max_event, http_client=http
        )
        async with Client(
            transport, mode=era, read_timeout_seconds=20, elicitation_callback=person
        ) as connected:
            yield connected


def bearer(token: str) -> dict[str, str]:
    """Return the header for a token; empty without a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def raw(rig: Rig, token: str = "") -> AsyncGenerator[httpx2.AsyncClient]:
    """Open a plain HTTP client with the headers that a person gives curl."""
    headers = {"Accept": "application/json, text/event-stream", **bearer(token)}
    url = rig.url
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=20, verify=NO_TLS) as http:
        yield http


def request(method: str, params: Mapping[str, Any] | None = None, *, number: int = 1) -> Any:
    """Return a JSON-RPC request."""
    message = {"jsonrpc": "2.0", "id": number, "method": method}
    return message if params is None else {**message, "params": params}


INITIALIZE = request(
    "initialize",
    {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "curl-test", "version": "0.1"},
    },
)


def text_of(result: CallToolResult) -> str:
    """Return all text blocks of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def data_of(result: CallToolResult) -> dict[str, Any]:
    """Return the structured content of a successful result."""
    assert not result.is_error, text_of(result)
    return cast("dict[str, Any]", result.structured_content)


def error_of(result: CallToolResult) -> dict[str, Any]:
    """Return the machine-readable error of a failed result."""
    assert result.is_error, result
    assert result.meta is not None
    return dict(result.meta)["waggle/error"]


async def created(connected: Client, runtime: Literal["python", "node", "shell"] = "python") -> str:
    """Create an environment and return its id."""
    result = await connected.call_tool("create_environment", {"runtime": runtime})
    return str(data_of(result)["environment_id"])
