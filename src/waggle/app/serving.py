# SPDX-License-Identifier: Apache-2.0
"""The two ways to serve: the parts of `waggle.app.root` with a socket, or with one stdio client.

Run by `waggle.cli.main`. Desktop clients start several stdio servers at once, beside one that
listens, so every stdio server gets its own state directory below a shared `root`, and holds a lock
in it. `root/.lock` guards making and sweeping these directories; a server that listens sweeps what
dead servers left. Everything that a server made ends with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import structlog

from waggle.allocator import give_back, set_for_serving
from waggle.app import process
from waggle.app.hypervisors import ADAPTERS, Adapters
from waggle.app.observing import access_rules, public_names
from waggle.app.process import Signals, on_hangup
from waggle.app.reloading import reload
from waggle.app.root import App, open_app
from waggle.app.supervisor import Supervisor
from waggle.app.values import certificates
from waggle.config import Settings, name_user, process_environment
from waggle.config.places import Places
from waggle.domain.errors import SettingsInvalid
from waggle.infra.host.process import raise_limit
from waggle.infra.shared.confined import kill_identified
from waggle.infra.shared.files import FileLock
from waggle.infra.store.environments import SqliteStore
from waggle.mcp.context import Services
from waggle.mcp.server import WaggleServer, build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.service.programs.terminals import TerminalService
from waggle.stdio import Wire
from waggle.stdio.server import StdioLimits, StdioServer
from waggle.web import Served, build_app
from waggle.web.access import AccessRules, host_policy
from waggle.web.connections import ConnectionLimits
from waggle.web.endpoint import SessionLimits
from waggle.web.exposed import ExposedPorts
from waggle.web.server import ServerLimits, WebServer, bind
from waggle.web.terminal import Terminals

log = structlog.get_logger(__name__)


async def serve_http(
    settings: Settings,
    build: Callable[[Services], WaggleServer] = build_mcp,
    *,
    adapters: Adapters = ADAPTERS,
    supervisor: Supervisor | None = None,
    task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run the HTTP server until SIGINT or SIGTERM; a second signal ends the grace.

    Reports its base URL through `task_status` once it accepts connections. `supervisor` hears of
    the start, reloads and the end. When it returns, every environment is destroyed. Raises the
    errors of `open_app` and `bind`, also inside groups of one.
    """
    supervisor = supervisor or Supervisor()
    authorities = certificates(settings)
    access = access_rules(settings, authorities)
    signals = Signals()
    async with anyio.create_task_group() as group:
        await group.start(signals.receive)
        group.start_soon(supervisor.beat)
        with contextlib.closing(
            bind(settings.listen_addr.host, settings.listen_addr.port)
        ) as listener:
            async with open_app(settings, access.several, authorities, adapters) as app:
                stdio = Places.of(settings).stdio
                await sweep(stdio)
                group.start_soon(keep_swept, stdio, settings.reaper_interval.total_seconds())
                await _serve_http(
                    *(app, build(app.services), access, listener, signals),
                    supervisor=supervisor,
                    task_status=task_status,
                )
        group.cancel_scope.cancel()


def _running(app: App) -> dict[str, str]:
    """Say which hypervisors run machines, for the log."""
    return {"hypervisor": app.hypervisors.label, "why": app.hypervisors.reason}


async def _serve_http(
    app: App,
    mcp: WaggleServer,
    access: AccessRules,
    listener: socket.socket,
    signals: Signals,
    *,
    supervisor: Supervisor,
    task_status: anyio.abc.TaskStatus[str],
) -> None:
    settings = app.settings
    names = (*settings.allowed_hosts, *(o.partition("://")[2] for o in settings.allowed_origins))
    terminals = Terminals(
        TerminalService(app.environments, app.services.jobs),
        app.services.rates,
        app.services.observer,
    )
    exposed = ExposedPorts(app.services.ports, app.services.urls)
    about = {"hypervisors": app.hypervisors.abilities, "why": app.hypervisors.reason}
    web = build_app(
        Served(
            *(mcp.lowlevel, app.services.offer, mcp.calls.cut, CARRIERS, terminals, exposed),
            about=about,
        ),
        not_ready=app.environments.not_ready,
        hosts=host_policy(settings.listen_addr.host, (*names, *public_names(settings))),
        sessions=SessionLimits(
            idle_seconds=settings.session_idle_timeout.total_seconds(),
            maximum=settings.max_sessions,
            several_owners=access.several,
        ),
        access=access,
        scrape=app.watch.scrape_after(app.environments.guest_loads.refresh),
        origins=settings.allowed_origins,
    )
    limits = ServerLimits(
        grace=settings.shutdown_timeout.total_seconds(),
        connections=ConnectionLimits(owner=250) if settings.authenticates else ConnectionLimits(),
    )
    server = WebServer(web, listener, limits)

    async def status() -> str:
        why = await app.environments.not_ready()
        return f"listening on {server.url}" + (f"; not ready: {why}" if why else "")

    def stop() -> None:
        group.start_soon(supervisor.stopping)
        server.stop()

    files = (access.reread, *app.reloads)
    async with anyio.create_task_group() as group:
        group.start_soon(signals.control, stop, group.cancel_scope.cancel)
        await group.start(on_hangup, partial(reload, supervisor, files, app.watch.reopen, status))
        kept = partial(give_back, large=lambda: web.endpoint.large)
        group.start_soon(kept, lambda: web.endpoint.sessions + server.connections, anyio.sleep)
        log.info("listening", mcp=f"{server.url}/mcp", **_running(app))
        if why := await app.environments.not_ready():
            log.warning("not_ready", why=why)
        with set_for_serving():
            async with anyio.create_task_group() as running:
                task_status.started(await running.start(server.run))
                await supervisor.ready(await status())
        group.cancel_scope.cancel()


ALIVE = "alive.lock"
WAIT_SECONDS = 60.0


@contextlib.asynccontextmanager
async def private_state(root: Path) -> AsyncGenerator[Path]:
    """Make an empty directory below `root`, and remove it when the block ends.

    First removes what dead servers left. Raises SettingsInvalid when the directory cannot be made,
    TimedOut when `root` stays locked for a minute.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with FileLock(root / ".lock", timeout=WAIT_SECONDS):
            await _sweep(root)
            directory = root / secrets.token_hex(4)
            directory.mkdir(mode=0o700)
            alive = FileLock(directory / ALIVE)
            alive.try_acquire()
    except OSError as error:
        raise SettingsInvalid(
            f"{error.filename or root} cannot be used: {error.strerror}.",
            hint="Check WAGGLE_DATA_DIR, and who may write there.",
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        alive.release()


async def sweep(root: Path) -> None:
    """Remove what dead servers left below `root`: running machines, files. Idempotent.

    Logs what cannot be removed, and leaves it for the next time.
    """
    if not root.is_dir():
        return
    lock = FileLock(root / ".lock")
    try:
        if lock.try_acquire():  # else another server is sweeping
            try:
                await _sweep(root)
            finally:
                lock.release()
    except OSError as error:
        log.warning("private_state_not_swept", path=str(root), why=error.strerror)


async def keep_swept(root: Path, interval: float) -> None:
    """Sweep every `interval` seconds until cancelled."""
    while True:
        await anyio.sleep(interval)
        await sweep(root)


async def _sweep(root: Path) -> None:
    for directory in sorted(root.iterdir()):
        if not directory.is_dir() or directory.is_symlink():
            continue
        alive = FileLock(directory / ALIVE)
        try:
            if not alive.try_acquire():
                continue
        except OSError:
            continue  # its server is removing it
        try:
            await _kill_machines(directory / "state.db")
            shutil.rmtree(directory)
            log.info("private_state_swept", path=str(directory))
        except Exception:
            log.exception("private_state_not_swept", path=str(directory))
        finally:
            alive.release()


async def _kill_machines(state: Path) -> None:
    """Kill the VMMs in the records that are still the same processes; most are dead already."""
    if not state.exists():
        return
    store = await SqliteStore.open(state)
    try:
        for environment in await store.unfinished():
            if environment.machine is not None and kill_identified(environment.machine):
                log.info("machine_of_dead_server_killed", environment=environment.id)
    finally:
        await store.aclose()


async def serve_stdio(settings: Settings, wire: Wire, adapters: Adapters = ADAPTERS) -> None:
    """Serve until the client closes its side or is gone, or until SIGINT or SIGTERM.

    A second signal ends the grace of the first. When it returns, every environment of the client is
    destroyed. Raises the errors of `open_app` and `private_state`, also inside groups of one.
    """
    signals = Signals()
    async with anyio.create_task_group() as group:
        await group.start(signals.receive)
        async with (
            private_state(Places.of(settings).stdio) as directory,
            open_app(settings.model_copy(update={"data_dir": directory}), adapters=adapters) as app,
        ):
            await _serve_stdio(app, wire, signals)
        group.cancel_scope.cancel()


async def _serve_stdio(app: App, wire: Wire, signals: Signals) -> None:
    mcp = build_mcp(app.services)
    grace = app.settings.shutdown_timeout.total_seconds()
    limits = StdioLimits(grace=grace, carriers=CARRIERS)
    server = StdioServer(mcp.lowlevel, mcp.calls, wire, limits)
    async with anyio.create_task_group() as group:
        group.start_soon(signals.control, server.stop, group.cancel_scope.cancel)
        log.info(
            "serving_stdio",
            state=str(app.settings.data_dir),
            process=os.getpid(),
            **_running(app),
        )
        await server.run()
        group.cancel_scope.cancel()


def serve(settings: Settings, wire: Wire | None = None, adapters: Adapters = ADAPTERS) -> None:
    """Prepare this process and serve: the client at `wire` if there is one, else over HTTP.

    Raises WaggleError, also inside groups.
    """
    process.configure_logging(settings.log_level, settings.log_format, waiting=wire is None)
    name_user()
    raise_limit()
    if wire is None:
        supervisor = Supervisor.of(process_environment(), os.getpid())
        serving = partial(serve_http, settings, adapters=adapters, supervisor=supervisor)
        process.run(serving, dead_after=supervisor.dead_after(process.DEAD_SECONDS))
    else:
        process.run(serve_stdio, settings, wire, adapters)
