# SPDX-License-Identifier: Apache-2.0
"""The health of one guest: what its agent says, and what is done when something in it is silent.

Part of `LocalGuest`. An agent that does not answer is lost: that is logged, and PID 1, which is
asked over its own port, starts another. It is asked for again after a while only, so a guest that
never answers costs little. The same way ends an SSH server that takes no connection, and another
begins. Knows the machine, not the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import structlog

from waggle.domain.errors import GuestLost, WaggleError
from waggle.domain.guest_agent import GuestAgent, GuestLoad, GuestReport
from waggle.domain.machine import Machine
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.rootfs.machine_disks import HANG_UP, RESTART_AGENT

log = structlog.get_logger(__name__)

T = TypeVar("T")
REPORT_SECONDS: Final = 3.0
LOAD_SECONDS: Final = 2.0
"""For one who waits because something else has failed, and for a scrape."""
HEAL_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 30.0
"""After which a lost agent is asked for again."""
_MIB = 1 << 20


class GuestHealth:
    """The health of a machine's guest. Every call is bounded in time and may be cancelled."""

    def __init__(
        self, machine: Machine, environment: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`environment` is the id, for the log; `now` returns seconds."""
        self._machine = machine
        self._environment = environment
        self._now = now
        self._lost_at: float | None = None

    @property
    def is_lost(self) -> bool:
        """Whether its agent did not answer when it was asked last."""
        return self._lost_at is not None

    async def report(self) -> GuestReport:
        """Ask for everything. Raises GuestLost, and heals the agent then."""
        return await self._asked(lambda agent: agent.report(), REPORT_SECONDS)

    async def load(self) -> GuestLoad:
        """Ask how busy it is. Raises as `report` does."""
        return await self._asked(lambda agent: agent.load(), LOAD_SECONDS)

    async def greet(self) -> None:
        """Ask for its first answer, so that an agent which never began is lost at once."""
        with contextlib.suppress(GuestLost):
            await self._asked(lambda agent: agent.ping(), LOAD_SECONDS)

    async def _asked(self, ask: Callable[[GuestAgent], Awaitable[T]], seconds: float) -> T:
        if self._lost_at is not None and self._now() - self._lost_at < QUIET_SECONDS:
            raise GuestLost("The guest's agent does not answer.")
        try:
            async with asyncio.timeout(seconds):
                answer = await ask(self._machine.agent)
        except AgentRefused:
            raise  # it answers, so it is not lost
        except (GuestLost, TimeoutError) as error:
            await self._lose(error)
            raise GuestLost("The guest's agent does not answer.") from error
        if self._lost_at is not None:
            self._lost_at = None
            log.info("agent_found", environment=self._environment)
        return answer

    async def _lose(self, error: Exception) -> None:
        if not self._machine.is_alive:
            return
        self._lost_at = self._now()
        log.warning("agent_lost", environment=self._environment, why=str(error) or "no answer")
        await self._heal(RESTART_AGENT)

    async def restart_ssh(self) -> None:
        """Have the guest's SSH server begin anew. Never raises; the next connection shows it."""
        log.warning("ssh_restarted", environment=self._environment)
        await self._heal(HANG_UP)

    async def _heal(self, records: dict[str, bytes]) -> None:
        """Ask PID 1, which the guest's programs cannot end."""
        with contextlib.suppress(WaggleError, TimeoutError):
            async with asyncio.timeout(HEAL_SECONDS):
                await self._machine.renew(records)

    async def why_silent(self) -> str:
        """Say in a sentence what the agent of a guest says whose SSH server does not answer."""
        try:
            load = await self.load()
        except GuestLost:
            return "Its agent does not answer either."
        free, all_ = load.memory_available // _MIB, load.memory_total // _MIB
        stalled = ""
        if load.stalled:
            stalled = f", programs wait for memory {load.stalled:.0f} % of the time"
        return (
            f"Its agent says: {free} of {all_} MiB of memory are free, {load.processes} processes, "
            f"load {load.load:g}{stalled}."
        )


class HealthOfGuest:
    """The part of `LocalGuest` that says how the guest is."""

    _health: GuestHealth
    _naming_the_cause: Callable[[], AbstractAsyncContextManager[None]]

    async def report(self) -> GuestReport:
        """Ask the guest how it is; see `domain.guest_agent.HealthOfGuest`."""
        async with self._naming_the_cause():
            return await self._health.report()

    async def load(self) -> GuestLoad:
        """Ask the guest how busy it is; see `domain.guest_agent.HealthOfGuest`."""
        async with self._naming_the_cause():
            return await self._health.load()
