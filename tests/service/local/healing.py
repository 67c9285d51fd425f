# SPDX-License-Identifier: Apache-2.0
"""A machine with an agent for tests of a guest's health, and a health with a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import pytest
from tests.support.guest import SAID

from waggle.domain.errors import GuestLost
from waggle.domain.guest_agent import GuestLoad, GuestReport
from waggle.infra.guest.answers import AgentRefused, Refusal, refused
from waggle.infra.guest.protocol import ErrorCode
from waggle.service.local.health import GuestHealth

SILENCE = GuestLost("nothing came")
FULL = refused("get_metrics", Refusal(1, ErrorCode.INTERNAL_ERROR, "out of memory", {}))
Logged = list[MutableMapping[str, object]]


class Agent:
    """An agent that answers, or fails with `error`, or `hangs`; `asked` counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: GuestLost | None = None
        self.hangs: asyncio.Event | None = None
        self.said = SAID

    async def report(self) -> GuestReport:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.error is not None:
            raise self.error
        return self.said

    async def load(self) -> GuestLoad:
        return (await self.report()).load

    async def ping(self, seconds: float | None = None) -> None:
        await self.report()

    async def clock(self) -> int:
        return (await self.report()).clock


@dataclass
class Machine:
    """A machine with an `Agent`; its PID 1 takes records, fails with `error`, or `hangs`."""

    own: Agent = field(default_factory=Agent)
    is_alive: bool = True
    records: list[Mapping[str, bytes]] = field(default_factory=list[Mapping[str, bytes]])
    error: GuestLost | None = None
    hangs: asyncio.Event | None = None

    @property
    def agent(self) -> Agent:
        if not self.is_alive:
            raise GuestLost("The machine is dead.")
        return self.own

    async def renew(self, records: Mapping[str, bytes]) -> None:
        self.records.append(records)
        if self.hangs is not None:
            await self.hangs.wait()
        if self.error is not None:
            raise self.error


@dataclass
class Rig:
    """A health with a clock that the test moves."""

    machine: Machine = field(default_factory=Machine)
    now: float = 1_000.0

    def __post_init__(self) -> None:
        self.agent = self.machine.own
        self.health = GuestHealth(self.machine, "the-id", lambda: self.now)

    async def is_silent(self) -> GuestLost:
        with pytest.raises(GuestLost, match="The guest's agent does not answer") as caught:
            await self.health.load()
        assert not isinstance(caught.value, AgentRefused)
        return caught.value


def events(logged: Logged) -> list[object]:
    return [entry["event"] for entry in logged]
