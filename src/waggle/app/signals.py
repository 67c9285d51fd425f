# SPDX-License-Identifier: Apache-2.0
"""Signals of a server: the first SIGINT or SIGTERM asks it to stop, the second to stop at once.

SIGHUP makes it open its files again, where it has any to open.
Used by `waggle.app.http` and `waggle.app.stdio`. Knows nothing of servers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import anyio
import anyio.abc
import structlog

log = structlog.get_logger(__name__)


class Signals:
    """What was received so far. Run `receive` as long as no signal may end the process."""

    def __init__(self) -> None:
        self._stop, self._at_once = anyio.Event(), anyio.Event()

    async def receive(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take every signal until cancelled, so that none can end the clean-up half-way."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for received in signals:
                log.info("stopping", signal=received.name, at_once=self._stop.is_set())
                (self._at_once if self._stop.is_set() else self._stop).set()

    async def control(self, stop: Callable[[], None], at_once: Callable[[], None]) -> None:
        """Call `stop` at the first signal, even if it came before, `at_once` at the second."""
        await self._stop.wait()
        stop()
        await self._at_once.wait()
        at_once()


async def on_hangup(
    act: Callable[[], None], *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call `act` at every SIGHUP, until cancelled."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            log.info("reopening")
            act()
