# SPDX-License-Identifier: Apache-2.0
"""Jobs belong to their guest: they last through pauses, in memory and to disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
from tests.service.lasting import LIMIT, ended, guest_of, resumed, start
from tests.service.pausing import paused, reaper
from tests.service.world import IDLE, LONG, OWNER, World, settle, world

from waggle.domain.environment import State
from waggle.domain.errors import GuestLost, InvalidArgument, JobEnded
from waggle.domain.programs import Command
from waggle.domain.programs.guest_job import Attributes
from waggle.domain.programs.job import JobKind, JobState, StreamName
from waggle.service.environments.creating import Pausing
from waggle.service.programs import What
from waggle.service.programs.jobs import JobService

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world(pausing=Pausing(when_idle=True)) as made:
        yield made


@pytest.fixture
def jobs(here: World) -> JobService:
    return here.jobs()


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_job_goes_on_through_a_pause(here: World, jobs: JobService, to_disk: bool) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    await paused(here, environment, to_disk=to_disk)
    assert (job.view().state, job.view().is_paused) == (JobState.RUNNING, True)
    assert job.view().stdout.text() == "one\n"
    here.host.guests[environment.id].release.set()  # nothing runs in a paused machine
    await settle()
    assert job.view().stdout.text() == "one\n"
    await resumed(here, environment.id)
    view = await ended(jobs, here, environment.id)
    assert (view.state, view.stdout.text(), view.is_paused) == (
        JobState.EXITED,
        "one\ntwo\n",
        False,
    )
    assert (await jobs.list(environment.id, owner=OWNER))[0].number == 1
    assert here.get(environment.id).running_jobs == 0


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_pause_that_fails_leaves_the_job_running(
    here: World, jobs: JobService, to_disk: bool
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    guest_of(here, environment.id).pause_error = GuestLost("It does not stop.")
    with pytest.raises(GuestLost, match="does not stop"):
        await paused(here, environment, to_disk=to_disk)
    await settle()
    assert not job.view().is_paused
    view = await ended(jobs, here, environment.id)
    assert (view.state, view.stdout.text()) == (JobState.EXITED, "one\ntwo\n")


async def test_a_resume_that_fails_keeps_the_job_for_the_next(
    here: World, jobs: JobService
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    await paused(here, environment)
    here.host.create_error = GuestLost("It did not resume.")
    with pytest.raises(GuestLost):
        await resumed(here, environment.id)
    await settle()
    assert job.view().is_paused
    here.host.create_error = None
    await resumed(here, environment.id)
    assert (await ended(jobs, here, environment.id)).stdout.text() == "one\ntwo\n"


@pytest.mark.parametrize("to_disk", [False, True])
async def test_a_call_that_waits_is_answered_at_a_pause_and_may_wait_again(
    here: World, jobs: JobService, to_disk: bool
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    waiting = here.start(job.attend(LONG))
    await settle()
    await paused(here, environment, to_disk=to_disk)
    view = await waiting.result()
    assert (view.state, view.is_paused) == (JobState.RUNNING, True)
    again = here.start(job.wait(LONG))
    await settle()
    assert again.is_done  # a wait while it is paused would be for nothing
    await jobs.resume(job, owner=OWNER)
    later = here.start(job.wait(LONG))
    await settle()
    assert not later.is_done
    guest_of(here, environment.id).release.set()
    await later.result()
    assert job.view().state is JobState.EXITED


async def test_cancelling_a_call_in_a_paused_environment_ends_its_job(
    here: World, jobs: JobService
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    await paused(here, environment)
    await jobs.kill(job, owner=OWNER)
    assert here.get(environment.id).state is State.RUNNING
    assert job.view().state is JobState.KILLED
    (kept,) = guest_of(here, environment.id).kept.values()
    assert kept.signal == 9  # also in the guest, which nobody followed at that moment
    (kept,) = guest_of(here, environment.id).kept.values()
    assert kept.signal == 9


async def test_input_and_signals_resume_a_paused_environment(here: World, jobs: JobService) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id, keeps_input=True)
    for to_disk in (False, True):
        await paused(here, environment, to_disk=to_disk)
        assert await jobs.control.write(job, "x", close=False, owner=OWNER) == 1
        assert here.get(environment.id).state is State.RUNNING
        await paused(here, environment, to_disk=to_disk)
        await jobs.control.signal(job, "HUP", owner=OWNER)
    assert guest_of(here, environment.id).signals == [(job.run_id, 1)]
    await ended(jobs, here, environment.id)
    with pytest.raises(JobEnded):
        await jobs.control.write(job, "x", close=False, owner=OWNER)
    with pytest.raises(JobEnded):
        await jobs.control.signal(job, "HUP", owner=OWNER)


async def test_input_waits_for_the_start_of_a_job(here: World, jobs: JobService) -> None:
    environment = await here.created()
    command = Command(("python3", "{file}"), timeout=LIMIT, code=b"hang")
    what = What(JobKind.EXECUTE, "a test", attributes=Attributes(keeps_input=True))
    job = await jobs.start(environment.id, command, what, owner=OWNER)
    assert await jobs.control.write(job, "x", close=True, owner=OWNER) == 1
    with pytest.raises(InvalidArgument, match="standard input is closed"):
        await jobs.control.write(job, "x", close=False, owner=OWNER)


async def test_paused_time_does_not_count(here: World, jobs: JobService) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    ends_at = job.view().ends_at
    assert ends_at is not None
    here.clock.advance(seconds=10)
    await paused(here, environment, to_disk=False)
    here.clock.advance(hours=5)
    assert job.view().duration == 10
    assert job.view().ends_at == ends_at + timedelta(hours=5)
    await resumed(here, environment.id)
    here.clock.advance(seconds=5)
    assert job.view().duration == 15
    assert job.view().ends_at == ends_at + timedelta(hours=5)


@pytest.mark.parametrize(
    "kind, idle",
    [(JobKind.EXECUTE, False), (JobKind.CONTEXT, True), (JobKind.TERMINAL, True)],
)
async def test_only_work_keeps_an_environment_from_being_idle(
    here: World, jobs: JobService, kind: JobKind, idle: bool
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id, kind=kind)
    here.clock.now += IDLE
    swept = await reaper(here).sweep()
    assert swept == ([environment.id] if idle else [])
    assert here.get(environment.id).is_on_disk is idle
    await resumed(here, environment.id)
    assert job.view().is_running
    assert (await ended(jobs, here, environment.id)).stdout.text() == "one\ntwo\n"
    here.clock.now += IDLE
    assert await reaper(here).sweep() == [environment.id]


@pytest.mark.parametrize("to_disk", [False, True])
async def test_destroying_a_paused_environment_ends_its_jobs(
    here: World, jobs: JobService, to_disk: bool
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    await paused(here, environment, to_disk=to_disk)
    killing = here.start(job.ended())
    await settle()
    await here.destroy(environment.id).result()
    await killing.result()
    view = job.view()
    assert (view.state, view.error) == (JobState.LOST, "The environment is being destroyed.")
    assert not view.is_paused
    await settle()
    assert job.streams[StreamName.STDOUT].kept == 0


async def test_a_machine_that_dies_while_paused_loses_its_jobs(
    here: World, jobs: JobService
) -> None:
    environment = await here.created()
    job = await start(jobs, environment.id)
    await paused(here, environment, to_disk=False)
    guest_of(here, environment.id).die()
    await job.wait(LONG)
    await job.ended()
    assert job.view().state is JobState.LOST
    assert "killed by signal 9" in job.view().error
