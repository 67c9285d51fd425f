# SPDX-License-Identifier: Apache-2.0
"""Jobs on a real machine: they outlive connections and pauses, and their output is bounded."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest
from tests.support.jobs import again, job
from tests.support.vm import command, lines, root, sh

from waggle.domain.errors import GuestLost
from waggle.domain.programs import Command, GuestUser
from waggle.domain.programs.guest_job import Attributes, Detached, GuestJob, Terminal
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
BUSYBOX = "/.waggle/bin/busybox"
MIB = 1 << 20


async def started(guest: LocalGuest, made: GuestJob) -> asyncio.Task[object]:
    """Follow a job in a task, and return once the guest has it."""
    task: asyncio.Task[object] = asyncio.ensure_future(guest.attend(made))
    while not any(found.id == made.id for found in await guest.jobs()):
        pass
    return task


async def test_a_job_goes_on_when_its_connection_breaks(guest: LocalGuest) -> None:
    script = "echo one; killall -9 dropbear; echo two; sleep 0.2; echo three; exit 3"
    result = await guest.run(sh(script, user=GuestUser.ROOT))
    assert (result.stdout.text(), result.exit_code) == ("one\ntwo\nthree\n", 3)


async def test_a_job_is_paused_with_its_machine_and_followed_from_where_it_was(
    guest: LocalGuest,
) -> None:
    made = job(sh("i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.05; done"))
    task = await started(guest, made)
    await guest.pause()
    with pytest.raises(Detached):
        await task
    await guest.unpause()
    result = await guest.attend(made)
    assert lines(result) == [str(number) for number in range(1, 41)]


async def test_an_ended_job_can_be_read_again_and_is_listed_with_its_note(
    guest: LocalGuest,
) -> None:
    made = job(sh("echo out; echo err >&2; exit 7"), note=b'{"number": 3}')
    first = await guest.attend(made)
    second = await guest.attend(again(made))
    assert (second.stdout, second.stderr, second.exit_code) == (first.stdout, first.stderr, 7)
    (found,) = [found for found in await guest.jobs() if found.id == made.id]
    assert (found.is_running, found.exit_code, found.printed) == (False, 7, (4, 4, 0))
    assert found.note == b'{"number": 3}'


async def test_a_start_that_is_repeated_starts_nothing_again(guest: LocalGuest) -> None:
    made = job(sh("echo x >>/tmp/starts; cat /tmp/starts"))
    await guest.attend(made)
    made.is_started = False
    made.offsets = [0, 0, 0]
    assert lines(await guest.attend(made))[-1] == "x"
    assert await root(guest, "cat /tmp/starts") == "x\n"


@pytest.mark.parametrize("keep", [1 << 10, 3 * MIB])
async def test_a_flood_is_kept_at_both_ends_and_does_not_wait_for_a_reader(
    guest: LocalGuest, keep: int
) -> None:
    size = 8 * MIB
    made = job(sh(f"head -c {size} /dev/zero | tr '\\0' x; echo END"), Attributes(keep=keep))
    task = await started(guest, made)
    await guest.pause()
    with pytest.raises(Detached):
        await task
    await guest.unpause()
    await guest.attend(made)
    read = await guest.attend(again(made))
    assert read.stdout.total == size + 4
    assert read.stdout.tail.endswith(b"xEND\n") or read.stdout.head.endswith(b"xEND\n")
    kept = await root(guest, f"cat /.waggle/scratch/jobs/{made.id}.0 2>/dev/null | wc -c")
    assert int(kept) == max(0, keep - (64 << 10))


async def test_input_can_be_written_and_closed_later(guest: LocalGuest) -> None:
    wanted = Command((BUSYBOX, "cat"), 60.0, stdin=b"first\n")
    made = job(wanted, Attributes(keeps_input=True))
    task = await started(guest, made)
    assert await guest.write_input(made.id, b"second\n", close=False)
    assert await guest.write_input(made.id, b"x" * 200_000, close=True)
    result = await guest.attend(again(made))
    await task
    assert result.stdout.head.startswith(b"first\nsecond\nxx")
    assert result.stdout.total == len(b"first\nsecond\n") + 200_000
    assert not await guest.write_input(made.id, b"late", close=False)


async def test_a_program_without_open_input_takes_none(guest: LocalGuest) -> None:
    made = job(sh("cat; sleep 60"))
    task = await started(guest, made)
    assert not await guest.write_input(made.id, b"x", close=False)
    assert await guest.signal(made.id, 15)
    await task
    assert not await guest.signal(made.id, 15)


async def test_a_signal_reaches_the_programs_process_group(guest: LocalGuest) -> None:
    made = job(sh("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done"))
    task = asyncio.ensure_future(guest.attend(made))
    with anyio.fail_after(60):
        while not made.offsets[0]:
            await anyio.lowlevel.checkpoint()
    assert await guest.signal(made.id, 2)
    assert (await task).exit_code == 5


async def test_a_terminal_has_a_size_and_interprets_what_is_typed(guest: LocalGuest) -> None:
    shell = Command((BUSYBOX, "sh"), 60.0)
    made = job(shell, Attributes(terminal=Terminal(33, 101)))
    task = asyncio.ensure_future(guest.attend(made))
    with anyio.fail_after(60):
        while not made.offsets[0]:
            await anyio.lowlevel.checkpoint()
    typed = b"test -t 0 && test -t 1 && stty size; touch /tmp/sized\n"
    assert await guest.write_input(made.id, typed, close=False)
    await root(guest, "while [ ! -e /tmp/sized ]; do :; done")
    assert await guest.resize(made.id, Terminal(40, 120))
    assert await guest.write_input(made.id, b"stty size; sleep 100\n", close=False)
    await root(guest, "while ! pidof sleep; do :; done")
    assert await guest.write_input(made.id, b"\x03exit 4\n", close=False)
    result = await task
    shown = result.stdout.text()
    assert "33 101" in shown
    assert "40 120" in shown
    assert result.exit_code == 4


async def test_a_full_disk_takes_no_error_message_with_it(guest: LocalGuest) -> None:
    fill = "dd if=/dev/zero of=/big bs=1M 2>/dev/null; sync"
    await root(guest, fill)
    try:
        size = MIB
        script = f"head -c {size} /dev/zero | tr '\\0' x; echo why >&2; echo END"
        result = await guest.attend(job(sh(script), Attributes(keep=4 * MIB)))
        assert (result.stderr.text(), result.exit_code) == ("why\n", 0)
        assert result.stdout.total == size + 4
        assert result.stdout.tail.endswith(b"xEND\n")
    finally:
        await root(guest, "rm /big")


async def test_a_shim_that_root_killed_is_a_lost_guest(guest: LocalGuest) -> None:
    made = job(sh("sleep 31415; :"))
    task = await started(guest, made)
    find = "grep -l 'sleep 3141[5]' /proc/[0-9]*/cmdline | cut -d/ -f3"
    await root(guest, f"program=$({find}); kill -9 $(cut -d' ' -f4 /proc/$program/stat)")
    with pytest.raises(GuestLost):
        await task
    await root(guest, f"kill -9 $({find})")


async def test_a_job_whose_time_is_over_shows_what_it_printed(guest: LocalGuest) -> None:
    made = job(sh("echo so far; sleep 100", timeout=2.0))
    result = await guest.attend(made)
    assert (result.timed_out, result.stdout.text()) == (True, "so far\n")


async def test_the_oldest_ended_jobs_are_removed(guest: LocalGuest) -> None:
    running = await started(guest, job(command(BUSYBOX, "sleep", "300", timeout=300.0)))
    for _ in range(130):
        await guest.attend(job(command(BUSYBOX, "true")))
    found = await guest.jobs()
    assert 100 <= len(found) <= 128
    assert found[0].is_running
    running.cancel()
