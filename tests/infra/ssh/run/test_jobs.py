# SPDX-License-Identifier: Apache-2.0
"""Jobs of guests that misbehave: silent, broken, refusing, endless."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import anyio
import asyncssh
import pytest
from structlog.testing import capture_logs
from tests.infra.ssh.peer import Peer, Process, peer
from tests.infra.ssh.run.frames import END, frame
from tests.infra.ssh.run.processes import hang, refuse
from tests.support.jobs import job
from tests.support.vm import command
from tests.support.waiting import until

from waggle.domain.errors import GuestLost, JobNotFound, TimedOut
from waggle.domain.programs.guest_job import Attributes, Terminal
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run.following import CONTEXT_ENDED
from waggle.infra.ssh.run.jobs import ATTEMPTS, GuestJobs
from waggle.infra.ssh.run.requests import JobRequests
from waggle.tasks import end

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
PATIENCE = (0.3, 0.3)
START = frame(b"s")


@contextlib.asynccontextmanager
async def jobs(run: Process, kill: Process | None = None) -> AsyncGenerator[tuple[Peer, GuestJobs]]:
    async with peer(run, kill=kill) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        try:
            yield made, GuestJobs(connection, patience=PATIENCE)
        finally:
            await connection.aclose()


def answering(*data: bytes) -> Process:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for piece in data:
            process.stdout.write(piece)
        process.exit(0)

    return run


async def test_a_broken_connection_is_followed_from_where_it_broke() -> None:
    answers = [START + frame(b"o", b"abc"), START + frame(b"o", b"def") + frame(b"x", END)]

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(answers.pop(0))
        if answers:
            await process.stdout.drain()
        process.exit(0)

    async with jobs(run) as (made, guest):
        result = await guest.attend(wanted := job(command("x", timeout=10)))
    assert (result.exit_code, result.stdout.head) == (3, b"abcdef")
    assert made.commands == [f"start {wanted.id}", f"follow {wanted.id} 3 0 0"]


async def test_a_start_is_repeated_until_the_guest_has_it_and_then_given_up() -> None:
    wanted = job(command("x", timeout=10))
    async with jobs(answering()) as (made, guest):
        with pytest.raises(GuestLost, match="connection to the guest broke"):
            await guest.attend(wanted)
    assert made.commands == [f"start {wanted.id}"] * ATTEMPTS


@pytest.mark.parametrize("bad", [frame(b"q"), frame(b"x", END) + b"more", frame(b"O", b"0")])
async def test_an_invalid_answer_ends_the_job_as_lost_or_ended(bad: bytes) -> None:
    async with jobs(answering(bad)) as (made, guest):
        with contextlib.suppress(GuestLost):
            await guest.attend(job(command("x", timeout=10)))
        assert len(made.commands) == 1


@pytest.mark.parametrize("kill", [hang, refuse])
async def test_a_kill_that_is_not_obeyed_is_bounded(kill: Process) -> None:
    async with jobs(hang, kill) as (made, guest):
        began = time.monotonic()
        with pytest.raises(GuestLost, match="does not answer to have it killed"):
            await guest.attend(job(command("x", timeout=0.2)))
        assert time.monotonic() - began < 0.2 + sum(PATIENCE) + 3
        assert len(made.kills()) == 2


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_job_that_is_not_killed_is_logged_unless_its_machine_has_ended(
    has_ended: bool,
) -> None:
    async with peer(hang, kill=refuse) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        guest = GuestJobs(connection, patience=PATIENCE)
        with capture_logs() as logs:
            async with anyio.create_task_group() as group:
                group.start_soon(guest.attend, job(command("x", timeout=60)))
                await until(lambda: bool(made.commands))
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    if has_ended:
                        await connection.aclose()
        await connection.aclose()
    logged = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert logged == ([] if has_ended else ["job_not_killed"])


async def test_code_in_a_context_is_interrupted_before_its_context_is_killed() -> None:
    context = "0" * 8 + "-0000-4000-8000-000000000001"

    async with jobs(hang, refuse) as (made, guest):
        cell = job(command("x", timeout=0.2), Attributes(context=context, interrupts=1))
        with pytest.raises(GuestLost):
            await guest.attend(cell)
    asked = [words for words in made.commands if not words.startswith(("start", "follow"))]
    assert asked == [f"signal {cell.id} 2", *[f"kill {context}"] * 2]


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_job_that_has_ended_is_never_killed(hangs_up: bool) -> None:
    """Its context, and what it left running, live on when its output is not sent in time."""
    context = "0" * 8 + "-0000-4000-8000-000000000001"
    async with jobs(hang, refuse) as (made, guest):
        cell = job(command("x", timeout=0.2), Attributes(context=context))
        cell.is_started = cell.has_ended = True
        with anyio.move_on_after(0.05 if hangs_up else 10), pytest.raises(GuestLost):
            await guest.attend(cell)
    assert made.commands in ([], [f"follow {cell.id} 0 0 0"])


async def test_an_ended_job_that_its_guest_has_forgotten_is_not_found() -> None:
    async def forget(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(b"waggle: no such job\n")
        process.exit(125)

    async with jobs(forget) as (_, guest):
        forgotten = job(command("x", timeout=10))
        forgotten.is_started = forgotten.has_ended = True
        with pytest.raises(JobNotFound):
            await guest.attend(forgotten)


async def test_an_interrupt_that_ends_the_context_loses_it() -> None:
    context = "0" * 8 + "-0000-4000-8000-000000000001"
    ended = START + frame(b"x", f"signal {CONTEXT_ENDED}\nelapsed 5\n".encode())
    questions: list[str] = []

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        questions.append(process.command or "")
        if questions[-1].startswith("start"):
            process.stdout.write(START)
            await hang(process)
        if questions[-1].startswith("follow"):
            process.stdout.write(ended)
        process.exit(0)

    async with jobs(run) as (_, guest):
        cell = job(command("x", timeout=0.2), Attributes(context=context))
        result = await guest.attend(cell)
    assert (result.timed_out, result.context_ended) == (True, True)


async def test_code_that_ends_as_it_is_interrupted_again_keeps_its_context() -> None:
    """On a busy host the news of its end may take longer than the first interrupt is waited for."""
    follows = 0

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal follows
        command = process.command or ""
        if command.startswith("signal"):
            process.exit(1 if follows else 0)
            return
        follows += command.startswith("follow")
        process.stdout.write(START + (frame(b"x", END) if follows > 1 else b""))
        if follows < 2:
            await hang(process)
        process.exit(0)

    async with jobs(run) as (made, guest):
        cell = job(command("x", timeout=0.2), Attributes(context="c"))
        result = await guest.attend(cell)
    assert (result.timed_out, result.context_ended) == (True, False)
    assert not any(words.startswith("kill") for words in made.commands)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_code_that_an_interrupt_ends_keeps_its_context(cancelled: bool) -> None:
    begun, interrupted = anyio.Event(), anyio.Event()

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        if (process.command or "").startswith("signal"):
            interrupted.set()
        elif (process.command or "").startswith("start"):
            process.stdout.write(START + frame(b"o", b"on\n"))
            begun.set()
            await interrupted.wait()
            await hang(process)
        else:
            process.stdout.write(START + frame(b"o", b"KeyboardInterrupt\n") + frame(b"x", END))
        process.exit(0)

    cell = job(command("x", timeout=60 if cancelled else 0.5), Attributes(context="c"))
    async with jobs(run) as (made, guest):
        attending = asyncio.ensure_future(guest.attend(cell))
        await begun.wait()
        if cancelled:
            await end(attending)
        else:
            result = await attending
            assert (result.timed_out, result.context_ended) == (True, False)
    assert cell.streams.stdout.output().text() == "on\nKeyboardInterrupt\n"
    assert not cell.lost_context
    assert made.commands[1:] == [f"signal {cell.id} 2", f"follow {cell.id} 3 0 0"]


async def test_a_jobs_time_stops_while_the_machine_is_paused() -> None:
    begun, go_on = anyio.Event(), anyio.Event()

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(START)
        begun.set()
        await go_on.wait()
        process.stdout.write(frame(b"x", END))
        process.exit(0)

    wanted = job(command("x", timeout=1.0))
    async with jobs(run) as (_, guest):
        attending = asyncio.ensure_future(guest.attend(wanted))
        await begun.wait()
        guest.set_paused(True)
        await anyio.sleep(1.1)  # longer than the timeout: nothing may happen
        assert not attending.done()
        guest.set_paused(False)
        go_on.set()
        assert not (await attending).timed_out
    assert 0 < wanted.remaining <= 1.0


async def test_input_that_is_not_read_and_questions_that_are_not_answered_have_their_time() -> None:
    async with peer(hang) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        requests = JobRequests(connection, seconds=0.3)
        with anyio.fail_after(10):
            with pytest.raises(TimedOut, match="did not read all of its input"):
                await requests.write("x", bytes(1 << 20), close=False)
            for asked in (requests.signal("x", 2), requests.resize("x", Terminal())):
                with pytest.raises(GuestLost, match="does not answer about its jobs"):
                    await asked
        await connection.aclose()
    assert made.commands == ["input x", "signal x 2", "resize x 24 80"]


async def test_endless_output_is_cut_and_ends_with_the_timeout() -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(START)
        while True:
            process.stdout.write(frame(b"o", b"x" * 30_000))
            await process.stdout.drain()

    async with jobs(run) as (_, guest):
        wanted = job(command("x", timeout=0.5))
        with pytest.raises(GuestLost), anyio.fail_after(10):
            await guest.attend(wanted)
    assert wanted.streams.stdout.output().total == wanted.offsets[0] > 0


@pytest.mark.parametrize("answer", [b"", b"all 1\n", b"x" * 500_000, b"all 0\nmore"])
async def test_an_invalid_list_is_refused(answer: bytes) -> None:
    async with jobs(answering(answer)) as (_, guest):
        with pytest.raises(GuestLost, match="invalid form"):
            await guest.all()


async def test_no_answer_to_a_signal_is_a_lost_guest() -> None:
    async def close(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.close()

    async with jobs(close) as (_, guest):
        with pytest.raises(GuestLost, match="before it answered"):
            await guest.signal("x", 2)
