# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests of paused environments: a pausing policy and short ways to act."""

from __future__ import annotations

from datetime import timedelta

import anyio
from tests.service.world import OWNER, World

from waggle.domain.environment import Environment, State
from waggle.service.environments.creating import Pausing
from waggle.service.environments.pausing import Reaper

KEEP = timedelta(hours=24)
PAUSING = Pausing(when_idle=True, keep=KEEP, max_on_disk=2)


async def paused(here: World, environment: Environment, *, to_disk: bool = True) -> Environment:
    return await here.service.pause(environment.id, owner=OWNER, to_disk=to_disk)


def reaper(here: World) -> Reaper:
    return Reaper(here.service, interval=60, clock=here.clock, sleep=anyio.sleep)


async def use(here: World, environment: Environment) -> None:
    async with here.service.using(environment.id, owner=OWNER) as (held, _):
        assert held.state is State.RUNNING
