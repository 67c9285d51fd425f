# SPDX-License-Identifier: Apache-2.0
"""Contexts whose guest is hostile or full: cells end all the same, and others are not harmed."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.support.contexts import BUSYBOX, Interpreter
from tests.support.ssh_flood import resident
from tests.support.vm import root

from waggle.service.local.guest import LocalGuest

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]


@pytest.fixture
async def own(guest: LocalGuest) -> AsyncGenerator[Interpreter]:
    """A shell that a test may harm."""
    made = await Interpreter.begin(guest, BUSYBOX)
    assert await made.prints("X=1; echo $X") == "1\n"
    yield made
    await made.end()


def place(made: Interpreter) -> str:
    return f"/.waggle/run/jobs/{made.job.id}"


async def driver(made: Interpreter) -> str:
    return (await made.prints("echo $$")).strip()


SPIN = "echo on; while :; do :; done"


async def test_a_driver_that_is_killed_ends_its_cell(own: Interpreter) -> None:
    pid = await driver(own)
    running = own.start(SPIN)
    await running.printed("on")
    await root(own.guest, f"kill -9 {pid}")
    cell = await running.ended()
    assert (cell.result.context_ended, cell.out) == (True, "on\n")
    assert (await own.ends).signal == "SIGKILL"


async def test_a_driver_that_is_stopped_is_ended_at_the_timeout(own: Interpreter) -> None:
    await root(own.guest, f"kill -STOP {await driver(own)}")
    cell = await own.cell("echo on", timeout=2, interrupts=1)
    assert (cell.result.timed_out, cell.result.context_ended, cell.out) == (True, True, "")
    assert (await own.ends).signal == "SIGKILL"


async def test_garbage_for_answers_is_no_answer(own: Interpreter) -> None:
    await root(own.guest, "mkfifo -m 666 /tmp/go")
    running = own.start("echo on; read -r line </tmp/go; echo off; (exit 9)")
    await running.printed("on")
    garbage = (
        f"cd {place(own)}; head -c 100000 /dev/urandom >answer; "
        "for i in 1 2 3; do echo '00000000-0000-0000-0000-000000000000 5' >answer; done; "
        f"printf '%s' {'x' * 500} >answer; echo >answer; echo >/tmp/go; rm /tmp/go"
    )
    await root(own.guest, garbage)
    cell = await running.ended()
    assert (cell.code, cell.out) == (9, "on\noff\n")
    assert await own.prints("echo $X") == "1\n"


async def test_a_driver_that_floods_harms_neither_cells_nor_the_server(own: Interpreter) -> None:
    """In its answers while a cell runs, and in what it prints between cells."""
    pid = await driver(own)
    running = own.start("echo on; /.waggle/bin/busybox sleep 2; (exit 9)")
    await running.printed("on")
    await root(own.guest, f"cd {place(own)}; timeout 4 yes >answer || true")
    cell = await running.ended()
    assert (cell.code, cell.out) == (9, "on\n")
    before = resident()
    await root(own.guest, f"timeout 4 yes flood >/proc/{pid}/fd/1 || true")
    assert await own.prints("echo $X") == "1\n"
    assert own.spools[0].total > 1 << 20
    assert resident() - before < 32


async def test_requests_that_others_write_are_no_requests(own: Interpreter) -> None:
    lines = "x '' '0 0 0' '-- 1 /etc' '../../x 1 /' '0-0 99999999999 /tmp'"
    write = f"for line in {lines}; do echo $line >ask; done; head -c 50000 /dev/urandom >ask"
    await root(own.guest, f"cd {place(own)}; {write}; echo >ask")
    assert await own.prints("echo $X") == "1\n"


REPLACED = {
    "gone": "rm ask answer",
    "files": "rm ask answer; echo x >ask; echo x >answer",
    "endless": "rm answer; ln -s /dev/zero answer",
    "directories": "rm ask answer; mkdir ask answer",
    "nobody reads": "rm ask; mkfifo ask",
    "no socket": "rm socket",
    "no state": "rm state",
    "an empty state": "rm state; : >state",
}


@pytest.mark.parametrize("name", REPLACED)
async def test_what_root_replaces_ends_a_cell_and_harms_nothing_else(
    own: Interpreter, name: str
) -> None:
    other = await Interpreter.begin(own.guest, BUSYBOX)
    await root(own.guest, f"cd {place(own)}; {REPLACED[name]}")
    cell = await own.cell("echo ran", timeout=5, interrupts=1)
    assert cell.out == ""
    assert cell.result.context_ended
    assert await other.prints("echo fine") == "fine\n"
    await other.end()


async def test_an_answer_fifo_that_is_replaced_gives_no_answer(own: Interpreter) -> None:
    await root(own.guest, f"cd {place(own)}; rm answer; mkfifo answer; chmod 666 answer")
    cell = await own.cell("echo ran", timeout=2, interrupts=1)
    assert (cell.result.timed_out, cell.result.context_ended) == (True, True)


async def test_a_full_disk_keeps_cells_and_state(own: Interpreter) -> None:
    full = "dd if=/dev/zero of=/fill bs=1M 2>/dev/null; dd if=/dev/zero of=/fill2 bs=1k 2>/dev/null"
    await root(own.guest, f"{full}; true")
    try:
        assert await own.prints("echo $X") == "1\n"
        cell = await own.cell("/.waggle/bin/busybox head -c 3000000 /dev/zero; echo END")
        assert cell.code == 0
        assert cell.result.stdout.total == 3_000_004
    finally:
        await root(own.guest, "rm -f /fill /fill2")
    assert await own.prints("echo $X") == "1\n"


async def test_no_room_for_code_fails_the_cell_and_keeps_the_context(own: Interpreter) -> None:
    await root(own.guest, "dd if=/dev/zero of=/run/code/fill bs=4k 2>/dev/null; true")
    try:
        cell = await own.cell("echo ran # " + "x" * 200_000)
        assert (cell.code, cell.out) == (125, ""), cell
        assert "No space left" in cell.err
    finally:
        await root(own.guest, "rm -f /run/code/fill")
    assert await own.prints("echo $X") == "1\n"


async def test_clock_jumps_do_not_matter(own: Interpreter) -> None:
    running = own.start("echo on; /.waggle/bin/busybox sleep 2; echo off", timeout=60)
    await running.printed("on")
    now = int(await root(own.guest, "date +%s"))
    await root(own.guest, f"date -s @{now + 400 * 86_400} >/dev/null")
    await root(own.guest, "date -s @86400 >/dev/null")
    try:
        cell = await running.ended()
        assert (cell.code, cell.out) == (0, "on\noff\n")
        cell = await own.cell(SPIN, timeout=2)
        assert (cell.result.timed_out, cell.result.context_ended) == (True, False)
        assert await own.prints("echo $X") == "1\n"
    finally:
        await root(own.guest, f"date -s @{now + 5} >/dev/null")


async def test_a_hundred_contexts_one_after_the_other_leave_nothing(guest: LocalGuest) -> None:
    for _ in range(100):
        made = await Interpreter.begin(guest, BUSYBOX)
        cell = await made.cell("exit 3")
        assert cell.result.context_ended
        assert (await made.ends).exit_code == 3
        await made.end()
    kept = await root(guest, "ls /.waggle/run/jobs | wc -l")
    assert int(kept) <= 128
    assert await root(guest, "pgrep -f context.sh | wc -l") in ("0\n", "1\n")
