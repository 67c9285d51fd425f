# SPDX-License-Identifier: Apache-2.0
"""A server for one stdio client: the parts of `waggle.app.root`, a state of its own, no socket.

Used by `waggle serve --stdio`. Everything it made ends with it.
"""

from __future__ import annotations

import os

import anyio
import structlog

from waggle.app.private_state import private_state
from waggle.app.root import App, open_app
from waggle.app.signals import Signals
from waggle.config import Settings
from waggle.config.places import Places
from waggle.mcp.server import build_mcp
from waggle.mcp.tools import CARRIERS
from waggle.stdio.descriptors import Wire
from waggle.stdio.server import StdioLimits, StdioServer

log = structlog.get_logger(__name__)


async def serve_stdio(settings: Settings, wire: Wire) -> None:
    """Serve until the client closes its side or is gone, or until SIGINT or SIGTERM.

    A second signal ends the grace of the first.
    When it returns, every environment of the client is destroyed. Raises what `open_app` and
    `private_state` raise, also inside groups of one.
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
