# SPDX-License-Identifier: Apache-2.0
"""What a hostile or broken program can do to its own machine, and what the caller then sees."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from tests.support.vm import Lab, command, lines, root, sh

from waggle.domain.errors import GuestLost
from waggle.domain.execution import GuestUser
from waggle.service.local_guest import LocalGuest

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(400)]

HOG = "a=x; while :; do a=$a$a; done"
BOMB = "bomb() { bomb | bomb & }; bomb; sleep 600"
GIBIBYTE = 1 << 30


async def works(guest: LocalGuest) -> bool:
    """Whether a command runs; calls right after a cut connection may need a second try."""
    for _ in range(3):
        with contextlib.suppress(GuestLost):
            return lines(await guest.run(sh("echo fine"))) == ["fine"]
    return False


async def sandbox_processes(guest: LocalGuest) -> list[str]:
    script = 'for p in /proc/[0-9]*; do [ "$(stat -c %u $p 2>/dev/null)" = 1000 ] && echo $p; done'
    return (await root(guest, f"{script}; true")).split()


async def test_a_program_that_takes_all_memory_is_killed_alone(guest: LocalGuest) -> None:
    result = await guest.run(sh(HOG))
    assert result.signal == "SIGKILL" or result.exit_code not in (0, None)
    assert await works(guest)


async def test_a_fork_bomb_is_bounded_and_ends_with_its_timeout(guest: LocalGuest) -> None:
    result = await guest.run(sh(BOMB, timeout=8))
    assert result.timed_out
    assert await works(guest)
    assert await sandbox_processes(guest) == []


async def test_killing_everything_as_the_sandbox_user_harms_only_its_own(
    guest: LocalGuest,
) -> None:
    sleeper = asyncio.create_task(guest.run(sh("sleep 600", timeout=120)))
    for _ in range(100):
        if await sandbox_processes(guest):
            break
    await guest.run(sh("kill -9 -1"))
    ended = await sleeper
    assert ended.signal == "SIGKILL" or ended.exit_code not in (0, None)
    assert await works(guest)
    await guest.write_file("/home/sandbox/after", b"still here", 0o644)
    part = await guest.read_file("/home/sandbox/after", offset=0, length=100, limit=100)
    assert part.data == b"still here"


async def test_killing_everything_as_root_cuts_the_call_and_the_machine_comes_back(
    guest: LocalGuest,
) -> None:
    await guest.write_file("/home/sandbox/kept", b"kept", 0o644)
    with contextlib.suppress(GuestLost):
        await guest.run(sh("kill -9 -1", user=GuestUser.ROOT))
    assert await works(guest)
    assert await guest.agent("guest-ping") == {}
    part = await guest.read_file("/home/sandbox/kept", offset=0, length=100, limit=100)
    assert part.data == b"kept"


async def test_killing_the_ssh_server_from_inside_ends_only_that_call(guest: LocalGuest) -> None:
    killer = "for p in $(pidof dropbear); do kill -9 $p; done"
    with pytest.raises(GuestLost) as caught:
        await guest.run(sh(f"{killer}; sleep 30", user=GuestUser.ROOT))
    assert caught.value.hint
    assert await works(guest)


async def test_a_flood_of_output_is_counted_and_not_kept(guest: LocalGuest) -> None:
    flood = f"head -c {GIBIBYTE} /dev/zero"
    result = await guest.run(sh(flood, timeout=20, output_limit=10_000))
    assert len(result.stdout.head) + len(result.stdout.tail) <= 10_000
    assert result.stdout.total == GIBIBYTE or result.timed_out
    assert result.stdout.dropped > 0
    assert await works(guest)


async def test_a_flood_of_the_console_does_not_hold_up_calls(guest: LocalGuest) -> None:
    await root(guest, "(while :; do echo flood > /dev/hvc0; done) >/dev/null 2>&1 & true")
    started = time.monotonic()
    assert await works(guest)
    assert time.monotonic() - started < 30


async def test_a_guest_that_panics_is_lost_with_the_panic_as_cause(lab: Lab) -> None:
    guest = await lab.guest()
    await root(guest, "echo 2 > /proc/sys/vm/panic_on_oom")  # 2: also when a cgroup is full
    with pytest.raises(GuestLost) as caught:
        await guest.run(sh(HOG))
    assert "panic" in caught.value.message.lower()
    assert "panic" in (await guest.wait_dead()).lower()


async def test_a_guest_that_reboots_is_lost_and_says_so(lab: Lab) -> None:
    guest = await lab.guest()
    with pytest.raises(GuestLost) as caught:
        await guest.run(sh("reboot -f; sleep 30", user=GuestUser.ROOT))
    assert "died" in caught.value.message


async def test_a_stopped_ssh_server_ends_the_call_in_bounded_time(lab: Lab) -> None:
    guest = await lab.guest()
    stop = "for p in $(pidof dropbear); do kill -STOP $p; done"
    started = time.monotonic()
    result = await guest.run(sh(f"{stop}; sleep 600", user=GuestUser.ROOT, timeout=3))
    assert result.timed_out  # killed over a second connection, which PID 1 accepts itself
    assert time.monotonic() - started < 40
    assert await works(guest)


async def test_the_kit_and_the_image_cannot_be_changed_by_root(guest: LocalGuest) -> None:
    tampering = "touch /.waggle/bin/x; mount -o remount,rw /.waggle; dd if=/dev/zero of=/dev/vda"
    result = await guest.run(sh(f"{tampering} bs=512 count=1; true", user=GuestUser.ROOT))
    assert "Read-only" in result.stderr.text() or "not permitted" in result.stderr.text()
    assert await works(guest)


async def test_code_inside_does_not_reach_the_ssh_server(guest: LocalGuest) -> None:
    result = await guest.run(command("/.waggle/bin/busybox", "nc", "-w", "3", "127.0.0.1", "22"))
    assert b"SSH-2.0" not in result.stdout.head
