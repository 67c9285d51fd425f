# SPDX-License-Identifier: Apache-2.0
"""A server for one stdio client: the parts of `waggle.app.root` and private state, no socket.

Used by `waggle.cli.serve`. Desktop clients start several stdio servers at once, beside one that
listens, so every stdio server gets its own state directory below a shared `root`, and holds a lock
in it. `root/.lock` guards making and sweeping these directories. `waggle.app.http` sweeps what dead
servers left. Everything that the server made ends with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import structlog

from waggle.app.root import App, open_app
from waggle.app.signals import Signals
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.errors import SettingsInvalid
from waggle.infra.shared.confined import kill_identified
from waggle.infra.shared.files import FileLock
from waggle.infra.store.environments import SqliteStore
from waggle.mcp.server import build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.stdio.lines import Wire
from waggle.stdio.server import StdioLimits, StdioServer

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


log = structlog.get_logger(__name__)


async def serve_stdio(settings: Settings, wire: Wire) -> None:
    """Serve until the client closes its side or is gone, or until SIGINT or SIGTERM.

    A second signal ends the grace of the first. When it returns, every environment of the client is
    destroyed. Raises the errors of `open_app` and `private_state`, also inside groups of one.
    """
    signals = Signals()
    async with anyio.create_task_group() as group:
        await group.start(signals.receive)
        async with (
            private_state(Places.of(settings).stdio) as directory,
            open_app(settings.model_copy(update={"data_dir": directory})) as app,
        ):
            await _serve(app, wire, signals)
        group.cancel_scope.cancel()


async def _serve(app: App, wire: Wire, signals: Signals) -> None:
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
            hypervisor=app.hypervisor,
            why=app.reason,
        )
        await server.run()
        group.cancel_scope.cancel()
