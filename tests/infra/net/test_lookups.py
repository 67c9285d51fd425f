# SPDX-License-Identifier: Apache-2.0
"""Threads for lookups: no environment waits for the lookups of others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.net.names import Gate

from waggle.infra.net.lookups import SHARED, Lookups, limit_resolver, may_start
from waggle.infra.net.resolver import SystemResolver

if TYPE_CHECKING:
    from tests.infra.net.lab import Turns

pytestmark = pytest.mark.anyio
ONE = [ip_address("192.0.2.1")]


@pytest.fixture
def gate() -> Generator[Gate]:
    names = Gate()
    yield names
    names.end()


@pytest.mark.parametrize("hogs,per_guest", [(4, 8), (20, 64), (1, 64), (200, 4)])
async def test_guests_with_dead_names_leave_another_all_its_lookups(
    gate: Gate, turns: Turns, hogs: int, per_guest: int
) -> None:
    """The attack: four guests with eight dead names per guest left a fifth 2 of 10."""
    lookups = Lookups(gate)
    gate.open()
    dead = [[f"{n}.{hog}.dead.test" for n in range(per_guest)] for hog in range(hogs)]
    gate.dead = {name for names in dead for name in names}
    stuck = [
        asyncio.ensure_future(resolve(name))
        for names in dead
        for resolve in [SystemResolver(lookups)]
        for name in names
    ]
    await turns()
    assert lookups.running == len(gate.questions) <= SHARED + hogs
    mine = SystemResolver(lookups)
    async with asyncio.timeout(5):  # a guest's timeout; the lookups take milliseconds
        found = await asyncio.gather(*(mine(f"{n}.good.test") for n in range(10)))
    assert found == [ONE] * 10
    gate.end()
    await asyncio.gather(*stuck)
    assert lookups.running == 0


async def test_a_dead_name_holds_one_thread_however_often_it_is_tried(
    gate: Gate, turns: Turns
) -> None:
    lookups = Lookups(gate)
    resolve = SystemResolver(lookups)
    for _ in range(100):
        task = asyncio.ensure_future(resolve("dead.test"))
        await turns()
        task.cancel()
    assert (lookups.running, gate.questions) == (1, ["dead.test"])


async def test_a_lookup_that_all_callers_left_is_never_started(gate: Gate, turns: Turns) -> None:
    lookups = Lookups(gate, shared=0)
    resolve = SystemResolver(lookups)
    tasks = [asyncio.ensure_future(resolve(f"{n}.test")) for n in range(1_000)]
    await turns()
    for task in tasks[1:]:
        task.cancel()
    await turns()
    gate.open()
    assert await tasks[0] == ONE
    assert gate.questions == ["0.test"]


async def test_waiting_environments_take_turns(gate: Gate, turns: Turns) -> None:
    lookups = Lookups(gate, shared=2)
    first, second = SystemResolver(lookups), SystemResolver(lookups)
    tasks = [asyncio.ensure_future(first(f"a{n}.test")) for n in range(6)]
    await turns()
    tasks += [asyncio.ensure_future(second(f"b{n}.test")) for n in range(6)]
    await turns()
    begun = gate.questions[:]
    assert begun == ["a0.test", "a1.test", "b0.test", "b1.test"]
    gate.open()
    await asyncio.gather(*tasks)
    assert [name[0] for name in gate.questions[4:]].count("a") == 4


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("label too long")])
async def test_a_failed_lookup_returns_its_thread(error: Exception) -> None:
    def fail(_: str) -> list[object]:
        raise error

    lookups = Lookups(fail)  # pyright: ignore[reportArgumentType]
    with pytest.raises(OSError, match=r"gone|ValueError"):
        await SystemResolver(lookups)("x.test")
    assert lookups.running == 0


async def test_a_host_without_room_for_a_thread_fails_that_name_alone(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate.open()
    lookups = Lookups(gate)
    resolve = SystemResolver(lookups)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        with pytest.raises(OSError, match="can't start new thread"):
            await resolve("x.test")
    assert await resolve("y.test") == ONE


@given(st.lists(st.integers(0, 30), max_size=40))
def test_an_environment_that_holds_no_thread_always_gets_one(order: list[int]) -> None:
    held: dict[int, int] = {}
    for asker in order * 4:
        taken = sum(held.values()) - len(held)
        assert may_start(0, taken, SHARED)
        if may_start(held.get(asker, 0), taken, SHARED):
            held[asker] = held.get(asker, 0) + 1
    assert sum(held.values()) <= SHARED + len(held)


def test_the_operators_resolver_options_are_kept() -> None:
    environ = {"RES_OPTIONS": "timeout:9"}
    limit_resolver(environ)
    assert environ == {"RES_OPTIONS": "timeout:9"}
    limit_resolver(fresh := {})
    assert fresh == {"RES_OPTIONS": "timeout:2 attempts:2"}
