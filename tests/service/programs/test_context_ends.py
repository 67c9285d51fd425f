# SPDX-License-Identifier: Apache-2.0
"""The ends of contexts, and of the code in them: exits, crashes, timeouts, kills, lost clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.service.contexts import Rig, code_of
from tests.service.world import LONG, settle, world

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.errors import GuestLost
from waggle.domain.programs.job import JobState

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    async with world() as here:
        yield Rig(here, await here.created())


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
