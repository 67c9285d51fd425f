# SPDX-License-Identifier: Apache-2.0
"""Jobs outlive the call that started them but not their environment, and are limited in number."""

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from tests.service.world import LONG, OWNER, World, settle, world
from tests.support.displays import record

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import State
from waggle.domain.errors import GuestLost, JobNotFound, NotFound, TooManyJobs
from waggle.domain.programs import Command, Left, Output, Program
from waggle.domain.programs.display import Display, Displays
from waggle.domain.programs.job import JobKind, JobState, StreamName
from waggle.infra.shared.spool import Spool
from waggle.service.programs import Job, What
from waggle.service.programs.jobs import JobService
from waggle.service.programs.starting import MAX_RUNNING
from waggle.service.programs.table import MAX_REMEMBERED

pytestmark = pytest.mark.anyio
WHAT = What(JobKind.EXECUTE, "a test")


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


@pytest.fixture
def jobs(here: World) -> JobService:
    return here.jobs()


async def start(jobs: JobService, environment: str, code: str) -> Job:
    command = Command(("python3", "{file}"), timeout=60, output_limit=1_000, code=code.encode())
    return await jobs.start(environment, command, WHAT, owner=OWNER)


async def test_a_job_continues_without_a_waiting_call_and_is_found_again(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "echo before\nhang\necho after\nexit 3")
    view = await job.attend(0)
    assert (view.state, view.exit_code) == (JobState.RUNNING, None)
    await here.host.only.started.wait()
    found = await jobs.get(environment, 1, owner=OWNER)
    assert found.view().stdout.text() == "before\n"
    here.host.only.release.set()
    await found.wait(LONG)
    view = found.view()
    assert (view.state, view.exit_code, view.stdout.text()) == (
        JobState.EXITED,
        3,
        "before\nafter\n",
    )
    assert [brief.number for brief in (await jobs.list(environment, owner=OWNER))] == [1]


async def test_a_job_keeps_what_it_displays_with_its_output(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "echo before\nhang")
    await here.host.only.started.wait()
    assert job.view().displays.read() == Displays()
    shown = record({"text/plain": "42"}, 7)
    job.display.feed(shown + shown[:10])
    kept = (Display(1, 7, 0, {"text/plain": "42"}),)
    assert job.view().displays.read() == Displays(kept)
    here.host.only.release.set()
    await job.wait(LONG)
    assert job.view().displays.read() == Displays(kept, dropped=1)
    assert job.kept_bytes == len("before\n") + len(shown) + 10
    job.close()
    assert job.kept_bytes == 0


async def test_a_job_counts_as_use_of_its_environment_until_it_ends(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "hang")
    here.clock.advance(days=1)
    assert not await here.service.retire(environment)
    assert job.view().duration == 86_400
    here.host.only.release.set()
    await job.wait(LONG)
    assert here.get(environment).running_jobs == 0
    here.clock.advance(days=1)
    assert await here.service.retire(environment)


async def test_killing_a_job_ends_it_in_the_guest_and_may_be_repeated(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "echo so far\nhang")
    await here.host.only.started.wait()
    await job.kill()
    await job.kill()
    assert len(here.host.only.cancelled) == 1
    view = job.view()
    assert (view.state, view.stdout.text()) == (JobState.KILLED, "so far\n")


async def test_a_job_killed_before_it_began_never_runs(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "hang")
    await job.kill()
    assert job.view().state is JobState.KILLED
    assert not here.host.only.started.is_set()


async def test_cancelling_a_call_kills_its_own_job_but_not_one_it_only_waits_for(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "hang")
    looking = here.start(job.wait(LONG))
    calling = here.start(job.attend(LONG))
    await here.host.only.started.wait()
    looking.cancel()
    await looking.wait()
    assert job.is_running
    calling.cancel()
    await calling.wait()
    assert job.view().state is JobState.KILLED


async def test_a_machine_that_dies_fails_the_call_and_marks_the_job_lost(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "echo last words\ndie")
    with pytest.raises(GuestLost, match="killed by signal 9"):
        await job.attend(LONG)
    await settle()
    assert here.get(environment).state is State.ERROR
    view = (await jobs.get(environment, 1, owner=OWNER)).view()
    assert (view.state, view.stdout.text()) == (JobState.LOST, "last words\n")
    assert "killed by signal 9" in view.error


async def test_an_internal_error_ends_only_its_job(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    here.host.only.run_error = RuntimeError("a secret of the server")
    job = await start(jobs, environment, "echo")
    with pytest.raises(RuntimeError):
        await job.attend(LONG)
    assert job.view().error == "internal error"
    here.host.only.run_error = None
    assert (await (await start(jobs, environment, "echo")).attend(LONG)).exit_code == 0


async def test_jobs_end_and_are_forgotten_with_their_environment(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    done = await start(jobs, environment, "echo")
    await done.wait(LONG)
    await here.destroy(environment).result()
    with pytest.raises(NotFound):
        await jobs.get(environment, 1, owner=OWNER)
    assert done.streams[StreamName.STDOUT].kept == 0


async def test_another_owner_sees_no_job(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    await start(jobs, environment, "echo")
    with pytest.raises(NotFound):
        await jobs.get(environment, 1, owner="mallory")
    with pytest.raises(NotFound):
        (await jobs.list(environment, owner="mallory"))


async def test_the_number_of_running_jobs_is_limited(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    running = [await start(jobs, environment, "hang") for _ in range(MAX_RUNNING)]
    with pytest.raises(TooManyJobs):
        await start(jobs, environment, "echo")
    assert here.get(environment).running_jobs == MAX_RUNNING
    await running[0].kill()
    assert (await (await start(jobs, environment, "echo")).attend(LONG)).exit_code == 0


class Asked(Spool):
    """A spool that counts its reads."""

    reads = 0

    def output(self) -> Output:
        Asked.reads += 1
        return super().output()

    def read(self, offset: int, length: int) -> bytes:
        Asked.reads += 1
        return super().read(offset, length)


async def test_a_list_reports_sizes_without_reading_output(here: World) -> None:
    jobs = JobService(
        here.service,
        record=lambda: Asked(Path("/tmp"), keep=1_000_000, view=1_000),
        clock=here.clock,
        tasks=here.tasks,
    )
    environment = (await here.created()).id
    job = await start(jobs, environment, "flood 5000\nerr oops\nexit 3")
    view = await job.attend(LONG)
    before = Asked.reads
    (brief,) = await jobs.list(environment, owner=OWNER)
    assert Asked.reads == before > 0
    assert (brief.stdout_bytes, brief.stderr_bytes) == (view.stdout.total, 5) == (5_000, 5)
    assert (brief.state, brief.exit_code, brief.duration) == (view.state, 3, view.duration)


async def test_the_oldest_ended_job_is_forgotten_first(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    old = await start(jobs, environment, "hang")
    for _ in range(MAX_REMEMBERED + 5):
        await (await start(jobs, environment, "echo x")).attend(LONG)
    numbers = [view.number for view in (await jobs.list(environment, owner=OWNER))]
    assert numbers == [1, *range(8, MAX_REMEMBERED + 7)]
    with pytest.raises(JobNotFound):
        await jobs.get(environment, 2, owner=OWNER)
    assert old.is_running


async def test_a_server_that_stops_ends_every_job() -> None:
    with anyio.fail_after(LONG):
        async with world() as here:
            environment = (await here.created()).id
            job = await start(here.jobs(), environment, "hang")
            await here.host.only.started.wait()
        assert (job.view().state, job.view().error) == (
            JobState.LOST,
            "The environment is being destroyed.",
        )


FOUND = Diagnosis("disk_full", "The disk is full.", "Delete something.")


async def test_a_failed_job_has_a_diagnosis(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    here.host.only.diagnosis = FOUND
    assert (await (await start(jobs, environment, "exit 3")).attend(LONG)).diagnosis == FOUND
    assert (await (await start(jobs, environment, "echo x")).attend(LONG)).diagnosis is None


async def test_a_kill_during_the_diagnosis_keeps_the_exit_code(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    guest = here.host.only
    guest.diagnose_until = anyio.Event()
    job = await start(jobs, environment, "exit 3")
    await guest.diagnosing.wait()
    assert (job.view().state, job.view().exit_code) == (JobState.RUNNING, None)
    await job.kill()
    view = job.view()
    assert (view.state, view.exit_code, view.diagnosis) == (JobState.EXITED, 3, None)


async def test_a_lost_job_has_a_cause_and_a_next_step(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    job = await start(jobs, environment, "die")
    await job.wait(LONG)
    found = job.view().diagnosis
    assert found
    assert (found.code, found.cause) == ("guest_lost", "The machine died: killed by signal 9")
    assert "new environment" in found.next_step


async def test_programs_left_running_are_reported_listed_and_killed(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    guest = here.host.only
    first = await start(jobs, environment, "leave server -p 80\nleave worker")
    second = await start(jobs, environment, "leave other")
    for job in (first, second):
        await job.wait(LONG)
    assert [program.command for program in first.view().left.programs] == ["server -p 80", "worker"]
    listed = await jobs.left.look(environment, owner=OWNER, always=False)
    assert listed.count == 3
    assert [(program.job, program.command) for program in listed.programs] == [
        (1, "server -p 80"),
        (1, "worker"),
        (2, "other"),
    ]
    assert await jobs.left.end_of(first, owner=OWNER) == 2
    assert await jobs.left.end_of(first, owner=OWNER) == 0
    (other,) = (await jobs.left.look(environment, owner=OWNER)).programs
    await jobs.left.end(environment, other.pid, owner=OWNER)
    with pytest.raises(JobNotFound, match=f"program {other.pid}"):
        await jobs.left.end(environment, other.pid, owner=OWNER)
    assert guest.dying == {other.pid}


async def test_the_guest_is_asked_only_if_something_was_left_running(
    here: World, jobs: JobService
) -> None:
    environment = (await here.created()).id
    guest = here.host.only
    await (await start(jobs, environment, "echo")).wait(LONG)
    guest.left = Left((Program(1, "unknown", "x"),), 1)
    assert (await jobs.left.look(environment, owner=OWNER, always=False)).count == 0
    assert (await jobs.left.look(environment, owner=OWNER)).programs[0].job is None
    assert (await jobs.left.look(environment, owner=OWNER, always=False)).count == 1
    guest.left = Left()
    for _ in range(2):
        assert (await jobs.left.look(environment, owner=OWNER, always=False)).count == 0
    here.clock.advance(minutes=1)
    before = here.get(environment).last_used_at
    await jobs.left.look(environment, owner=OWNER)
    assert here.get(environment).last_used_at == before


async def test_nothing_is_listed_if_the_guest_cannot_answer(here: World, jobs: JobService) -> None:
    environment = (await here.created()).id
    await (await start(jobs, environment, "leave server")).wait(LONG)
    here.host.only.file_error = GuestLost("gone")
    assert (await jobs.left.look(environment, owner=OWNER)).count == 0
    here.host.only.file_error = None
    assert (await jobs.left.look(environment, owner=OWNER)).count == 1
    await here.service.pause(environment, owner=OWNER, to_disk=False)
    assert (await jobs.left.look(environment, owner=OWNER)).count == 0
    with pytest.raises(NotFound):
        await jobs.left.look(environment, owner="somebody else")
