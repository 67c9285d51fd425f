# SPDX-License-Identifier: Apache-2.0
"""Jobs that a guest brings along: in copies, after rollbacks, and under another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from tests.service.executing import LIMITS, RUNTIMES
from tests.service.lasting import LIMIT, copy, ended, guest_of, resumed, start
from tests.service.pausing import paused
from tests.service.snapshotting import snapshots
from tests.service.world import LONG, OWNER, World, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import GuestLost, JobNotFound
from waggle.domain.programs.job import JobState, StreamName
from waggle.service.environments.creating import CopyRequest, Pausing
from waggle.service.environments.service import EnvironmentService
from waggle.service.programs import READ_SECONDS
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.jobs import JobService

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world(pausing=Pausing(when_idle=True)) as made:
        yield made


@pytest.fixture
def jobs(here: World) -> JobService:
    return here.jobs()


@pytest.mark.parametrize("how", ["fork", "snapshot"])
async def test_a_copy_adopts_jobs_and_counts_on(how: str) -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        await (await start(jobs, origin, "echo done\nexit 3")).wait(LONG)
        running = await start(jobs, origin)
        made = await copy(around, origin, how)
        await settle()
        assert [(one.number, one.state) for one in (await jobs.list(made, owner=OWNER))] == [
            (1, JobState.EXITED),
            (2, JobState.RUNNING),
        ]
        assert here.get(made).running_jobs == 1
        assert (await ended(jobs, here, made, 2)).stdout.text() == "one\ntwo\n"
        assert running.is_running  # the original is apart
        assert running.view().stdout.text() == "one\n"
        assert (await start(jobs, made, "echo")).number == 3
        assert (await start(jobs, origin, "echo")).number == 3


async def test_the_first_reader_of_a_copy_gets_what_a_job_had_printed() -> None:
    async with snapshots() as around:
        jobs = around.world.jobs()
        origin = (await around.world.created()).id
        await start(jobs, origin)
        sends = anyio.Event()
        around.world.host.prepare = lambda guest: setattr(guest, "follow_until", sends)
        made = await copy(around, origin, "fork")
        reading = around.world.start(jobs.get(made, 1, owner=OWNER))
        await settle()
        assert not reading.is_done
        sends.set()
        job = await reading.result()
        assert job.is_running
        assert job.view().stdout.text() == "one\n"


async def test_the_time_of_a_job_goes_on_in_a_copy_from_what_its_guest_says() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        await start(jobs, origin)
        kept = await around.service.take(origin, owner=OWNER)
        here.clock.advance(hours=20)
        made = await around.service.create(kept.id, CopyRequest(), owner=OWNER)
        view = (await jobs.get(made.id, 1, owner=OWNER)).view()
        assert view.duration == 1
        assert view.ends_at == here.clock() + timedelta(seconds=LIMIT - 1)


async def test_ended_jobs_of_a_copy_are_read_once_and_on_demand() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        await (await start(jobs, origin, "echo long ago\nerr oops\nexit 3")).wait(LONG)
        made = await copy(around, origin, "fork")
        guest = guest_of(here, made)
        (brief,) = await jobs.list(made, owner=OWNER)
        assert (brief.exit_code, brief.stdout_bytes, brief.stderr_bytes) == (3, 9, 5)
        assert guest.attended == []
        await here.service.pause(made, owner=OWNER, to_disk=False)
        async with anyio.create_task_group() as together:
            for _ in range(3):
                together.start_soon(_get, jobs, made)
        assert here.get(made).state is State.RUNNING
        job = await jobs.get(made, 1, owner=OWNER)
        assert job.guest_job.has_ended  # so that nothing is killed when it cannot be read
        assert job.guest_job.remaining == READ_SECONDS
        view = job.view()
        assert (view.state, view.exit_code) == (JobState.EXITED, 3)
        assert (view.stdout.text(), view.stderr.text()) == ("long ago\n", "oops\n")
        assert len(guest.attended) == 1


async def _get(jobs: JobService, environment: str) -> None:
    await jobs.get(environment, 1, owner=OWNER)


async def test_an_unread_job_stays_readable_after_a_failure() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        await (await start(jobs, origin, "echo long ago")).wait(LONG)
        made = await copy(around, origin, "fork")
        guest_of(here, made).file_error = GuestLost("not now")
        with pytest.raises(GuestLost, match="not now"):
            await jobs.get(made, 1, owner=OWNER)
        guest_of(here, made).file_error = None
        view = (await jobs.get(made, 1, owner=OWNER)).view()
        assert view.stdout.text() == "long ago\n"


async def test_a_rollback_replaces_jobs_and_says_which_are_lost() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = (await here.created()).id
        before = await start(jobs, origin)
        kept = await around.service.take(origin, owner=OWNER)
        since = await start(jobs, origin, "echo since\nhang")
        waiting = here.start(since.attend(LONG))
        await settle()
        await around.service.roll_back(origin, kept.id, owner=OWNER)
        with pytest.raises(GuestLost, match="rolled back"):
            await waiting.result()
        for job in (before, since):
            assert job.view().state is JobState.LOST
            assert "rolled back to before this job's end" in job.view().error
        assert [one.number for one in (await jobs.list(origin, owner=OWNER))] == [1]
        assert here.get(origin).running_jobs == 1
        await settle()
        assert guest_of(here, origin).attended == [before.run_id]  # by what was adopted alone
        assert (await ended(jobs, here, origin)).stdout.text() == "one\ntwo\n"
        assert (await start(jobs, origin, "echo")).number == 3  # never the number of another
        await settle()
        assert since.streams[StreamName.STDOUT].kept == 0


async def test_a_rollback_of_a_paused_environment_replaces_its_jobs() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = await here.created()
        kept = await around.service.take(origin.id, owner=OWNER)
        job = await start(jobs, origin.id)
        await paused(here, origin, to_disk=False)
        await around.service.roll_back(origin.id, kept.id, owner=OWNER)
        await settle()
        assert job.view().state is JobState.LOST
        assert (await jobs.list(origin.id, owner=OWNER)) == ()


async def test_a_rollback_that_fails_loses_jobs_with_the_cause() -> None:
    async with snapshots() as around:
        here = around.world
        jobs = here.jobs()
        origin = await here.created()
        kept = await around.service.take(origin.id, owner=OWNER)
        job = await start(jobs, origin.id)
        here.host.create_error = GuestLost("no room")
        with pytest.raises(GuestLost, match="no room"):
            await around.service.roll_back(origin.id, kept.id, owner=OWNER)
        await job.wait(LONG)
        assert (job.view().state, job.view().error) == (JobState.LOST, "Rollback failed: no room")
        here.host.create_error = None


def another_server(here: World) -> World:
    """Return a world whose service starts anew over the same host and store."""
    old = here.service
    service = EnvironmentService(
        host=here.host,
        store=here.store,
        limits=old.limits,
        clock=here.clock,
        new_id=lambda: "ffffffff-0000-4000-8000-000000000000",
        tasks=here.tasks,
    )
    return replace(here, service=service)


async def test_another_server_takes_over_the_jobs_of_a_paused_environment(
    here: World, jobs: JobService
) -> None:
    environment = await here.created()
    await (await start(jobs, environment.id, "echo done\nexit 3")).wait(LONG)
    await start(jobs, environment.id)
    await paused(here, environment)
    later = another_server(here)
    later_jobs = later.jobs()
    await later.service.recover()
    await resumed(later, environment.id)
    await settle()
    assert [one.number for one in (await later_jobs.list(environment.id, owner=OWNER))] == [1, 2]
    assert (await ended(later_jobs, later, environment.id, 2)).stdout.text() == "one\ntwo\n"
    view = (await later_jobs.get(environment.id, 1, owner=OWNER)).view()
    assert (view.exit_code, view.stdout.text()) == (3, "done\n")
    assert (await start(later_jobs, environment.id, "echo")).number == 3
    await later.service.destroy(environment.id, owner=OWNER)
    await here.service.destroy(environment.id, owner=OWNER)


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_pause_waits_until_the_guest_has_what_was_started(
    here: World, jobs: JobService, to_disk: bool
) -> None:
    environment = await here.created()
    guest = guest_of(here, environment.id)
    guest.start_until = anyio.Event()
    job = await start(jobs, environment.id)
    pausing = here.start(here.service.pause(environment.id, owner=OWNER, to_disk=to_disk))
    await settle()
    assert not pausing.is_done
    guest.start_until.set()
    await pausing.result()
    assert [kept.job.id for kept in guest.kept.values()] == [job.run_id]
    assert job.view().is_paused
    await resumed(here, environment.id)
    assert (await ended(jobs, here, environment.id)).stdout.text() == "one\ntwo\n"


async def test_another_server_gives_no_number_of_code_that_waited_under_the_first(
    here: World, jobs: JobService
) -> None:
    environment = await here.created()
    execution = ExecutionService(here.service, jobs, RUNTIMES, LIMITS)
    cells = [
        await execution.execute(
            environment.id, code, owner=OWNER, language="python", context="main"
        )
        for code in ("hang", "set x 1", "set x 2")
    ]
    await settle()
    await paused(here, environment)
    later = another_server(here)
    later_jobs = later.jobs()
    await later.service.recover()
    await resumed(later, environment.id)
    await settle()
    known = [one.number for one in (await later_jobs.list(environment.id, owner=OWNER))]
    assert known == [1, cells[0].number]
    with pytest.raises(JobNotFound):
        await later_jobs.get(environment.id, cells[1].number, owner=OWNER)
    assert (await start(later_jobs, environment.id, "echo")).number > cells[2].number
    guest_of(later, environment.id).release.set()
    await later.service.destroy(environment.id, owner=OWNER)
    await here.service.destroy(environment.id, owner=OWNER)
