# SPDX-License-Identifier: Apache-2.0
"""The health of a guest whose machine stands still: it is neither asked nor healed."""

from __future__ import annotations

import asyncio

import pytest
from tests.service.local.healing import SILENCE, Logged, Machine, Rig
from tests.support.waiting import cancelled, until

from waggle.infra.rootfs.machine_disks import RESTART_AGENT
from waggle.service.local.health import StandsStill

pytestmark = pytest.mark.anyio


async def test_a_machine_that_stands_still_is_left_alone(logged: Logged) -> None:
    rig = Rig()
    rig.agent.error = SILENCE
    async with rig.health.while_stopped():
        for ask in (rig.health.report, rig.health.load):
            with pytest.raises(StandsStill):
                await ask()
        await rig.health.restart_ssh()
        assert await rig.health.why_silent() == "The machine stands still just now."
    assert (rig.agent.asked, rig.machine.records, logged) == (0, [], [])
    assert not rig.health.is_lost
    await rig.is_silent()
    assert rig.machine.records == [RESTART_AGENT]


async def test_an_agent_that_was_stopped_before_it_answered_is_not_lost(logged: Logged) -> None:
    rig = Rig()
    rig.agent.error = SILENCE
    rig.agent.hangs = asyncio.Event()
    asking = asyncio.create_task(rig.health.load())
    await until(lambda: rig.agent.asked == 1)
    async with rig.health.while_stopped():
        pass
    rig.agent.hangs.set()
    with pytest.raises(StandsStill):
        await asking
    assert not rig.health.is_lost
    assert (rig.machine.records, logged) == ([], [])


async def test_a_machine_is_not_stopped_while_it_is_healed() -> None:
    """Else its copy would answer that, too, and be taken for one that has its identity."""
    rig = Rig(Machine(hangs=asyncio.Event()))
    rig.agent.error = SILENCE
    assert rig.machine.hangs is not None
    asking = asyncio.create_task(rig.is_silent())
    await until(lambda: rig.machine.records == [RESTART_AGENT])
    stopping = asyncio.create_task(rig.health.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    await rig.health.restart_ssh()
    rig.machine.hangs.set()
    await asyncio.gather(asking, stopping)
    assert rig.machine.records == [RESTART_AGENT]


async def test_a_guest_is_asked_again_although_a_copy_of_it_was_given_up_before_it_began() -> None:
    rig = Rig(Machine(hangs=asyncio.Event()))
    rig.agent.error = SILENCE
    assert rig.machine.hangs is not None
    asking = asyncio.create_task(rig.is_silent())
    await until(lambda: rig.machine.records == [RESTART_AGENT])

    async def copy() -> None:
        async with rig.health.while_stopped():
            raise AssertionError("it is being healed")

    copying = asyncio.create_task(copy())
    await asyncio.sleep(0)
    await cancelled(copying)
    rig.machine.hangs.set()
    await asking
    rig.agent.error = None
    await rig.health.load()
