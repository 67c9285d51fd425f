# SPDX-License-Identifier: Apache-2.0
"""How long an environment stays, what counts as use, and what an inspection reports."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from tests.service.world import IDLE, OWNER, PYTHON, Broken, Job, World, settle, world
from tests.support.guest import USED

from waggle.domain.environment import Environment, State
from waggle.domain.errors import GuestLost, InvalidArgument, NotFound, NotRunning
from waggle.domain.exposure import ExposedPort
from waggle.domain.programs import Command
from waggle.domain.programs.job import JobKind
from waggle.service.environments.pausing import Reaper
from waggle.service.environments.ports import PortService
from waggle.service.programs import What

pytestmark = pytest.mark.anyio

OTHER = "bob"


async def started(here: World, code: str = "hang") -> tuple[str, Environment]:
    """Create an environment in which a job runs."""
    environment = await here.created()
    jobs = here.jobs()
    command = Command(("python3", "{file}"), timeout=60, output_limit=1_000, code=code.encode())
    await jobs.start(environment.id, command, What(JobKind.EXECUTE, "a test"), owner=OWNER)
    return environment.id, environment


class TestInspection:
    async def test_inspection_reports_the_time_left_and_does_not_count_as_use(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.clock.advance(minutes=10)
            found = await here.service.inspect(environment.id, owner=OWNER)
            assert found.idle_left == IDLE - timedelta(minutes=10)
            assert (found.resource_use, found.ports, found.is_busy) == (USED, (), False)
            assert here.get(environment.id).last_used_at == environment.last_used_at
            here.clock.advance(hours=1)
            overdue = await here.service.inspect(environment.id, owner=OWNER)
            assert overdue.idle_left == timedelta(0)

    async def test_idle_time_does_not_run_while_a_job_runs(self) -> None:
        async with world() as here:
            identity, _ = await started(here)
            here.clock.advance(hours=2)
            found = await here.service.inspect(identity, owner=OWNER)
            assert (found.is_busy, found.idle_left) == (True, IDLE)

    async def test_an_environment_without_a_machine_reports_no_usage(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.host.only.die()
            await settle()
            found = await here.service.inspect(environment.id, owner=OWNER)
            assert (found.environment.state, found.resource_use, found.ports) == (
                State.ERROR,
                None,
                (),
            )

    async def test_another_owner_cannot_inspect_extend_or_touch(self) -> None:
        async with world() as here:
            environment = await here.created()
            for call in (
                here.service.inspect(environment.id, owner=OTHER),
                here.service.extend(environment.id, 5, owner=OTHER),
            ):
                with pytest.raises(NotFound):
                    await call
            with pytest.raises(NotFound):
                here.service.touch(environment.id, owner=OTHER)


class TestExtending:
    async def test_extending_counts_from_now_and_is_recorded(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.clock.advance(minutes=29)
            extended = await here.service.extend(environment.id, 60, owner=OWNER)
            assert extended.expires_at() == here.clock.now + timedelta(hours=1)
            assert here.get(environment.id) == extended == here.store.records[environment.id]
            here.clock.advance(minutes=59)
            reaper = Reaper(here.service, interval=1, clock=here.clock, sleep=anyio.sleep)
            assert await reaper.sweep() == []
            here.clock.advance(minutes=1)
            assert await reaper.sweep() == [environment.id]

    async def test_extending_can_shorten_the_time(self) -> None:
        async with world() as here:
            environment = await here.created()
            extended = await here.service.extend(environment.id, 1, owner=OWNER)
            assert extended.idle_timeout == timedelta(minutes=1)

    @pytest.mark.parametrize("minutes", [-1, 0, 61])
    async def test_only_1_to_60_minutes_are_accepted(self, minutes: int) -> None:
        async with world() as here:
            environment = await here.created()
            with pytest.raises(InvalidArgument, match="minutes must be 1 to 60"):
                await here.service.extend(environment.id, minutes, owner=OWNER)
            assert here.get(environment.id) == environment

    async def test_a_failed_environment_cannot_be_extended(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.host.only.die()
            await settle()
            with pytest.raises(NotRunning):
                await here.service.extend(environment.id, 5, owner=OWNER)

    async def test_a_call_during_an_extension_is_counted(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.gates.closed = {"save running"}
            extending = here.start(here.service.extend(environment.id, 5, owner=OWNER))
            await here.gates.reached("save running")
            async with here.service.using(environment.id, owner=OWNER):
                here.gates.open_all()
                await settle()
                assert here.get(environment.id).active_calls == 1
            assert (await extending.result()).idle_timeout == timedelta(minutes=5)
            assert here.get(environment.id).active_calls == 0

    async def test_a_destroy_during_an_extension_is_recorded_last(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.gates.closed = {"save running"}
            extending = here.start(here.service.extend(environment.id, 5, owner=OWNER))
            await here.gates.reached("save running")
            destroying = here.destroy(environment.id)
            await settle()
            here.gates.open_all()
            await extending.result()
            await destroying.result()
            assert here.store.records[environment.id].state is State.DESTROYED


class TestUse:
    async def test_listing_jobs_restarts_the_idle_time(self) -> None:
        async with world() as here:
            environment = await here.created()
            jobs = here.jobs()
            here.clock.advance(minutes=20)
            assert await jobs.list(environment.id, owner=OWNER) == ()
            assert here.get(environment.id).last_used_at == here.clock.now

    async def test_touching_a_failed_environment_does_not_extend_it(self) -> None:
        async with world() as here:
            environment = await here.created()
            here.host.only.die()
            await settle()
            here.clock.advance(minutes=20)
            here.service.touch(environment.id, owner=OWNER)
            assert here.get(environment.id).last_used_at == environment.last_used_at


class TestTemporary:
    async def test_a_temporary_environment_is_destroyed_at_the_end_of_its_block(self) -> None:
        async with world() as here:
            async with here.service.temporary(PYTHON, owner=OWNER) as environment:
                assert here.get(environment.id).state is State.RUNNING
            assert here.service.all() == []
            assert here.store.records[environment.id].state is State.DESTROYED

    @pytest.mark.parametrize("error", [Broken(), GuestLost("it is gone")])
    async def test_an_error_in_the_block_destroys_the_environment(self, error: Exception) -> None:
        async with world() as here:
            with pytest.raises(type(error)):
                async with here.service.temporary(PYTHON, owner=OWNER):
                    raise error
            assert here.service.all() == []

    async def test_a_dead_machine_is_forgotten_at_the_end_of_the_block(self) -> None:
        async with world() as here:
            async with here.service.temporary(PYTHON, owner=OWNER):
                here.host.only.die()
                await settle()
            assert here.service.all() == []

    @pytest.mark.parametrize("place", ["save creating", "create", "save running", "inside"])
    async def test_a_cancelled_caller_leaves_nothing(self, place: str) -> None:
        async with world() as here:
            inside = anyio.Event()

            async def use() -> None:
                async with here.service.temporary(PYTHON, owner=OWNER):
                    inside.set()
                    await anyio.sleep_forever()

            here.gates.closed = {place}
            using: Job[None] = here.start(use())
            await (inside.wait() if place == "inside" else here.gates.reached(place))
            using.cancel()
            here.gates.open_all()
            await settle()
            assert (here.service.all(), here.host.machines) == ([], 0)

    async def test_an_environment_that_cannot_be_destroyed_is_left_to_the_reaper(self) -> None:
        async with world() as here:
            async with here.service.temporary(PYTHON, owner=OWNER) as environment:
                here.host.only.destroy_error = Broken()
            assert here.get(environment.id).state is State.ERROR
            here.host.only.destroy_error = None
            reaper = Reaper(here.service, interval=1, clock=here.clock, sleep=anyio.sleep)
            assert await reaper.sweep() == [environment.id]


class TestPorts:
    async def test_a_port_is_exposed_whether_or_not_a_program_listens(self) -> None:
        async with world() as here:
            environment = await here.created()
            ports = PortService(here.service)
            exposed = ExposedPort(8000, 40_000)
            assert await ports.expose(environment.id, 8000, owner=OWNER) == (exposed, False)
            here.host.only.listening.add(8000)
            again = await ports.expose(environment.id, 8000, owner=OWNER, wait_seconds=0)
            assert again == (exposed, True)
            assert here.host.only.tried_ports == [(8000, 10.0), (8000, 0)]
            assert (await here.service.inspect(environment.id, owner=OWNER)).ports == (exposed,)
            assert await ports.unexpose(environment.id, 8000, owner=OWNER)
            assert not await ports.unexpose(environment.id, 8000, owner=OWNER)

    async def test_invalid_requests_are_refused_before_the_guest_is_asked(self) -> None:
        async with world() as here:
            environment = await here.created()
            ports = PortService(here.service)
            with pytest.raises(InvalidArgument):
                await ports.expose(environment.id, 0, owner=OWNER)
            with pytest.raises(InvalidArgument):
                await ports.expose(environment.id, 1, owner=OWNER, wait_seconds=-1)
            with pytest.raises(NotFound):
                await ports.expose(environment.id, 1, owner=OTHER)
            with pytest.raises(NotFound):
                await ports.unexpose(environment.id, 1, owner=OTHER)
            assert here.host.listening[0].open == {}
