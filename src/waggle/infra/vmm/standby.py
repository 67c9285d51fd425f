# SPDX-License-Identifier: Apache-2.0
"""A guard that waits for the next machine, so that this need not wait for a Python to start.

Used by `hypervisor`. One waits at a time, and only while it is `kept`. A start of Python takes the
processor, so another only starts some time after the machine is up that took the last, once the
user's first command has had it. Knows no machines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from waggle.domain.errors import WaggleError
from waggle.infra.vmm.process import GuardedProcess

REST_SECONDS: Final = 2.0
log = structlog.get_logger(__name__)


class Standby:
    """The guard that waits, if there is one."""

    def __init__(
        self,
        start: Callable[[], GuardedProcess] = GuardedProcess.waiting,
        rest: float = REST_SECONDS,
    ) -> None:
        """`rest` is the seconds between `follow` and the start of the next."""
        self._start = start
        self._rest = rest
        self._guard: GuardedProcess | None = None
        self._due: asyncio.TimerHandle | None = None
        self._is_kept = False

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Have one wait, in this block. For one block, in one event loop, at a time."""
        self._is_kept = True
        self._next()
        try:
            yield
        finally:
            self._is_kept = False
            if self._due is not None:
                self._due.cancel()
            if (guard := self._taken()) is not None:
                guard.abandon()

    @property
    def is_there(self) -> bool:
        """Whether one waits."""
        return self._guard is not None and self._guard.is_alive

    def take(self) -> GuardedProcess | None:
        """Return the one that waits, which is the caller's from then on, if there is one.

        The caller calls `follow` once it does not need the processor any more.
        """
        return self._taken()

    def follow(self) -> None:
        """Have another one wait soon, if none does. Idempotent."""
        if self._is_kept and self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._rest, self._next)

    def _taken(self) -> GuardedProcess | None:
        guard, self._guard = self._guard, None
        if guard is not None and not guard.is_alive:  # somebody has killed it
            guard.abandon()
            return None
        return guard

    def _next(self) -> None:
        self._due = None
        if self.is_there:
            return
        try:
            self._taken()
            self._guard = self._start()
        except (WaggleError, OSError) as error:  # the next machine tries it, and says why not
            log.warning("no_guard_waits", error=str(error))
