# SPDX-License-Identifier: Apache-2.0
"""Random histories of a service, in which anything may happen at every await.

Hypothesis starts calls and then decides which waiting call continues: a host that boots, a store
that saves, a guest that is paused, paused to disk or destroyed. After every step the machines that
exist are compared with what the service reports.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.service.world import OWNER, Broken, Guest, Job, World, build, settle

from waggle.domain.environment import TRANSITIONS, Environment, State
from waggle.domain.errors import (
    BootFailed,
    Busy,
    MaxEnvironments,
    NotFound,
    NotRunning,
    QuotaExceeded,
)
from waggle.service.environments.creating import Pausing
from waggle.service.environments.pausing import Reaper
from waggle.service.environments.restarts import Restarts

pytestmark = pytest.mark.slow

T = TypeVar("T")
CAPACITY = 2
MAX_ON_DISK = 2
"""How many environments may be paused to disk."""
EXPECTED = (Broken, BootFailed, Busy, MaxEnvironments, NotFound, NotRunning, QuotaExceeded)
"""Errors that a call may raise here; InvalidTransition or any other error is a defect."""


def reachable(start: State) -> set[State]:
    """Return every state that legal moves lead to."""
    seen: set[State] = set()
    todo = [start]
    while todo:
        for state in TRANSITIONS[todo.pop()] - seen:
            seen.add(state)
            todo.append(state)
    return seen


@dataclass(slots=True)
class Call:
    """A call in progress, which holds its environment until `leave` is set."""

    environment: str
    leave: anyio.Event
    entered: bool = False


class ServiceMachine(RuleBasedStateMachine):
    """The rules. Everything asynchronous runs on one loop that advances only inside a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.jobs: list[Job[Environment]] = []
        self.sweeps: list[Job[list[str]]] = []
        self.calls: list[tuple[Call, Job[None]]] = []
        self.seen: dict[str, list[State]] = {}
        self.disturbed: set[str] = set()
        self.stop = anyio.Event()
        self.here = self.loop(self._open())
        self.restarts = Restarts(self.here.service)

    def loop(self, work: Coroutine[object, object, T]) -> T:
        async def turn() -> T:
            result = await work
            await settle()
            return result

        with_deadline = asyncio.wait_for(turn(), 10)
        return self.runner.run(with_deadline)

    async def _open(self) -> World:
        built: asyncio.Future[World] = asyncio.get_running_loop().create_future()
        self.stop = anyio.Event()

        async def owner() -> None:
            async with anyio.create_task_group() as tasks:
                pausing = Pausing(when_idle=True, max_on_disk=MAX_ON_DISK)
                built.set_result(build(tasks, capacity=CAPACITY, pausing=pausing))
                await self.stop.wait()
                tasks.cancel_scope.cancel()

        self.owner = asyncio.create_task(owner())
        here = await built
        here.gates.all_closed = True
        return here

    def pick(self, share: float) -> str:
        """Return an environment that the service shows."""
        shown = self.here.service.all()
        return shown[int(share * len(shown))].id

    def alive(self) -> list[Guest]:
        return [guest for guest in self.here.host.guests.values() if not guest.dead.is_set()]

    # Steps

    @initialize(settled=st.booleans())
    def first(self, settled: bool) -> None:
        """Half of all histories begin with an environment that runs."""
        if settled:
            self.create()
            self.everything_goes_on()

    @rule()
    def create(self) -> None:
        async def start() -> None:
            before = self.here.host.machines + self.unsettled()
            job = self.here.create()
            self.jobs.append(job)
            await settle()
            if isinstance(job.error, MaxEnvironments):
                assert before >= CAPACITY, "refused although there was room"
            else:
                assert self.here.host.machines <= CAPACITY

        self.loop(start())

    def unsettled(self) -> int:
        """Count environments without a machine that may hold a slot: not booted yet, or ending."""
        guests, booting = self.here.host.guests, self.here.host.booting
        return sum(
            environment.state in (State.CREATING, State.DESTROYING)
            and environment.id not in booting
            and (environment.id not in guests or guests[environment.id].freed > 0)
            for environment in self.here.service.all()
        )

    @precondition(lambda self: self.here.gates.parked)
    @rule()
    def newest_goes_on(self) -> None:
        """Let the call that parked last overtake all others, up to its next wait."""

        async def go() -> None:
            self.here.gates.parked[-1].go.set()

        self.loop(go())

    @precondition(lambda self: self.here.service.all())
    @rule(share=st.floats(0, 1, exclude_max=True))
    def destroy(self, share: float) -> None:
        async def start(environment_id: str) -> None:
            self.disturbed.add(environment_id)
            self.jobs.append(self.here.destroy(environment_id))

        self.loop(start(self.pick(share)))

    @precondition(lambda self: self.here.service.all())
    @rule(share=st.floats(0, 1, exclude_max=True), reap=st.booleans())
    def use(self, share: float, reap: bool) -> None:
        """Begin a call, perhaps while the reaper sweeps."""

        async def start(environment_id: str) -> None:
            if reap:
                self.start_sweep()
            call = Call(environment_id, anyio.Event())

            async def work() -> None:
                async with self.here.service.using(environment_id, owner=OWNER):
                    call.entered = True
                    await call.leave.wait()
                call.entered = False

            self.calls.append((call, self.here.start(work())))

        self.loop(start(self.pick(share)))

    @precondition(lambda self: self.here.service.all())
    @rule(share=st.floats(0, 1, exclude_max=True), to_disk=st.booleans())
    def pause(self, share: float, to_disk: bool) -> None:
        async def start(environment_id: str) -> None:
            pausing = self.here.service.pause(environment_id, owner=OWNER, to_disk=to_disk)
            self.jobs.append(self.here.start(pausing))

        self.loop(start(self.pick(share)))

    @precondition(lambda self: self.here.service.all())
    @rule(share=st.floats(0, 1, exclude_max=True))
    def resume(self, share: float) -> None:
        async def start(environment_id: str) -> None:
            resuming = self.here.service.resume(environment_id, owner=OWNER)
            self.jobs.append(self.here.start(resuming))

        self.loop(start(self.pick(share)))

    def running(self) -> list[str]:
        shown = self.here.service.all()
        return [environment.id for environment in shown if environment.state is State.RUNNING]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), force=st.booleans())
    def restart(self, data: st.DataObject, force: bool) -> None:
        async def restarted(environment_id: str) -> Environment:
            again = self.restarts.restart(environment_id, owner=OWNER, force=force)
            return (await again).environment

        async def start(environment_id: str) -> None:
            self.disturbed.add(environment_id)
            self.jobs.append(self.here.start(restarted(environment_id)))

        self.loop(start(data.draw(st.sampled_from(self.running()))))

    @precondition(lambda self: self.here.gates.parked)
    @rule(share=st.floats(0, 1, exclude_max=True))
    def destroy_what_waits(self, share: float) -> None:
        """End an environment in the middle of what happens to it."""

        async def start() -> None:
            waiting = {parked.environment for parked in self.here.gates.parked}
            shown = [one.id for one in self.here.service.all() if one.id in waiting]
            if shown:
                chosen = shown[int(share * len(shown))]
                self.disturbed.add(chosen)
                self.jobs.append(self.here.destroy(chosen))

        self.loop(start())

    @precondition(lambda self: any(not job.is_done for _, job in self.calls))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        async def go(call: Call) -> None:
            call.leave.set()

        waiting = [call for call, job in self.calls if not job.is_done]
        self.loop(go(data.draw(st.sampled_from(waiting))))

    @precondition(lambda self: any(not job.is_done for job in self.jobs))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        async def go(job: Job[Environment]) -> None:
            job.cancel()

        running = [job for job in self.jobs if not job.is_done]
        self.loop(go(data.draw(st.sampled_from(running))))

    @precondition(lambda self: self.here.gates.parked)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def go_on(self, data: st.DataObject, fails: bool) -> None:
        """Let a waiting call continue; it may fail once instead."""

        async def go() -> None:
            chosen = data.draw(st.sampled_from(self.here.gates.parked))
            place = chosen.place
            if fails and place != "undo":  # by contract, `undo` never fails
                self.here.gates.errors[place] = (
                    BootFailed("It panicked.") if place == "create" else Broken(place)
                )
            chosen.go.set()
            await settle()
            self.here.gates.errors.clear()

        self.loop(go())

    @precondition(lambda self: self.alive())
    @rule(share=st.floats(0, 1, exclude_max=True))
    def die(self, share: float) -> None:
        async def go() -> None:
            alive = self.alive()
            chosen = alive[int(share * len(alive))]
            self.disturbed.add(chosen.environment.id)
            chosen.die("killed")

        self.loop(go())

    @rule(minutes=st.sampled_from([-20, 1, 15, 31, 60 * 25]))
    def time(self, minutes: int) -> None:
        self.here.clock.advance(minutes=minutes)

    @rule()
    def reap(self) -> None:
        async def start() -> None:
            self.start_sweep()

        self.loop(start())

    def start_sweep(self) -> None:
        reaper = Reaper(self.here.service, interval=1, clock=self.here.clock, sleep=anyio.sleep)
        self.sweeps.append(self.here.start(reaper.sweep()))

    @precondition(lambda self: self.here.gates.parked)
    @rule()
    def everything_goes_on(self) -> None:
        async def go() -> None:
            self.here.gates.open_all()
            await settle()
            self.here.gates.all_closed = True

        self.loop(go())
        self.exact()

    def exact(self) -> None:
        """Check that slots and machines match when nothing waits any more."""
        assert not [job for job in self.jobs if not job.is_done]
        shown = self.here.service.all()
        alive = {
            guest.environment.id for guest in self.here.host.guests.values() if not guest.freed
        }
        assert {environment.id for environment in shown if environment.holds_capacity} == alive
        assert {environment.state for environment in shown} <= {
            State.RUNNING,
            State.PAUSED,
            State.ERROR,
        }
        on_disk = {environment.id for environment in shown if environment.is_on_disk}
        assert on_disk == self.here.host.on_disk
        assert {
            environment.id for environment in shown if environment.state is State.PAUSED
        } <= alive | on_disk
        assert {
            environment.id for environment in shown if environment.state is State.RUNNING
        } <= alive
        full = self.loop(self.here.service.not_ready()) is not None
        assert full == (len(alive) == CAPACITY)

    # Invariants

    @invariant()
    def there_are_never_more_machines_than_slots(self) -> None:
        assert self.here.host.machines <= CAPACITY

    @invariant()
    def no_more_sleep_than_may(self) -> None:
        assert len(self.here.host.on_disk) <= MAX_ON_DISK

    @invariant()
    def no_machine_is_forgotten_or_freed_twice(self) -> None:
        counted = {
            environment.id for environment in self.here.service.all() if environment.holds_capacity
        }
        assert self.here.host.booting <= counted
        for guest in self.here.host.guests.values():
            assert guest.freed <= 1
            assert guest.freed or guest.environment.id in counted

    @invariant()
    def only_living_machines_run(self) -> None:
        for environment in self.here.service.all():
            if environment.state is State.RUNNING:
                assert not self.here.host.guests[environment.id].freed
                recorded = self.here.store.records[environment.id].state
                assert recorded in (State.RUNNING, State.PAUSED), "PAUSED until a resume is saved"
            if environment.state is State.ERROR:
                assert environment.error

    @invariant()
    def moves_are_legal_on_record_and_on_show(self) -> None:
        for environment in self.here.service.all():
            self.seen.setdefault(environment.id, [State.CREATING]).append(environment.state)
        records = {
            record.id: self.here.store.states(record.id) for record in self.here.store.history
        }
        for states in (*self.seen.values(), *records.values()):
            for before, after in pairwise(states):
                assert after == before or after in reachable(before), states

    @invariant()
    def every_use_of_an_environment_is_counted(self) -> None:
        for environment in self.here.service.all():
            calls = sum(c.entered and c.environment == environment.id for c, _ in self.calls)
            assert environment.active_calls == calls

    @invariant()
    def the_reaper_takes_nothing_in_use(self) -> None:
        running = {
            environment.id
            for environment in self.here.service.all()
            if environment.state is State.RUNNING
        }
        used = {call.environment for call, _ in self.calls if call.entered}
        assert used <= running | self.disturbed

    @invariant()
    def calls_fail_only_as_foreseen(self) -> None:
        for job in (*self.jobs, *self.sweeps, *(job for _, job in self.calls)):
            assert job.error is None or isinstance(job.error, EXPECTED), repr(job.error)

    @invariant()
    def the_server_lives(self) -> None:
        assert not self.owner.done()

    def close(self) -> None:
        async def end() -> None:
            closing = self.here.start(self.here.service.aclose())
            await settle()
            for call, _ in self.calls:
                call.leave.set()
            self.here.gates.open_all()
            await closing.result()
            await self.here.service.aclose()
            await settle()
            assert not [job for job in self.jobs if not job.is_done]
            await self.here.close()
            self.stop.set()
            await self.owner

        self.loop(end())

    def teardown(self) -> None:
        try:
            if not self.owner.done():
                self.close()
        finally:
            self.runner.close()


TestService = ServiceMachine.TestCase
TestService.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
