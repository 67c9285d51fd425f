# SPDX-License-Identifier: Apache-2.0
"""Jobs on a real machine whose root, programs and clock do their worst, and many at once."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
from tests.support.jobs import again, job
from tests.support.vm import lines, root, sh

from waggle.domain.errors import GuestLost, TimedOut
from waggle.domain.programs import ExecutionResult, GuestUser
from waggle.domain.programs.display import MAX_RECORD_BYTES, parse_displays
from waggle.domain.programs.guest_job import Attributes, Detached, GuestJob, Terminal
from waggle.service.local.guest import LocalGuest
from waggle.tasks import end

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
JOBS = "/.waggle/run/jobs"
SOON = 30.0
"""Seconds in which the server gives up a shim that does not answer, on a busy machine."""


@asynccontextmanager
async def followed(
    guest: LocalGuest, made: GuestJob
) -> AsyncGenerator[asyncio.Future[ExecutionResult]]:
    """Follow a job in a task, from its first output on."""
    task = asyncio.ensure_future(guest.attend(made))
    try:
        with anyio.fail_after(60):
            while not made.offsets[0]:
                await anyio.lowlevel.checkpoint()
        yield task
    finally:
        await end(task)


def shim_of(made: GuestJob) -> str:
    """Return a script that sets `shim` to the pid of a job's shim: the parent of its program."""
    program = f"$(head -n 1 /.waggle/cgroup/run/{made.id}/cgroup.procs)"
    return f'shim=$(cut -d" " -f4 /proc/{program}/stat)'


async def ended(guest: LocalGuest, made: GuestJob) -> None:
    """Wait until a job that nobody need follow has ended."""
    with anyio.fail_after(60):
        while any(found.is_running for found in await guest.jobs() if found.id == made.id):
            pass


async def works(guest: LocalGuest) -> bool:
    return lines(await guest.run(sh("echo works"))) == ["works"]


async def test_a_stopped_shim_answers_nothing_and_its_job_can_be_killed(guest: LocalGuest) -> None:
    made = job(sh("echo begun; sleep 31401", timeout=200.0), Attributes(keeps_input=True))
    async with followed(guest, made) as task:
        await root(guest, f"{shim_of(made)}; kill -STOP $shim")
        for asked in (guest.signal(made.id, 15), guest.write_input(made.id, b"x", close=True)):
            with anyio.fail_after(SOON), pytest.raises(GuestLost, match="does not answer"):
                await asked
        assert any(found.is_running for found in await guest.jobs() if found.id == made.id)
        with anyio.fail_after(SOON):
            result = await guest.attend(again(made, timeout=1.0))
        assert (result.timed_out, result.stdout.text()) == (True, "begun\n")
        with pytest.raises(GuestLost, match="does not know"):
            await task
    assert not (await root(guest, "pgrep -f 'sleep 3140[1]' || true"))
    assert await works(guest)


async def test_requests_are_answered_while_the_program_prints(guest: LocalGuest) -> None:
    """A notice of output is not taken for the answer."""
    made = job(sh("trap '' USR1; yes"), Attributes(keeps_input=True))
    async with followed(guest, made):
        for _ in range(30):
            assert await guest.signal(made.id, 10)
            assert await guest.write_input(made.id, b"x", close=False)
        assert await guest.signal(made.id, 9)


async def test_input_follows_what_was_given_and_a_program_need_not_read_it(
    guest: LocalGuest,
) -> None:
    given = bytes(range(256)) * 3_000
    script = "echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; cat"
    wanted = sh(script, stdin=given, timeout=200.0)
    made = job(wanted, Attributes(keeps_input=True))
    async with followed(guest, made) as task:
        assert await guest.write_input(made.id, b"more", close=False)
        with pytest.raises(TimedOut, match="did not read"):
            await guest.write_input(made.id, bytes(1_000_000), close=False)
        with anyio.fail_after(60):
            while int(await root(guest, "ps | grep -c 'session -c inpu[t]' || true")):
                pass  # it gives up when nobody waits for it any more
        await root(guest, "touch /tmp/go")
        assert await guest.write_input(made.id, b"last", close=True)
        await task
    read = (await guest.attend(again(made))).stdout
    assert read.head.startswith(b"begun\n" + given[: len(read.head) - 6])
    assert read.tail.endswith(b"\0last")
    assert read.total > len(given) + len(b"begun\nmorelast")
    await root(guest, "rm /tmp/go")


async def test_more_may_follow_a_job_than_its_shim_has_places_for(guest: LocalGuest) -> None:
    made = job(sh("echo begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; seq 1000; sleep 0.5"))
    async with followed(guest, made):
        tasks = [asyncio.ensure_future(guest.attend(again(made))) for _ in range(20)]
        found = await guest.jobs()
        await root(guest, "touch /tmp/go")
        wanted = ["begun", *map(str, range(1, 1001))]
        for result in await asyncio.gather(*tasks):
            assert lines(result) == wanted
        assert made.id in {one.id for one in found}
    await root(guest, "rm /tmp/go")


async def test_sixteen_jobs_at_once_keep_all_they_print(guest: LocalGuest) -> None:
    jobs = [job(sh(f"for i in $(seq 200); do echo {n}-$i; done")) for n in range(16)]
    results = await asyncio.gather(*(guest.attend(made) for made in jobs))
    for number, result in enumerate(results):
        assert lines(result) == [f"{number}-{i}" for i in range(1, 201)]


async def test_a_job_that_is_started_twice_at_once_runs_once(guest: LocalGuest) -> None:
    for _ in range(5):
        first = job(sh("echo x >>/tmp/twice; cat /tmp/twice; rm /tmp/twice"))
        second = job(first.command)
        second.id = first.id
        for result in await asyncio.gather(guest.attend(first), guest.attend(second)):
            assert lines(result) == ["x"]


async def test_ten_megabytes_that_nobody_follows_are_counted_and_kept_at_both_ends(
    guest: LocalGuest,
) -> None:
    size = 10 << 20
    wait = "echo begun; while [ ! -e /tmp/print ]; do sleep 0.1; done"
    made = job(sh(f"{wait}; head -c {size} /dev/zero | tr '\\0' x; echo END"))
    async with followed(guest, made) as task:
        await guest.pause()
        with pytest.raises(Detached):
            await task
    await guest.unpause()
    await root(guest, "touch /tmp/print")
    await ended(guest, made)
    read = await guest.attend(again(made))
    assert read.stdout.total == len("begun\n") + size + len("END\n")
    assert read.stdout.head.startswith(b"begun\nxx")
    assert read.stdout.tail.endswith(b"xEND\n")
    await root(guest, "rm /tmp/print")


async def test_what_a_job_leaves_running_may_go_on_printing(guest: LocalGuest) -> None:
    daemon = "sleep 1; for i in $(seq 3000); do echo lost; done; echo done >/tmp/printed"
    result = await guest.attend(job(sh(f"({daemon}) & echo first")))
    assert result.stdout.text() == "first\n"
    assert result.left.count == 1
    with anyio.fail_after(60):
        while await root(guest, "cat /tmp/printed 2>/dev/null || true") != "done\n":
            pass
        while await root(guest, "ls /.waggle/cgroup/run | grep -c -- -") != "1\n":
            pass  # its cgroup ends with it


async def test_a_program_may_close_its_streams_or_daemonise(guest: LocalGuest) -> None:
    closing = await guest.attend(job(sh("echo out; exec 1>&- 2>&-; sleep 0.5; exit 3")))
    assert (closing.stdout.text(), closing.exit_code) == ("out\n", 3)
    result = await guest.attend(job(sh("setsid sleep 31402 <&- >&- 2>&- & echo out")))
    assert (result.stdout.text(), result.left.count) == ("out\n", 1)
    await guest.end_run(result.run_id)
    assert not (await root(guest, "pgrep -f 'sleep 3140[2]' || true"))


async def test_a_terminal_may_be_closed_and_opened_again(guest: LocalGuest) -> None:
    script = "echo one; exec 0<&- 1>&- 2>&-; sleep 0.5; echo two >/dev/tty; sleep 0.2"
    result = await guest.attend(job(sh(script), Attributes(terminal=Terminal())))
    assert result.stdout.text().split() == ["one", "two"]


async def test_a_clock_that_jumps_changes_no_duration_and_no_timeout(guest: LocalGuest) -> None:
    jump = "date -s @$(($(date +%s) {})) >/dev/null"
    made = job(sh("echo begun; sleep 2; echo end"))
    async with followed(guest, made) as task:
        await root(guest, jump.format("+ 86400"))
        await root(guest, jump.format("- 172800"))
        await task
    result = await guest.attend(again(made))
    assert 1.5 < result.duration < SOON
    began = time.monotonic()
    late = job(sh("echo begun; sleep 100", timeout=4.0))
    async with followed(guest, late) as task:
        await root(guest, jump.format("+ 86400"))
        await asyncio.wait({task})
    assert time.monotonic() - began < SOON
    assert (await guest.attend(job(sh("true")))).duration < SOON


async def _run_for_ever(guest: LocalGuest) -> None:
    while True:
        await guest.run(sh("true"))


async def test_a_full_file_system_of_jobs_refuses_new_ones_and_ends_none(
    guest: LocalGuest,
) -> None:
    fill = f"dd if=/dev/zero bs=4k 2>/dev/null >>{JOBS}/big"
    wait = f"while [ ! -e /home/sandbox/go ]; do sleep 0.1; {fill}; done"
    script = f"{fill}; echo begun; {wait}; seq 90000; rm {JOBS}/big; exit 5"
    made = job(sh(script, user=GuestUser.ROOT))
    async with followed(guest, made) as task:
        with anyio.fail_after(SOON), pytest.raises(GuestLost):
            await _run_for_ever(guest)  # jobs of earlier tests may still end, and free a little
        await guest.write_file("/home/sandbox/go", b"", 0o644)
        await asyncio.wait({task})
    read = await guest.attend(again(made))
    assert read.exit_code == 5
    assert read.stdout.total == len("begun\n") + sum(len(str(n)) + 1 for n in range(1, 90001))
    assert await works(guest)
    await root(guest, "rm /home/sandbox/go")


HARM = {
    "garbage": "head -c $(wc -c <state) /dev/urandom >state.new; mv state.new state",
    "a short state": ": >state",
    "no state": "rm state",
    "a directory": "rm state; mkdir state",
    "a link": "ln -sf /dev/zero state",
    "no output": "rm 0 1 2",
    "a device": "rm 0; mknod 0 c 1 5",
    "a pipe": "rm 0; mkfifo 0",
    "a full note": "head -c 100000 /dev/zero >note",
    "no socket": "rm socket",
    "nothing": "rm *",
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
async def test_a_job_whose_files_root_has_replaced_harms_no_other(
    guest: LocalGuest, harm: str
) -> None:
    made = job(sh("echo begun; sleep 100"))
    async with followed(guest, made):
        await root(guest, f"cd {JOBS}/{made.id} && {harm}")
        with anyio.fail_after(SOON), suppress(GuestLost):
            await guest.attend(again(made, timeout=1.0))
        assert await works(guest)
        with suppress(GuestLost):
            await guest.jobs()
        await root(guest, f"echo 1 >/.waggle/cgroup/run/{made.id}/cgroup.kill || true")
    await root(guest, f"rm -r {JOBS}/{made.id} || true")
    assert await works(guest)
    await guest.jobs()


async def test_a_kill_before_a_start_is_forgotten_in_the_end(guest: LocalGuest) -> None:
    run = str(uuid.uuid4())
    await root(guest, f"mkdir /.waggle/cgroup/run/{run}")
    assert await works(guest)
    assert await root(guest, f"ls /.waggle/cgroup/run | grep -c {run}") == "1\n"
    await root(guest, "date -s @$(($(date +%s) + 3600))")
    assert await works(guest)
    assert await root(guest, f"ls /.waggle/cgroup/run | grep -c {run} || true") == "0\n"


async def test_a_display_that_is_too_large_is_left_out_and_the_next_is_not(
    guest: LocalGuest,
) -> None:
    def head(size: int) -> str:
        return "".join(f"\\{byte:03o}" for byte in size.to_bytes(4, "big"))

    large, small = MAX_RECORD_BYTES + 1, json.dumps({"data": {"text/plain": "x"}})
    code = (
        f"{{ printf '{head(large)}'; head -c {large} /dev/zero; "
        f"printf '{head(len(small))}{small}'; }} >&$WAGGLE_DISPLAY"
    )
    made = job(sh(code), Attributes(has_displays=True))
    ended_job = await guest.attend(made)
    assert ended_job.exit_code == 0, ended_job.stderr.text()
    data = made.streams.display.output().head
    shown = parse_displays(lambda at, count: data[at : at + count], len(data))
    assert [dict(one.data) for one in shown.items] == [{"text/plain": "x"}]
    assert shown.dropped == 1
