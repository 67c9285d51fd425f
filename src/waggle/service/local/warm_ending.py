# SPDX-License-Identifier: Apache-2.0
"""Machines of a pool on their way out: ended beside everything else, until they are gone.

Used by `warm_pool` only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio
import anyio.abc
import structlog

from waggle.service.local.blueprint import MadeOf

AGAIN: Final = 5.0
"""Seconds between two tries to end a machine."""
log = structlog.get_logger(__name__)


class Warm(Protocol):
    """A machine that waits."""

    @property
    def made_of(self) -> MadeOf:
        """What it was made of."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once it is dead."""
        ...

    async def wait(self) -> str:
        """Return when it is dead, with the cause. Safe to cancel."""
        ...

    async def destroy(self) -> None:
        """End it and remove what it used. Idempotent; finishes when cancelled.

        May raise; then it is to be called again.
        """
        ...


class Endings:
    """Those that were given up and are not gone yet; they still count."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._tried: set[anyio.Event] = set()

    def __len__(self) -> int:
        return len(self._tried)

    def start(self, machine: Warm, tasks: anyio.abc.TaskGroup) -> None:
        """End it in a task."""
        tried = anyio.Event()
        self._tried.add(tried)
        tasks.start_soon(self._end, machine, tried)

    async def _end(self, machine: Warm, tried: anyio.Event) -> None:
        try:
            while True:
                try:
                    await machine.destroy()
                    return
                except Exception:
                    log.exception("warm_machine_not_ended")
                tried.set()
                await self._sleep(AGAIN)
        finally:
            tried.set()
            self._tried.discard(tried)

    async def tried(self) -> None:
        """Return when each that is known now is gone, or was tried to be ended once."""
        for each in [*self._tried]:
            await each.wait()
