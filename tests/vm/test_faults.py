# SPDX-License-Identifier: Apache-2.0
"""Hogs, bombs and floods: limits protect the machine, and the server survives everything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.vm import Lab, lines, root, sh

from waggle.domain.errors import GuestLost
from waggle.domain.programs import GuestUser
from waggle.infra.ssh.run import KILL_PATIENCE
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
MIB = 1 << 20
FLOOD_MEMORY = 32 * MIB
ANSWER_SECONDS = 2.0


async def works(guest: LocalGuest) -> bool:
    return lines(await guest.run(sh("echo works"))) == ["works"]


def resident() -> int:
    """Return the resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def test_a_memory_hog_is_killed_and_the_machine_survives(guest: LocalGuest) -> None:
    result = await guest.run(sh("echo before; exec tail /dev/zero"))
    assert result.signal == "SIGKILL"
    assert result.stdout.text() == "before\n"
    assert await works(guest)


async def test_a_shared_memory_hog_is_stopped(guest: LocalGuest) -> None:
    result = await guest.run(sh("cat /dev/zero > /dev/shm/x; echo $?; rm -f /dev/shm/x"))
    assert result.exit_code is not None or result.signal == "SIGKILL"
    await root(guest, "rm -f /dev/shm/x")
    assert await works(guest)


RUNS = "/.waggle/cgroup/run"


@pytest.fixture
async def few_processes(guest: LocalGuest) -> AsyncIterator[int]:
    """Lower the process limit: an emulated guest forks too slowly to reach the usual one."""
    usual = int(await root(guest, f"cat {RUNS}/pids.max"))
    assert 512 < usual <= 1024  # lower in a small guest
    await root(guest, f"echo 64 > {RUNS}/pids.max")
    yield 64
    await root(guest, f"echo {usual} > {RUNS}/pids.max")


async def test_a_fork_bomb_is_limited_and_ends_with_its_timeout(
    guest: LocalGuest, few_processes: int
) -> None:
    bomb = "(b() { b | b & b; }; b) 2> /dev/null; exec sleep 31317"
    assert (await guest.run(sh(bomb, timeout=6.0))).timed_out
    stopped, most = (await root(guest, f"cat {RUNS}/pids.events {RUNS}/pids.peak")).split()[1:]
    assert int(stopped) > 0
    assert few_processes / 2 < int(most) <= few_processes + 2  # one per CPU until undone
    assert await works(guest)
    assert int(await root(guest, "ls -d /proc/[0-9]* | wc -l")) < 200


async def test_many_processes_end_with_their_timeout(guest: LocalGuest) -> None:
    """Where the guest is fast enough, the inner shell reaches the process limit and ends there."""
    many = "(while :; do sleep 31316 & done) 2> /dev/null; exec sleep 31316"
    assert (await guest.run(sh(many, timeout=4.0))).timed_out
    left = await root(guest, "grep -lx sleep /proc/[0-9]*/comm | wc -l")
    assert int(left) == 0


async def test_a_flood_of_output_is_limited_in_the_server(guest: LocalGuest) -> None:
    """The guest sends a gigabyte, or as much as arrives within the timeout."""
    before = resident()
    result = await guest.run(sh("head -c 1073741824 /dev/zero", timeout=10.0, output_limit=200_000))
    assert result.timed_out or result.stdout.total == 1 << 30
    assert result.stdout.total > 10 * MIB
    assert len(result.stdout.head) + len(result.stdout.tail) == 200_000
    assert resident() - before < FLOOD_MEMORY
    assert await works(guest)


async def test_a_flood_on_the_console_does_not_block_the_server(guest: LocalGuest) -> None:
    flood = "while :; do echo flooooooooooooooooooooooooood; done > /dev/hvc0"
    async with asyncio.timeout(120):
        flooding = asyncio.create_task(guest.run(sh(flood, timeout=6.0, user=GuestUser.ROOT)))
        slowest = 0.0
        while not flooding.done():
            started = time.monotonic()
            await asyncio.wait({flooding}, timeout=0.05)
            slowest = max(slowest, time.monotonic() - started - 0.05)
        assert (await flooding).timed_out
    assert slowest < 0.5  # the loop was never blocked
    assert await works(guest)


async def test_a_full_disk_is_a_result_and_can_be_cleared(guest: LocalGuest) -> None:
    result = await guest.run(sh("cat /dev/zero > filler; echo $?; rm filler; echo gone"))
    assert "No space left on device" in result.stderr.text()
    assert lines(result) == ["1", "gone"]
    assert await works(guest)


async def test_a_killed_vmm_ends_the_call_with_its_cause(quick: Lab) -> None:
    guest = await quick.guest()
    running = asyncio.create_task(guest.run(sh("sleep 1000")))
    assert await works(guest)
    killed = time.monotonic()
    os.kill(guest.machine.pid, signal.SIGKILL)
    with pytest.raises(GuestLost, match=r"The machine died: QEMU was killed by SIGKILL\."):
        await running
    assert time.monotonic() - killed < ANSWER_SECONDS
    with pytest.raises(GuestLost, match="The machine died"):
        await guest.list_files("/")
    assert time.monotonic() - killed < 2 * ANSWER_SECONDS
    await guest.destroy()


async def test_a_stopped_vmm_ends_the_call_by_its_deadline(quick: Lab) -> None:
    guest = await quick.guest()
    os.kill(guest.machine.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(GuestLost, match="did not answer within the command's time"):
        await guest.run(sh("true", timeout=1.0))
    assert time.monotonic() - started < 1.0 + sum(KILL_PATIENCE) + 5.0
    await guest.destroy()  # SIGKILL ends a stopped process too


async def test_a_kernel_panic_during_a_call_is_reported(quick: Lab) -> None:
    guest = await quick.guest()
    panic = "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero"
    with pytest.raises(GuestLost, match=r"The machine died: .*Kernel panic"):
        await guest.run(sh(panic, user=GuestUser.ROOT, timeout=120))


async def test_destroying_a_machine_ends_its_running_calls(quick: Lab) -> None:
    guest = await quick.guest()
    running = asyncio.create_task(guest.run(sh("sleep 1000")))
    assert await works(guest)
    started = time.monotonic()
    await guest.destroy()
    with pytest.raises(GuestLost, match="The environment is being destroyed"):
        await running
    assert time.monotonic() - started < 5
    assert not list(quick.environments.iterdir())
    assert not quick.ports.leased
