# SPDX-License-Identifier: Apache-2.0
"""A server for any number of clients over HTTP: the parts of `waggle.app.root`, a socket, signals.

Used by `waggle.cli.serve`. `waggle.app.stdio` is the other way to serve.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc
import structlog

from waggle.allocator import give_back, set_for_serving
from waggle.app.observing import access_rules, public_names
from waggle.app.root import App, open_app
from waggle.app.signals import Signals, on_hangup
from waggle.app.stdio import keep_swept, sweep
from waggle.config import Settings
from waggle.config.places import Places
from waggle.mcp.context import Services
from waggle.mcp.server import WaggleServer, build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.web.access import AccessRules
from waggle.web.app import Served, build_app
from waggle.web.connections import ConnectionLimits
from waggle.web.endpoint import SessionLimits
from waggle.web.hosts import host_policy
from waggle.web.server import ServerLimits, WebServer, bind

log = structlog.get_logger(__name__)


async def serve(
    settings: Settings,
    build: Callable[[Services], WaggleServer] = build_mcp,
    *,
    task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run the HTTP server until SIGINT or SIGTERM; a second signal ends the grace.

    Reports its base URL through `task_status` once it accepts connections. When it returns, every
    environment is destroyed. Raises the errors of `open_app` and `bind`, also inside groups of one.
    """
    access = access_rules(settings)
    signals = Signals()
    async with anyio.create_task_group() as group:
        await group.start(signals.receive)
        with contextlib.closing(
            bind(settings.listen_addr.host, settings.listen_addr.port)
        ) as listener:
            async with open_app(settings, access.several) as app:
                stdio = Places.of(settings).stdio
                await sweep(stdio)
                group.start_soon(keep_swept, stdio, settings.reaper_interval.total_seconds())
                await _serve(app, build(app.services), access, listener, signals, task_status)
        group.cancel_scope.cancel()


async def _serve(
    app: App,
    mcp: WaggleServer,
    access: AccessRules,
    listener: socket.socket,
    signals: Signals,
    task_status: anyio.abc.TaskStatus[str],
) -> None:
    settings = app.settings
    names = (*settings.allowed_hosts, *(o.partition("://")[2] for o in settings.allowed_origins))
    web = build_app(
        Served(mcp.lowlevel, app.services.offer, mcp.calls.cut, CARRIERS),
        not_ready=app.environments.not_ready,
        hosts=host_policy(settings.listen_addr.host, (*names, *public_names(settings))),
        sessions=SessionLimits(
            idle_seconds=settings.session_idle_timeout.total_seconds(),
            maximum=settings.max_sessions,
            several_owners=access.several,
        ),
        access=access,
        scrape=app.watch.scrape,
        origins=settings.allowed_origins,
    )
    limits = ServerLimits(
        grace=settings.shutdown_timeout.total_seconds(),
        connections=ConnectionLimits(owner=250) if settings.authenticates else ConnectionLimits(),
    )
    server = WebServer(web, listener, limits)
    async with anyio.create_task_group() as group:
        group.start_soon(signals.control, server.stop, group.cancel_scope.cancel)
        if app.watch.reopen is not None:
            await group.start(on_hangup, app.watch.reopen)
        kept = partial(give_back, large=lambda: web.endpoint.large)
        group.start_soon(kept, lambda: web.endpoint.sessions + server.connections, anyio.sleep)
        log.info("listening", mcp=f"{server.url}/mcp", hypervisor=app.hypervisor, why=app.reason)
        if why := await app.environments.not_ready():
            log.warning("not_ready", why=why)
        with set_for_serving():
            await server.run(task_status=task_status)
        group.cancel_scope.cancel()
