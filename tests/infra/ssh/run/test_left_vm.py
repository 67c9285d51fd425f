# SPDX-License-Identifier: Apache-2.0
"""Programs left by a run in a real guest: they continue, block nothing, are reported and killed."""

from __future__ import annotations

import anyio
import pytest
from tests.support.vm import command, lines, root, sh

from waggle.domain.programs import ExecutionResult
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
BUSYBOX = "/.waggle/bin/busybox"
PROMPT = 20.0
"""Seconds, on a busy host, within which a call ends whose program ends at once."""
CHATTY = f"while :; do echo {'o' * 1000}; echo {'e' * 1000} >&2; echo x >>/dev/shm/lines; done"


async def gone(guest: LocalGuest) -> None:
    with anyio.fail_after(60):
        while (await guest.left_running()).count:
            pass


async def end_all(guest: LocalGuest, result: ExecutionResult) -> None:
    await guest.end_run(result.run_id)
    await gone(guest)


@pytest.mark.parametrize(
    "how",
    [
        "({0}) &",
        "trap '' HUP; ({0}) &",
        f"{BUSYBOX} setsid {BUSYBOX} sh -c '{{0}}' &",
        "( ( {0} ) & ) &",
    ],
    ids=["plain", "nohup", "setsid", "twice"],
)
async def test_a_background_program_continues_without_blocking_and_is_reported(
    guest: LocalGuest, how: str
) -> None:
    """It prints forever to its inherited streams, and would fill any pipe without a reader."""
    await root(guest, "rm -f /dev/shm/lines")
    with anyio.fail_after(PROMPT):
        result = await guest.run(sh("echo first; " + how.format(CHATTY)))
    assert result.exit_code == 0
    assert result.stdout.text().startswith("first\n")
    assert "waggle-left" not in result.stderr.text()
    assert result.left.count == len(result.left.programs) == 1
    (program,) = result.left.programs
    assert program.run_id == result.run_id
    assert program.command.startswith(BUSYBOX)
    assert (await guest.left_running()).of(result.run_id) == (program,)
    before = int(await root(guest, "wc -c </dev/shm/lines"))
    with anyio.fail_after(60):
        while int(await root(guest, "wc -c </dev/shm/lines")) < before + 400:
            pass
    await end_all(guest, result)
    assert not await guest.end_program(program.pid)


async def test_a_program_is_killed_with_its_descendants_and_no_other(guest: LocalGuest) -> None:
    tree = f"{BUSYBOX} sh -c '{BUSYBOX} sleep 1001 & {BUSYBOX} sleep 1002; :' &"
    result = await guest.run(sh(f"{tree} {BUSYBOX} sleep 1003 &"))
    assert [program.command for program in result.left.programs][1] == f"{BUSYBOX} sleep 1003"
    assert result.left.count == 2
    assert await guest.end_program(result.left.programs[0].pid)
    with anyio.fail_after(60):
        while (await guest.left_running()).count > 1:
            pass
    assert (await guest.left_running()).programs == result.left.programs[1:]
    seen = await root(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep 1001" not in seen
    assert "sleep 1002" not in seen
    await end_all(guest, result)


async def test_a_program_that_ends_soon_is_not_left_and_its_output_is_kept(
    guest: LocalGuest,
) -> None:
    result = await guest.run(sh(f"({BUSYBOX} usleep 50000; echo late) & echo early"))
    assert lines(result) == ["early", "late"]
    assert result.left.count == 0


async def test_some_of_many_programs_are_named_and_all_are_counted(guest: LocalGuest) -> None:
    script = f"for i in $(seq 30); do {BUSYBOX} sleep 1000 & done"
    result = await guest.run(sh(script))
    assert (len(result.left.programs), result.left.count) == (20, 30)
    assert len((await guest.left_running()).programs) == 30
    await end_all(guest, result)


async def test_background_programs_of_an_active_run_are_not_left(guest: LocalGuest) -> None:
    async with anyio.create_task_group() as tasks:
        script = f"{BUSYBOX} sleep 1004 & while [ ! -e /dev/shm/go ]; do :; done; kill %1"
        tasks.start_soon(guest.run, sh(script))
        with anyio.fail_after(60):
            while "1004" not in await root(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"):
                pass
        assert (await guest.left_running()).count == 0
        await root(guest, "touch /dev/shm/go")
    await root(guest, "rm /dev/shm/go")


async def test_only_programs_that_runs_left_can_be_killed(guest: LocalGuest) -> None:
    assert not await guest.end_program(1)
    assert not await guest.end_program(2)
    assert not await guest.end_program(4_000_000)
    assert lines(await guest.run(sh("echo works"))) == ["works"]


async def test_program_names_cannot_forge_lines(guest: LocalGuest) -> None:
    script = f'(exec {BUSYBOX} sh -c "{BUSYBOX} sleep 1005; :" "$1") &'
    result = await guest.run(command(BUSYBOX, "sh", "-c", script, "sh", "a\nall 0\n"))
    assert result.left.count == 1
    assert "\n" not in result.left.programs[0].command
    await end_all(guest, result)


async def test_background_programs_end_when_their_run_is_killed(guest: LocalGuest) -> None:
    result = await guest.run(sh(f"{BUSYBOX} sleep 1006 & {BUSYBOX} sleep 100", timeout=3.0))
    assert result.timed_out
    assert result.left.count == 0
    await gone(guest)
