# SPDX-License-Identifier: Apache-2.0
"""`execute` on a real machine: streams, exits, arguments, directories and process trees."""

from __future__ import annotations

import asyncio
import hashlib
import time

import anyio
import pytest
from tests.support.vm import command, lines, root, sh

from waggle.domain.programs import Command, GuestUser
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
BUSYBOX = "/.waggle/bin/busybox"
FILE = "{file}"
KILL_SECONDS = 2.0


def script(code: bytes, *, timeout: float = 60.0, extension: str = ".sh") -> Command:
    """Return code for busybox's shell, as `execute` sends it."""
    return command(BUSYBOX, "sh", FILE, code=code, extension=extension, timeout=timeout)


async def surviving(guest: LocalGuest, mark: str) -> int:
    """Return the number of processes in the whole guest with `mark` in their command line."""
    pattern = f"[{mark[0]}]{mark[1:]}"
    found = await root(
        guest, f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o '{pattern}' | wc -l"
    )
    return int(found)


async def cgroups(guest: LocalGuest) -> int:
    """Return the number of runs that the guest still knows, including this one."""
    return int(await root(guest, "ls -d /.waggle/cgroup/run/*-* | wc -l"))


async def test_the_streams_are_separate_and_the_exit_code_is_the_programs(
    guest: LocalGuest,
) -> None:
    result = await guest.run(sh("echo out; echo err >&2; exit 7"))
    assert (result.stdout.text(), result.stderr.text()) == ("out\n", "err\n")
    assert (result.exit_code, result.signal, result.timed_out) == (7, None, False)
    assert 0 < result.duration < 60


async def test_every_byte_survives_in_both_directions(guest: LocalGuest) -> None:
    data = bytes(range(256)) * 200
    result = await guest.run(command(BUSYBOX, "cat", stdin=data))
    assert result.stdout.head + result.stdout.tail == data
    assert result.exit_code == 0


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "USR1", "PIPE"])
async def test_a_program_ended_by_a_signal_is_reported_with_it(
    guest: LocalGuest, name: str
) -> None:
    result = await guest.run(sh(f"kill -{name} $$"))
    assert (result.exit_code, result.signal) == (None, f"SIG{name}")


async def test_a_signal_that_ssh_has_no_name_for_is_reported_too(guest: LocalGuest) -> None:
    result = await guest.run(sh("kill -BUS $$"))
    assert (result.exit_code, result.signal) == (None, "SIGBUS")


async def test_it_runs_as_the_sandbox_user_in_its_home_with_its_variables(
    guest: LocalGuest,
) -> None:
    result = await guest.run(sh("id -u; id -g; id -G; pwd; echo $HOME $USER; umask; echo $A"))
    expected = ["1000", "1000", "1000", "/home/sandbox", "/home/sandbox sandbox", "0022", ""]
    assert lines(result) == expected
    given = sh('echo "$A"; pwd', env={"A": "x y\n'$"}, cwd="/tmp")
    assert lines(await guest.run(given)) == ["x y", "'$", "/tmp"]


async def test_root_is_root_with_its_own_home(guest: LocalGuest) -> None:
    result = await guest.run(sh("id -u; echo $HOME $USER", user=GuestUser.ROOT))
    assert lines(result) == ["0", "/root root"]


async def test_arguments_reach_the_program_unchanged(guest: LocalGuest) -> None:
    words = ["", "a b", "$HOME", "`id`", "'", '"', "\\", "\n", "*", "é", "-n", ";", "--"]
    argv = (BUSYBOX, "sh", "-c", 'for w in "$@"; do printf "<%s>" "$w"; done', "sh", *words)
    result = await guest.run(command(*argv))
    assert result.stdout.head.decode() == "".join(f"<{word}>" for word in words)


async def test_50_000_arguments_pass(guest: LocalGuest) -> None:
    argv = (BUSYBOX, "sh", "-c", "echo $#", "sh", *("x" for _ in range(50_000)))
    assert lines(await guest.run(command(*argv))) == ["50000"]


async def test_a_missing_program_or_directory_is_a_clear_result(guest: LocalGuest) -> None:
    missing = await guest.run(command("/no/such/program"))
    assert missing.exit_code == 127
    assert missing.stderr.text() == "waggle: /no/such/program: No such file or directory\n"
    forbidden = await guest.run(command("/etc/passwd"))
    assert forbidden.exit_code == 126
    assert "Permission denied" in forbidden.stderr.text()
    nowhere = await guest.run(sh("true", cwd="/no/such/place"))
    assert nowhere.exit_code == 125
    assert nowhere.stderr.text() == "waggle: /no/such/place: No such file or directory\n"
    code = command(BUSYBOX, "sh", FILE, code=b"true", cwd="/no/such/place")
    assert "No such file or directory" in (await guest.run(code)).stderr.text()


async def test_code_runs_from_a_fresh_file_in_the_working_directory(guest: LocalGuest) -> None:
    listed = script(b'echo "$0" | sed "s/-[0-9a-f-]*//"; ls -l "$0" | cut -c1-10; id -u')
    assert lines(await guest.run(listed)) == [
        "/home/sandbox/.waggle.sh",
        "-rw-------",
        "1000",
    ]
    assert lines(await guest.run(sh("ls -A /home/sandbox | grep waggle; true"))) == []


async def test_code_may_be_large_and_contain_any_byte(guest: LocalGuest) -> None:
    code = b"sha256sum < $0; exit\n" + bytes(range(256)) * 1_999
    code = code.ljust(512_000, b"\xff")
    assert len(code) == 512_000
    (line,) = lines(await guest.run(script(code)))
    assert line.split()[0] == hashlib.sha256(code).hexdigest()


async def test_stdin_follows_the_code(guest: LocalGuest) -> None:
    cat = command(BUSYBOX, "sh", FILE, code=b"cat; echo end", stdin=b"\0in\xff\n")
    assert (await guest.run(cat)).stdout.head == b"\0in\xff\nend\n"
    assert lines(await guest.run(sh("cat; echo end"))) == ["end"]


async def test_large_stdin_without_a_reader_does_not_delay_the_end(guest: LocalGuest) -> None:
    result = await guest.run(command(BUSYBOX, "true", stdin=bytes(10 << 20)))
    assert result.exit_code == 0


async def test_long_output_is_cut_in_the_middle_with_exact_counts(guest: LocalGuest) -> None:
    result = await guest.run(
        sh("echo first; head -c 3000000 /dev/zero; echo last; echo e >&2", output_limit=1_000)
    )
    total = 6 + 3_000_000 + 5
    assert result.stdout.total == total
    assert result.stdout.dropped == total - 1_000
    assert result.stdout.head.startswith(b"first\n\0")
    assert result.stdout.tail.endswith(b"\0last\n")
    assert len(result.stdout.head) + len(result.stdout.tail) == 1_000
    assert result.stderr.dropped == 0


async def test_eight_concurrent_runs_keep_their_output_apart(guest: LocalGuest) -> None:
    async def one(number: int) -> list[str]:
        return lines(await guest.run(sh(f"for i in 1 2 3; do echo {number}; done")))

    results = await asyncio.gather(*(one(number) for number in range(8)))
    assert results == [[f"{number}"] * 3 for number in range(8)]


async def test_the_connection_is_reused(guest: LocalGuest) -> None:
    async def servers() -> str:
        """Return the SSH server's processes that have a connection: those with children."""
        children = "grep -l . /proc/[0-9]*/task/*/children | cut -d/ -f3"
        return await root(
            guest, f"for p in $({children}); do cat /proc/$p/comm; done | grep -c drop"
        )

    await servers()
    assert await servers() == "1\n"


async def test_a_background_program_does_not_delay_the_result(guest: LocalGuest) -> None:
    (child,) = lines(await guest.run(sh("sleep 31311 & echo $!")))
    assert await surviving(guest, "sleep 31311") == 1
    assert await cgroups(guest) == 2
    await root(guest, f"kill -9 {child}")
    while await cgroups(guest) > 1:  # its cgroup ends with it
        pass


TREE = b"""
trap '' HUP TERM INT
sleep 31312 &
setsid sleep 31312 &
(setsid sh -c 'sleep 31312 & sleep 31312' &)
(sleep 31312 >/dev/null 2>&1 </dev/null &)
echo started
while :; do sleep 31312; done
"""


async def test_a_timeout_kills_the_whole_tree_and_returns_the_output_so_far(
    guest: LocalGuest,
) -> None:
    result = await guest.run(script(TREE, timeout=5.0))
    assert result.timed_out
    assert (result.exit_code, result.signal) == (None, None)
    assert result.stdout.text() == "started\n"
    assert await surviving(guest, "sleep 31312") == 0
    assert lines(await guest.run(sh("ls -A | grep waggle; true"))) == []
    assert await cgroups(guest) == 1


async def test_cancelling_kills_the_whole_tree_within_two_seconds(guest: LocalGuest) -> None:
    cancelled = 0.0
    async with anyio.create_task_group() as group:
        group.start_soon(guest.run, script(TREE))
        while await surviving(guest, "sleep 31312") < 5:
            pass
        cancelled = time.monotonic()
        group.cancel_scope.cancel()
    assert time.monotonic() - cancelled < KILL_SECONDS
    assert await surviving(guest, "sleep 31312") == 0


async def test_cancelling_at_any_time_of_the_start_leaves_nothing(guest: LocalGuest) -> None:
    """The kill may overtake the run in the guest, which then must not start."""
    for milliseconds in (0, 1, 5, 10, 20, 40, 80, 120, 160, 200, 300, 400):
        with anyio.move_on_after(milliseconds / 1000):
            await guest.run(sh("sleep 31313", timeout=30))
    assert await surviving(guest, "sleep 31313") == 0
    while await surviving(guest, "session -c start") > 2:  # all but those that count
        pass
    assert await cgroups(guest) == 1
