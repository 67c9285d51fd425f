# SPDX-License-Identifier: Apache-2.0
"""Code in contexts: what stays, and in which order it runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from tests.service.contexts import Rig
from tests.service.executing import LIMITS, RUNTIMES
from tests.service.pausing import paused
from tests.service.world import LONG, OWNER, settle, world

from waggle.domain.errors import InvalidArgument, TooManyJobs
from waggle.domain.programs import GuestUser
from waggle.domain.programs.context import MAX_CONTEXTS
from waggle.domain.programs.guest_job import FoundJob
from waggle.domain.programs.job import JobKind, JobState
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.starting import MAX_RUNNING
from waggle.service.programs.surroundings import Surroundings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    async with world() as here:
        yield Rig(here, await here.created())


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
