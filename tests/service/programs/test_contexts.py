# SPDX-License-Identifier: Apache-2.0
"""Code in contexts: what stays, in which order it runs, and what becomes of a context."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from tests.service.executing import LIMITS, RUNTIMES
from tests.service.pausing import paused
from tests.service.world import LONG, OWNER, World, settle, world
from tests.support.fake_contexts import FakeContext

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.environment import Environment
from waggle.domain.errors import GuestLost, InvalidArgument, TooManyJobs
from waggle.domain.programs import GuestUser
from waggle.domain.programs.context import MAX_CONTEXTS
from waggle.domain.programs.guest_job import FoundJob
from waggle.domain.programs.job import JobKind, JobState, JobView
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.programs import Job
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.starting import MAX_RUNNING
from waggle.service.programs.surroundings import Surroundings

pytestmark = pytest.mark.anyio


class Rig:
    """An environment with contexts."""

    def __init__(self, here: World, environment: Environment) -> None:
        self.here, self.environment = here, environment
        self.jobs = here.jobs()
        self.execution = ExecutionService(here.service, self.jobs, RUNTIMES, LIMITS)

    async def start(self, code: str, context: str | None = "main", **how: object) -> Job:
        return await self.execution.execute(
            self.environment.id,
            code,
            owner=OWNER,
            context=context,
            **{"language": "python", **how},  # pyright: ignore[reportArgumentType]
        )

    async def run(self, code: str, context: str | None = "main", **how: object) -> JobView:
        return await (await self.start(code, context, **how)).attend(LONG)

    async def get(self, number: int) -> Job:
        return await self.jobs.get(self.environment.id, number, owner=OWNER)

    @property
    def context(self) -> FakeContext:
        """The newest interpreter in the guest."""
        return list(self.here.host.only.contexts.values())[-1]


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    async with world() as here:
        yield Rig(here, await here.created())


def code_of(view: JobView) -> str:
    return view.diagnosis.code if view.diagnosis else ""


async def test_variables_stay_in_a_context_and_nowhere_else(rig: Rig) -> None:
    assert (await rig.run("set x 41")).exit_code == 0
    assert (await rig.run("get x")).stdout.text() == "41\n"
    assert (await rig.run("get x", "other")).exit_code == 1
    assert (await rig.run("get x", None)).exit_code == 1
    assert (await rig.run("get x", user=GuestUser.ROOT)).exit_code == 1
    assert (await rig.run("get x", language="shell")).exit_code == 1
    assert (await rig.run("get x", " main ")).stdout.text() == "41\n"
    briefs = await rig.jobs.list(rig.environment.id, owner=OWNER)
    assert [brief.summary for brief in briefs if brief.kind is JobKind.CONTEXT] == [
        "python main",
        "python other",
        "python main of root",
        "shell main",
    ]


async def test_the_interpreter_is_that_of_the_language_and_gets_no_code(rig: Rig) -> None:
    await rig.run("echo x", language="shell", how=Surroundings(5, "/tmp", {"A": "1"}, "in"))
    driver, cell = (rig.here.host.only.kept[job].job for job in rig.here.host.only.attended)
    assert driver.command.argv == cell.command.argv == ("bash", "/.waggle/runners/context.sh")
    assert (driver.command.code, driver.command.env, driver.command.cwd) == (None, {}, None)
    assert driver.attributes.has_driver
    assert not driver.attributes.context
    assert (cell.command.code, cell.command.env, cell.command.cwd) == (
        b"echo x",
        {"A": "1"},
        "/tmp",
    )
    assert (cell.command.stdin, cell.remaining) == (b"in", 5)
    assert cell.attributes.context == driver.id
    assert cell.attributes.has_displays


async def test_cells_of_a_context_run_in_the_order_in_which_they_came(rig: Rig) -> None:
    first = await rig.start("hang\nset x 1")
    second = await rig.start("get x\nset x 2")
    third = await rig.start("get x")
    other = await rig.run("set y 0", "other")
    assert other.exit_code == 0
    await settle()
    assert all(job.is_running for job in (first, second, third))
    assert len(rig.here.host.only.contexts) == 2
    rig.here.host.only.release.set()
    for job in (first, second, third):
        await job.wait(LONG)
    assert second.view().stdout.text() == "1\n"
    assert third.view().stdout.text() == "2\n"


async def test_the_time_of_a_cell_counts_from_when_its_turn_comes(rig: Rig) -> None:
    first = await rig.start("hang", how=Surroundings(100))
    second = await rig.start("hang", how=Surroundings(60))
    await settle()
    began = rig.here.clock()
    assert first.view().ends_at == began + timedelta(seconds=100)
    rig.here.clock.advance(seconds=90)
    waiting = second.view()
    assert (waiting.is_queued, waiting.ends_at, waiting.duration) == (True, None, 0)
    await paused(rig.here, rig.environment, to_disk=False)
    rig.here.clock.advance(hours=1)
    assert (first.view().duration, second.view().duration) == (90, 0)
    await rig.here.service.resume(rig.environment.id, owner=OWNER)
    await first.kill()
    await settle()
    running = second.view()
    assert (running.is_queued, running.duration) == (False, 0)
    assert running.ends_at == rig.here.clock() + timedelta(seconds=60)
    rig.here.clock.advance(seconds=7)
    assert second.view().duration == 7
    await second.kill()
    assert second.view().ends_at is None


async def test_the_number_of_contexts_is_limited_and_the_error_names_them(rig: Rig) -> None:
    for number in range(MAX_CONTEXTS - 1):
        await rig.run("set x 1", f"c{number}")
    await rig.run("set x 1", "c0", user=GuestUser.ROOT)
    with pytest.raises(TooManyJobs) as caught:
        await rig.start("set y 0", "one-more")
    assert "python c0 (job 1)" in caught.value.message
    assert "python c0 of root (job 15)" in caught.value.message
    assert "read_job" in caught.value.hint
    assert (await rig.run("get x", "c6")).exit_code == 0
    await (await rig.get(1)).kill()
    assert (await rig.run("set y 0", "one-more")).exit_code == 0


async def test_an_interpreter_does_not_begin_when_its_code_may_not(rig: Rig) -> None:
    for _ in range(MAX_RUNNING):
        await rig.start("hang", None)
    with pytest.raises(TooManyJobs):
        await rig.start("set x 1")
    briefs = await rig.jobs.list(rig.environment.id, owner=OWNER)
    assert not [brief for brief in briefs if brief.kind is JobKind.CONTEXT]


async def test_code_in_a_context_is_interrupted_by_signals_and_takes_no_others(rig: Rig) -> None:
    job = await rig.start("hang")
    await settle()
    control = rig.jobs.control
    for name in ("KILL", "STOP", "USR1"):
        with pytest.raises(InvalidArgument, match="code in the python context main"):
            await control.signal(job, name, owner=OWNER)
    await control.signal(job, "INT", owner=OWNER)
    await control.signal(job, "sigterm", owner=OWNER)
    assert rig.here.host.only.signals == [(job.run_id, 2)] * 2
    newest = rig.jobs.newest(rig.environment.id, 9, owner=OWNER)
    (context,) = (one for one in newest if one.is_context)
    await control.signal(context, "USR1", owner=OWNER)
    assert rig.here.host.only.signals[-1] == (context.run_id, 10)


async def test_contexts_do_not_count_as_running_jobs_nor_as_work(rig: Rig) -> None:
    await rig.run("set x 1")
    assert rig.here.get(rig.environment.id).running_jobs == 0
    for _ in range(MAX_RUNNING):
        await rig.start("hang", None)
    with pytest.raises(TooManyJobs):
        await rig.start("get x")
    rig.here.clock.advance(days=1)
    rig.here.host.only.release.set()
    await settle()
    assert rig.here.get(rig.environment.id).running_jobs == 0
    rig.here.clock.advance(days=1)
    assert await rig.here.service.retire(rig.environment.id)


@pytest.mark.parametrize("context", ["", "../x", "x" * 10_000, "a b"])
async def test_a_wrong_name_begins_nothing(rig: Rig, context: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be the name of a context"):
        await rig.start("set y 0", context)
    assert (await rig.jobs.list(rig.environment.id, owner=OWNER)) == ()


async def test_an_interpreter_without_a_driver_begins_nothing(rig: Rig) -> None:
    runtimes = {**RUNTIMES}
    runtimes[RuntimeName.PYTHON] = replace(
        RUNTIMES[RuntimeName.PYTHON], exec_command=("pypy3", "{file}")
    )
    rig.execution = ExecutionService(rig.here.service, rig.jobs, runtimes, LIMITS)
    with pytest.raises(InvalidArgument, match="no contexts for pypy3"):
        await rig.start("set y 0")
    assert (await rig.jobs.list(rig.environment.id, owner=OWNER)) == ()
    assert (await rig.run("echo x", language="shell")).exit_code == 0


@pytest.mark.parametrize(
    "line, exit_code, signal, why",
    [
        ("quit 3", 3, None, "it exited with code 3"),
        ("quit 0", 0, None, "it exited with code 0"),
        ("crash SIGSEGV", None, "SIGSEGV", "it was ended by SIGSEGV"),
    ],
)
async def test_code_that_ends_its_context_ends_as_that_and_the_next_call_begins_anew(
    rig: Rig, line: str, exit_code: int | None, signal: str | None, why: str
) -> None:
    await rig.run("set x 1")
    view = await rig.run(line)
    assert (view.exit_code, view.signal) == (exit_code, signal)
    assert code_of(view) == "context_ended"
    assert view.diagnosis
    assert why in view.diagnosis.cause
    assert "variables are lost" in view.diagnosis.cause
    again = await rig.run("get x")
    assert (again.exit_code, code_of(again)) == (1, "")
    assert len(rig.here.host.only.contexts) == 2


async def test_a_context_that_ran_out_of_memory_says_so_with_a_next_step(rig: Rig) -> None:
    rig.here.host.only.diagnosis = Diagnosis("out_of_memory", "Out of memory.", "Use memory_mb.")
    view = await rig.run("crash SIGKILL")
    assert view.diagnosis
    assert "(Out of memory), and its variables are lost" in view.diagnosis.cause
    assert view.diagnosis.next_step.startswith("Use memory_mb. The next call")


async def test_cells_that_wait_when_their_context_ends_say_so_too(rig: Rig) -> None:
    await rig.run("set x 1")
    first = await rig.start("hang")
    second = await rig.start("get x")
    await rig.here.host.only.started.wait()
    rig.context.end(signal="SIGTERM")
    for job in (first, second):
        await job.wait(LONG)
        assert (code_of(job.view()), job.view().signal) == ("context_ended", "SIGTERM")


async def test_a_context_that_takes_no_code_any_more_is_ended(rig: Rig) -> None:
    await rig.run("set x 1")
    old = rig.context
    old.is_deaf = True
    view = await rig.run("get x")
    assert code_of(view) == "context_ended"
    assert view.diagnosis
    assert "(it does not take code any more)" in view.diagnosis.cause
    assert old.ended.is_set()
    assert (await rig.run("set x 2")).exit_code == 0


async def test_a_timeout_interrupts_and_keeps_the_context(rig: Rig) -> None:
    view = await rig.run("set x 1\ntimeout")
    assert (view.state, code_of(view)) == (JobState.TIMED_OUT, "interrupted")
    assert (await rig.run("get x")).stdout.text() == "1\n"


async def test_a_timeout_of_code_that_ignores_it_ends_the_context(rig: Rig) -> None:
    view = await rig.run("set x 1\nignore\ntimeout")
    assert (view.state, code_of(view)) == (JobState.TIMED_OUT, "context_ended")
    assert view.diagnosis
    assert "did not react to an interrupt" in view.diagnosis.cause
    assert (await rig.run("get x")).exit_code == 1


async def test_a_kill_interrupts_and_keeps_the_context(rig: Rig) -> None:
    await rig.run("set x 1")
    job = await rig.start("hang")
    await rig.here.host.only.started.wait()
    await job.kill()
    assert (job.view().state, code_of(job.view())) == (JobState.KILLED, "interrupted")
    assert (await rig.run("get x")).stdout.text() == "1\n"


async def test_a_kill_of_code_that_ignores_it_ends_the_context(rig: Rig) -> None:
    job = await rig.start("set x 1\nignore\nhang")
    await rig.here.host.only.started.wait()
    await job.kill()
    assert (job.view().state, code_of(job.view())) == (JobState.KILLED, "context_ended")
    assert job.context
    assert not job.context.is_running
    assert (await rig.run("get x")).exit_code == 1


async def test_a_kill_of_code_that_waits_for_its_turn_leaves_the_context_alone(rig: Rig) -> None:
    first = await rig.start("hang\nset x 1")
    waiting = await rig.start("set x 2")
    await rig.here.host.only.started.wait()
    await waiting.kill()
    assert (waiting.view().state, waiting.view().diagnosis) == (JobState.KILLED, None)
    rig.here.host.only.release.set()
    await first.wait(LONG)
    assert (await rig.run("get x")).stdout.text() == "1\n"


async def test_a_kill_of_a_plain_program_says_nothing_of_contexts(rig: Rig) -> None:
    job = await rig.start("hang", None)
    await rig.here.host.only.started.wait()
    await job.kill()
    assert (job.view().state, job.view().diagnosis) == (JobState.KILLED, None)


async def test_a_kill_of_the_context_ends_the_code_in_it(rig: Rig) -> None:
    job = await rig.start("hang")
    await rig.here.host.only.started.wait()
    await (await rig.get(1)).kill()
    await job.wait(LONG)
    view = job.view()
    assert (view.state, view.signal, code_of(view)) == (
        JobState.SIGNALED,
        "SIGKILL",
        "context_ended",
    )
    assert view.diagnosis
    assert "(it was killed)" in view.diagnosis.cause
    assert (await rig.run("set y 0")).exit_code == 0


async def test_a_client_that_hangs_up_interrupts_its_code_and_keeps_the_context(rig: Rig) -> None:
    await rig.run("set x 1")
    job = await rig.start("hang")
    calling = rig.here.start(job.attend(LONG))
    await rig.here.host.only.started.wait()
    calling.cancel()
    await calling.wait()
    assert (job.view().state, code_of(job.view())) == (JobState.KILLED, "interrupted")
    assert (await rig.run("get x")).stdout.text() == "1\n"


async def test_a_client_that_hangs_up_while_its_code_waits_leaves_the_rest_alone(rig: Rig) -> None:
    first = await rig.start("hang\nset x 1")
    await rig.here.host.only.started.wait()
    waiting = await rig.start("set x 2")
    third = await rig.start("get x")
    calling = rig.here.start(waiting.attend(LONG))
    await settle()
    calling.cancel()
    await calling.wait()
    assert (waiting.view().state, waiting.view().diagnosis) == (JobState.KILLED, None)
    assert first.is_running
    assert third.is_running
    rig.here.host.only.release.set()
    await third.wait(LONG)
    assert third.view().stdout.text() == "1\n"


async def test_a_client_that_hangs_up_before_its_context_has_begun(rig: Rig) -> None:
    job = await rig.start("set x 1")
    await job.kill()
    assert (job.view().state, job.view().diagnosis) == (JobState.KILLED, None)
    assert (await rig.run("get x")).exit_code == 1
    assert len(rig.here.host.only.contexts) == 1


async def test_a_context_that_cannot_begin_ends_the_code_with_its_error(rig: Rig) -> None:
    rig.here.host.only.run_error = GuestLost("no launcher")
    with pytest.raises(GuestLost):
        await rig.run("set y 0")
    rig.here.host.only.run_error = None
    assert (await rig.run("set y 0")).exit_code == 0


async def test_a_pause_keeps_contexts_and_the_code_in_them(rig: Rig) -> None:
    job = await rig.start("set x 1\nhang\nget x")
    guest = rig.here.host.only
    await guest.started.wait()
    await rig.here.service.pause(rig.environment.id, owner=OWNER, to_disk=False)
    assert job.view().is_paused
    guest.release.set()
    await rig.jobs.resume(job, owner=OWNER)
    await job.wait(LONG)
    assert (job.view().exit_code, job.view().stdout.text()) == (0, "1\n")
    assert (await rig.run("get x")).stdout.text() == "1\n"
    assert len(guest.contexts) == 1


async def test_a_copy_has_the_contexts_of_its_guest(rig: Rig) -> None:
    await rig.run("set x 1")
    cell = await rig.start("set y 2\nhang\nset z 3")
    guest = rig.here.host.only
    await guest.started.wait()
    guest.found = tuple(
        FoundJob(job.id, job.id != guest.attended[1], None, None, 1.0, (0, 0, 0), job.note)
        for job in (guest.kept[name].job for name in guest.attended)
    )
    guest.detached.set()  # the machine before has gone, and kills nothing
    guest.kept = {name: kept.copy() for name, kept in guest.kept.items()}
    await rig.jobs.adopt(rig.here.get(rig.environment.id), guest, anew=True)
    await settle()
    guest.detached = anyio.Event()
    await settle()
    assert cell.view().state is JobState.LOST
    adopted = await rig.get(cell.number)
    assert adopted is not cell
    assert adopted.context is await rig.get(1)
    waits = await rig.start("get z")
    await settle()
    assert waits.is_running
    guest.release.set()
    await waits.wait(LONG)
    assert (await rig.run("get x")).exit_code == 0
    assert len(await rig.jobs.list(rig.environment.id, owner=OWNER)) == 5
