# SPDX-License-Identifier: Apache-2.0
"""The warm pool with pretended machines: filled, claimed from, emptied, and limited in size."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.world import settle

from waggle.domain.errors import GuestLost, ImageMissing, TimedOut
from waggle.domain.image import BootImage
from waggle.domain.machine import Resources
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.host.memory import Outlook
from waggle.service.local.blueprint import MachineParts
from waggle.service.local.warm_machine import AGAIN, FIRST_DELAY, LONGEST_DELAY, WarmKind
from waggle.service.local.warm_pool import SETTLE, STEADY, TICK, WarmPool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

RESOURCES = Resources(1, 64, 1)
PYTHON = WarmKind(RuntimeName.PYTHON, "python", RESOURCES)
NODE = WarmKind(RuntimeName.NODE, "node", RESOURCES)


def parts(kind: WarmKind, digest: str = "sha256:1") -> MachineParts:
    image = BootImage(kind.image, digest, Path("/disk"), {})
    return MachineParts(kind.runtime, image, Path("/kernel"), Path("/kit"), kind.resources)


@dataclass(eq=False)
class Machine:
    """A warm machine. `stubborn` is how often destroying it fails first."""

    parts: MachineParts
    stubborn: int = 0
    dead: anyio.Event = field(default_factory=anyio.Event)
    destroyed: bool = False

    @property
    def is_alive(self) -> bool:
        return not self.dead.is_set()

    async def wait(self) -> str:
        await self.dead.wait()
        return "it was unplugged"

    async def destroy(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.stubborn:
            self.stubborn -= 1
            raise TimedOut("It does not die.")
        self.dead.set()
        self.destroyed = True


class Time:
    """A clock that the test moves; sleepers wake when they are due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        event = anyio.Event()
        self._sleepers.append((self.now + seconds, event))
        await event.wait()

    async def pass_(self, seconds: float) -> None:
        self.now += seconds
        for due, event in self._sleepers:
            if due <= self.now:
                event.set()
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self.now]
        await settle()


@dataclass
class Rig:
    """A pool and its inputs. `hold` delays the machines that are being made."""

    wanted: dict[WarmKind, int]
    tasks: anyio.abc.TaskGroup
    room: int = 10
    outlook: Outlook = Outlook.FILL
    digest: str = "sha256:1"
    errors: list[Exception] = field(default_factory=list[Exception])
    hold: anyio.Event | None = None
    made: list[Machine] = field(default_factory=list[Machine])
    time: Time = field(default_factory=Time)
    undone: int = 0

    def __post_init__(self) -> None:
        self.pool: WarmPool[Machine] = WarmPool(
            self.wanted,
            room=lambda: self.room,
            outlook=lambda: self.outlook,
            sleep=self.time.sleep,
            clock=self.time,
        )

    async def make(self, kind: WarmKind) -> Machine:
        if self.hold is not None:
            try:
                await self.hold.wait()
            except BaseException:
                self.undone += 1
                raise
        await anyio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        machine = Machine(parts(kind, self.digest))
        self.made.append(machine)
        return machine

    async def start(self) -> None:
        self.tasks.start_soon(self.pool.run, self.make)
        await settle()

    async def settled(self) -> None:
        """Wait until the effects of a claim are over."""
        await settle()
        await self.time.pass_(SETTLE)

    def alive(self) -> int:
        return sum(machine.is_alive for machine in self.made)


@contextlib.asynccontextmanager
async def rig(**wanted: int) -> AsyncGenerator[Rig]:
    kinds = {"python": PYTHON, "node": NODE}
    async with anyio.create_task_group() as tasks:
        made = Rig({kinds[name]: number for name, number in wanted.items()}, tasks)
        await made.start()
        yield made
        await made.pool.aclose()
        assert made.pool.size == 0
        tasks.cancel_scope.cancel()


async def test_the_pool_is_filled_and_serves_matching_claims() -> None:
    async with rig(python=2, node=1) as here:
        assert here.pool.counts() == {"python": 2, "node": 1}
        first = here.pool.claim(PYTHON, parts(PYTHON))
        assert first is not None
        assert first is here.made[0]
        assert here.pool.counts() == {"python": 1, "node": 1}
        assert here.pool.claim(replace(PYTHON, image="other"), parts(PYTHON)) is None
        await first.destroy()


async def test_a_pool_without_configured_kinds_makes_nothing() -> None:
    async with rig() as here:
        assert (here.made, here.pool.counts()) == ([], {})
        assert here.pool.claim(PYTHON, parts(PYTHON)) is None


async def test_the_pool_is_refilled_some_time_after_a_claim() -> None:
    async with rig(python=1) as here:
        assert here.pool.claim(PYTHON, parts(PYTHON))
        await settle()
        assert here.pool.counts() == {"python": 0}
        assert here.pool.claim(PYTHON, parts(PYTHON)) is None
        await here.settled()
        assert here.pool.counts() == {"python": 1}
        assert len(here.made) == 2


async def test_machines_made_of_outdated_parts_are_replaced() -> None:
    async with rig(python=2) as here:
        here.digest = "sha256:2"
        assert here.pool.claim(PYTHON, parts(PYTHON, "sha256:2")) is None
        await settle()
        assert [machine.destroyed for machine in here.made] == [True, True, False, False]
        assert here.pool.claim(PYTHON, parts(PYTHON, "sha256:2")) is here.made[2]


async def test_making_room_ends_the_newest_machine() -> None:
    async with rig(python=2) as here:
        here.room = 1
        await here.pool.make_room()
        assert [machine.destroyed for machine in here.made] == [False, True]
        here.room = 0
        await here.pool.make_room()
        await here.time.pass_(TICK)
        assert here.alive() == 0
        here.room = 10
        await here.time.pass_(TICK)
        assert here.pool.counts() == {"python": 2}


async def test_making_room_ends_a_machine_being_made_first() -> None:
    async with rig(python=2) as here:
        here.hold = anyio.Event()
        assert here.pool.claim(PYTHON, parts(PYTHON))
        await here.settled()
        assert here.pool.size == 2
        here.room = 1
        await here.pool.make_room()
        assert (here.undone, here.pool.size, here.made[1].destroyed) == (1, 1, False)


async def test_the_pool_makes_no_more_machines_than_there_is_room_for() -> None:
    async with rig() as nothing:
        here = Rig({PYTHON: 5}, nothing.tasks, room=3)
        await here.start()
        assert here.alive() == 3
        assert here.pool.claim(PYTHON, parts(PYTHON))
        here.room = 2
        await here.settled()
        assert here.pool.counts() == {"python": 2}
        await here.pool.aclose()


async def test_low_memory_empties_the_pool_until_there_is_enough() -> None:
    async with rig(python=2) as here:
        here.outlook = Outlook.HOLD
        await here.time.pass_(TICK)
        assert here.alive() == 2
        here.outlook = Outlook.DRAIN
        await here.time.pass_(TICK)
        assert here.alive() == 0
        here.outlook = Outlook.HOLD
        await here.time.pass_(TICK)
        assert here.pool.counts() == {"python": 0}
        here.outlook = Outlook.FILL
        await here.time.pass_(TICK)
        assert here.pool.counts() == {"python": 2}


async def test_low_memory_ends_machines_being_made() -> None:
    async with rig() as nothing:
        here = Rig({PYTHON: 1}, nothing.tasks, hold=anyio.Event())
        await here.start()
        here.outlook = Outlook.DRAIN
        await here.time.pass_(TICK)
        assert (here.undone, here.pool.size) == (1, 0)
        await here.pool.aclose()


async def test_dying_machines_are_replaced_with_growing_delay_and_warned_of_once(
    logged: list[MutableMapping[str, object]],
) -> None:
    async with rig(python=1) as here:
        delay = FIRST_DELAY
        for _ in range(4):
            here.made[-1].dead.set()
            await settle()
            assert here.pool.counts() == {"python": 0}
            assert here.made[-1].destroyed
            number = len(here.made)
            while here.time.now + TICK < delay:
                await here.time.pass_(TICK)
            assert len(here.made) == number
            await here.time.pass_(delay)
            assert len(here.made) == number + 1
            delay, here.time.now = delay * 2, 0.0
    failures = [entry for entry in logged if entry["event"] == "warm_machine_failed"]
    assert [entry["log_level"] for entry in failures] == ["warning", "debug", "debug", "debug"]
    assert "it was unplugged" in str(failures[0]["error"])


async def test_a_machine_that_lived_long_is_replaced_soon() -> None:
    async with rig(python=1) as here:
        for _ in range(5):
            await here.time.pass_(STEADY)
            here.made[-1].dead.set()
            await settle()
            await here.time.pass_(FIRST_DELAY)
            assert here.pool.counts() == {"python": 1}


@pytest.mark.parametrize(
    "error", [ImageMissing("There is no image."), OSError(28, "No space left"), ValueError("bug")]
)
async def test_a_failing_image_does_not_delay_the_others(
    error: Exception,
) -> None:
    async with rig() as nothing:
        here = Rig({PYTHON: 1, NODE: 1}, nothing.tasks, errors=[error])
        await here.start()
        assert here.pool.counts() == {"python": 0, "node": 1}
        await here.time.pass_(FIRST_DELAY)
        assert here.pool.counts() == {"python": 1, "node": 1}
        await here.pool.aclose()


async def test_the_delay_after_failures_is_limited() -> None:
    async with rig() as nothing:
        here = Rig({PYTHON: 1}, nothing.tasks)
        here.errors = [GuestLost("It went away.") for _ in range(40)]
        await here.start()
        while here.errors:
            left = len(here.errors)
            await here.time.pass_(LONGEST_DELAY)
            assert len(here.errors) == left - 1 or not here.errors
        await here.time.pass_(LONGEST_DELAY)
        assert here.pool.counts() == {"python": 1}
        await here.pool.aclose()


async def test_a_machine_that_died_unnoticed_is_not_handed_out() -> None:
    async with rig(python=2) as here:
        here.made[0].dead.set()  # before the pool could notice
        assert here.pool.claim(PYTHON, parts(PYTHON)) is here.made[1]


async def test_a_machine_that_dies_after_its_claim_belongs_to_the_claimer() -> None:
    async with rig(python=1) as here:
        machine = here.pool.claim(PYTHON, parts(PYTHON))
        assert machine is not None
        machine.dead.set()
        await settle()
        assert not machine.destroyed


async def test_a_machine_that_cannot_be_ended_counts_until_it_is() -> None:
    async with rig(python=1) as here:
        here.made[0].stubborn = 2
        here.room = 0
        await here.pool.make_room()
        assert here.pool.size == 1
        here.room = 1
        for _ in range(2):
            assert len(here.made) == 1
            await here.time.pass_(AGAIN)
        await here.time.pass_(TICK)
        assert here.made[0].destroyed
        assert here.pool.counts() == {"python": 1}


async def test_closing_ends_all_machines_and_may_be_repeated() -> None:
    async with rig(python=3) as here:
        here.hold = anyio.Event()
        claimed = here.pool.claim(PYTHON, parts(PYTHON))
        assert claimed is not None
        await here.settled()
        for _ in range(2):
            await here.pool.aclose()
        assert [machine.destroyed for machine in here.made] == [False, True, True]
        assert here.undone == 1
        assert here.pool.claim(PYTHON, parts(PYTHON)) is None
        await claimed.destroy()


async def test_closing_tries_again_to_end_a_machine() -> None:
    async with rig(python=2) as here:
        here.made[0].stubborn = 2
        here.tasks.start_soon(here.pool.aclose)
        await settle()
        assert here.pool.size == 1
        for _ in range(2):
            await here.time.pass_(AGAIN)
        assert (here.pool.size, here.alive()) == (0, 0)


async def test_a_pool_closed_before_it_runs_makes_nothing() -> None:
    async with rig() as nothing:
        here = Rig({PYTHON: 1}, nothing.tasks)
        await here.pool.aclose()
        await here.start()
        assert here.made == []


CAPACITY = 3
ACTIONS = st.lists(
    st.one_of(
        st.just(("create", 0)),
        st.tuples(st.sampled_from(["destroy", "die"]), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.sampled_from([SETTLE, TICK, LONGEST_DELAY])),
        st.tuples(st.just("memory"), st.sampled_from(Outlook)),
        st.sampled_from([("rebuild", 0), ("fail", 0), ("hold", 0), ("release", 0)]),
    ),
    max_size=40,
)


class Model:
    """A host whose environments have a machine that was claimed or booted for them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.environments: list[Machine | None] = []

    async def create(self, _value: float) -> None:
        if len(self.environments) == CAPACITY:
            return
        self.rig.room -= 1
        wanted = parts(PYTHON, self.rig.digest)
        claimed = self.rig.pool.claim(PYTHON, wanted)
        if claimed is None:
            await self.rig.pool.make_room()
        else:
            assert claimed.is_alive
            assert claimed.parts == wanted
            assert claimed not in self.environments
        self.environments.append(claimed)
        assert len(self.environments) + self.rig.pool.size <= CAPACITY

    async def destroy(self, value: int) -> None:
        if self.environments:
            ended = self.environments.pop(value % len(self.environments))
            if ended is not None:
                await ended.destroy()
            self.rig.room += 1

    async def die(self, value: int) -> None:
        if self.rig.made:
            self.rig.made[value % len(self.rig.made)].dead.set()

    async def do(self, name: str, value: Any) -> None:
        rig = self.rig
        match name:
            case "create" | "destroy" | "die":
                await getattr(self, name)(value)
            case "pass":
                await rig.time.pass_(value)
            case "memory":
                rig.outlook = value
            case "rebuild":
                rig.digest += "1"
            case "fail":
                rig.errors.append(GuestLost("It went away."))
            case "hold":
                rig.hold = rig.hold or anyio.Event()
            case _:
                if rig.hold is not None:
                    rig.hold.set()
                rig.hold = None
        await settle()

    def check(self) -> None:
        """Check that no machine is lost and that there are not too many."""
        rig = self.rig
        alive = [machine for machine in rig.made if not machine.destroyed]
        unclaimed = [machine for machine in alive if machine not in self.environments]
        assert len(unclaimed) <= rig.pool.size
        assert sum(rig.pool.counts().values()) <= 2
        assert len(self.environments) + rig.pool.size <= CAPACITY


@given(ACTIONS)
@settings(max_examples=150, deadline=None)
def test_no_machine_is_lost_and_there_are_never_too_many(
    actions: list[tuple[str, Any]],
) -> None:
    async def play() -> None:
        async with anyio.create_task_group() as tasks:
            here = Rig({PYTHON: 2}, tasks, room=CAPACITY)
            await here.start()
            model = Model(here)
            for name, value in actions:
                await model.do(name, value)
                model.check()
            await here.pool.aclose()
            await settle()
            kept = [claimed for claimed in model.environments if claimed is not None]
            assert all(machine.destroyed != (machine in kept) for machine in here.made)
            tasks.cancel_scope.cancel()

    anyio.run(play)
