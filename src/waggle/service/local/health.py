# SPDX-License-Identifier: Apache-2.0
"""The health of one guest: what its agent says, and what is done when something in it is silent.

Part of `LocalGuest`. An agent that does not answer is lost: that is logged, and PID 1, which is
asked over its own port, starts another. That one is asked at the next call; if it is silent, too,
nothing is asked for a while, so a guest that never answers costs little. The same way ends an SSH
server that takes no connection, and another begins. The silence of a machine that stands still,
since it is paused or copied, says nothing: it is left alone. Knows the machine, not the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeVar

import structlog

from waggle.domain.errors import GuestLost, WaggleError
from waggle.domain.guest_agent import GuestAgent, GuestLoad, GuestReport
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.rootfs.machine_disks import HANG_UP, RESTART_AGENT

log = structlog.get_logger(__name__)

T = TypeVar("T")
REPORT_SECONDS: Final = 3.0
LOAD_SECONDS: Final = 2.0
"""For one who waits because something else has failed, and for a scrape."""
HEAL_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 30.0
"""After which an agent that was lost again, or could not be restarted, is asked again."""
_SILENT: Final = "The guest's agent does not answer."
_MIB = 1 << 20


class StandsStill(GuestLost):
    """Its machine is paused, copied or ended just now, so nobody answers."""

    default_hint = ""

    def __init__(self) -> None:
        super().__init__("The machine stands still just now.")


class NotAsked(GuestLost):
    """Its agent was silent a while ago, and is left alone for now: nothing new has happened."""


class Healed(Protocol):
    """The part of `domain.machine.Machine` that health is about."""

    @property
    def is_alive(self) -> bool:
        """See `Machine`."""
        ...

    @property
    def agent(self) -> GuestAgent:
        """See `Machine`."""
        ...

    async def renew(self, records: Mapping[str, bytes]) -> None:
        """See `Machine`."""
        ...


class GuestHealth:
    """The health of a machine's guest. Every call is bounded in time and may be cancelled."""

    def __init__(
        self, machine: Healed, environment: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`environment` is the id, for the log; `now` returns seconds."""
        self._machine = machine
        self._environment = environment
        self._now = now
        self._is_lost = False
        self._losses = 0
        self._quiet_until = float("-inf")
        self._turn = asyncio.Lock()
        self._last: list[GuestReport | GuestLost] = []
        """What the last report came to, in another list each time."""
        self._healing = asyncio.Lock()
        self._is_stopped = False
        self._stops = 0

    @contextlib.asynccontextmanager
    async def while_stopped(self) -> AsyncGenerator[None]:
        """Leave the guest alone while its machine stands still in the block."""
        try:
            await self.stop()
            yield
        finally:
            self.go_on()

    async def stop(self) -> None:
        """Leave the guest alone until `go_on`.

        Waits for what PID 1 was asked for: a copy would answer that, too, and be misunderstood.
        """
        self._is_stopped = True
        self._stops += 1
        async with self._healing:
            pass

    def go_on(self) -> None:
        """Ask and heal again."""
        self._is_stopped = False

    @property
    def is_lost(self) -> bool:
        """Whether its agent did not answer when it was asked last."""
        return self._is_lost

    async def report(self) -> GuestReport:
        """Ask for everything. Raises GuestLost, and heals the agent then.

        Callers at once share one answer: the agent would refuse so many questions.
        """
        before = self._last
        async with self._turn:
            if self._last is before:
                try:
                    self._last = [await self._asked(lambda agent: agent.report(), REPORT_SECONDS)]
                except GuestLost as error:
                    self._last = [error]
            said = self._last[-1]
        if isinstance(said, GuestLost):
            raise said
        return said

    async def load(self) -> GuestLoad:
        """Ask how busy it is. Raises as `report` does."""
        return await self._asked(lambda agent: agent.load(), LOAD_SECONDS)

    async def greet(self) -> None:
        """Ask for its first answer, so that an agent which never began is lost at once."""
        with contextlib.suppress(GuestLost):
            await self._asked(lambda agent: agent.ping(), LOAD_SECONDS)

    async def _asked(self, ask: Callable[[GuestAgent], Awaitable[T]], seconds: float) -> T:
        if self._is_stopped:
            raise StandsStill
        if self._now() < self._quiet_until:
            raise NotAsked(_SILENT)
        losses, stops = self._losses, self._stops
        try:
            async with asyncio.timeout(seconds):
                answer = await ask(self._machine.agent)
        except AgentRefused:
            self._find()
            raise
        except (GuestLost, TimeoutError) as error:
            if stops != self._stops:
                raise StandsStill from error
            if losses == self._losses:  # else another call has found it lost meanwhile
                await self._lose(error)
            raise GuestLost(_SILENT) from error
        self._find()
        return answer

    def _find(self) -> None:
        if self._is_lost:
            self._is_lost, self._quiet_until = False, float("-inf")
            log.info("agent_found", environment=self._environment)

    async def _lose(self, error: Exception) -> None:
        if not self._machine.is_alive:
            return
        is_another = self._is_lost
        self._is_lost = True
        self._losses += 1
        self._quiet_until = self._now() + QUIET_SECONDS
        why = error.message if isinstance(error, GuestLost) else "no answer"
        log.warning("agent_lost", environment=self._environment, why=why)
        if await self._heal(RESTART_AGENT) and not is_another:
            self._quiet_until = self._now()

    async def restart_ssh(self) -> None:
        """Have the guest's SSH server begin anew. Never raises; the next connection shows it."""
        if not self._is_stopped:
            log.warning("ssh_restarted", environment=self._environment)
            await self._heal(HANG_UP)

    async def _heal(self, records: dict[str, bytes]) -> bool:
        """Ask PID 1, which the guest's programs cannot end; return whether it has done so."""
        with contextlib.suppress(WaggleError, TimeoutError):
            async with self._healing, asyncio.timeout(HEAL_SECONDS):
                if self._is_stopped:
                    return False
                await self._machine.renew(records)
            return True
        return False

    async def why_silent(self) -> str:
        """Say in a sentence what the agent of a guest says whose SSH server does not answer."""
        try:
            load = await self.load()
        except AgentRefused as refused:
            said = refused.said.replace('"', "'")  # so that it cannot end its own quotation
            return f'Its agent answers, but only: "{said}".'
        except StandsStill as error:
            return error.message
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

    async def report(self) -> GuestReport | None:
        """Ask the guest how it is; see `domain.guest_agent.HealthOfGuest`."""
        async with self._naming_the_cause():
            with contextlib.suppress(AgentRefused, StandsStill):
                return await self._health.report()
        return None

    async def load(self) -> GuestLoad | None:
        """Ask the guest how busy it is; see `domain.guest_agent.HealthOfGuest`.

        Who asks all guests has no time to wait for the cause of one's silence.
        """
        with contextlib.suppress(AgentRefused, StandsStill):
            return await self._health.load()
        return None
