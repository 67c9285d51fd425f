# SPDX-License-Identifier: Apache-2.0
"""A guard that waits for the next machine: it is taken once, and another follows it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.infra.vmm.guarded import guarded
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import SetupIncomplete
from waggle.infra.vmm.process import GuardedProcess
from waggle.infra.vmm.standby import Standby

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
async def leaks() -> AsyncGenerator[None]:
    found = Leaks()
    yield
    await found.settle()


async def test_one_waits_and_another_follows_it(leaks: None) -> None:
    standby = Standby(rest=0.01)
    async with standby.kept():
        assert standby.is_there
        first = standby.take()
        assert first is not None
        assert not standby.is_there
        standby.follow()
        standby.follow()
        await until(lambda: standby.is_there)
        second = standby.take()
        assert second is not None
        assert second.identity != first.identity
        first.abandon()
        second.abandon()
        standby.follow()
        await until(lambda: standby.is_there)
    assert not standby.is_there


async def test_what_begins_below_it_is_as_any_other(leaks: None, tmp_path: Path) -> None:
    standby = Standby()
    async with standby.kept():
        waiting = standby.take()
        async with guarded(tmp_path, "read x </proc/self/fd/0; echo $x", waiting=waiting) as it:
            assert await it.said() == "remembered\n"
            assert await it.process.wait() == 0


async def test_none_follows_before_the_machine_has_had_the_processor(leaks: None) -> None:
    """A start of Python takes long where a processor is slow, and the machine would wait."""
    standby = Standby(rest=0)
    async with standby.kept():
        guard = standby.take()
        assert guard is not None
        guard.abandon()
        await asyncio.sleep(0)
        assert not standby.is_there


async def test_nobody_waits_unless_it_is_kept(leaks: None) -> None:
    standby = Standby(rest=0)
    assert standby.take() is None
    standby.follow()
    await asyncio.sleep(0)
    assert not standby.is_there
    async with standby.kept():
        pass
    assert standby.take() is None


async def test_one_that_was_killed_is_not_taken(leaks: None) -> None:
    made: list[GuardedProcess] = []

    def start() -> GuardedProcess:
        made.append(GuardedProcess.waiting())
        return made[-1]

    standby = Standby(start, rest=0.01)
    async with standby.kept():
        os.kill(made[0].identity.pid, signal.SIGKILL)
        await until(lambda: not standby.is_there)
        assert standby.take() is None
        standby.follow()
        await until(lambda: standby.is_there)


async def test_one_that_ends_as_it_is_taken_begins_nothing(leaks: None, tmp_path: Path) -> None:
    limited: list[int] = []
    waiting = GuardedProcess.waiting()
    waiting.send_signal(signal.SIGKILL)
    await waiting.wait()
    with pytest.raises(BrokenPipeError):
        async with guarded(
            tmp_path,
            "exit 0",
            enclose=lambda pid: limited.append(pid) or (lambda: None),
            waiting=waiting,
        ):
            pass
    waiting.close()
    assert limited == []


async def test_one_that_cannot_start_is_no_error(leaks: None) -> None:
    tries: list[None] = []

    def fail() -> GuardedProcess:
        tries.append(None)
        raise SetupIncomplete("there is no Python")

    standby = Standby(fail, rest=0.01)
    async with standby.kept():
        assert standby.take() is None
        standby.follow()
        await until(lambda: len(tries) > 1)
