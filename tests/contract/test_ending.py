# SPDX-License-Identifier: Apache-2.0
"""How a machine ends by itself or is killed, and another boots from its disks; see `subjects`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import anyio
import pytest
from tests.contract.subjects import Subject

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


async def test_a_guest_that_shuts_down_is_reported_with_its_cause(real: Subject) -> None:
    case = await real.case()
    machine = await real.boot(case)
    asking = asyncio.create_task(case.root("reboot -f"))
    async with asyncio.timeout(30):
        assert await machine.wait() == real.reset
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.both_kernels
async def test_a_machine_shuts_down_and_another_boots_from_its_disks(subject: Subject) -> None:
    case = await subject.case()
    machine = await subject.boot(case)
    if subject.is_real:
        await case.root("ln -s . /tmp/link; echo kept > /tmp/file; touch /run/lock/pid; rm -r /bin")
    began = time.monotonic()
    assert await machine.shut_down(5)
    assert time.monotonic() - began < 5  # nothing ran that the time is for
    await machine.stop()
    again = await subject.boot(case)
    assert again.is_alive
    if subject.is_real:
        look = "/.waggle/bin/busybox sh -c 'cat /tmp/link/file; echo /run/lock/*; echo /bin/*'"
        assert (await case.root(look)).split() == ["kept", "/run/lock/*", "/bin/*"]
        log = case.spec.console_log.read_text()
        assert "waggle: ended" in log
        assert "EXT4-fs" not in log


async def test_a_paused_machine_shuts_down(subject: Subject) -> None:
    machine = await subject.boot(await subject.case())
    await machine.pause()
    assert await machine.shut_down(0)


async def test_programs_have_time_when_a_machine_shuts_down(real: Subject) -> None:
    """Those that react end it early; one that does not is killed with the last second."""
    case = await real.case()
    machine = await real.boot(case)
    trap = "trap 'echo asked > /root/asked; exit' TERM; touch /run/a; while :; do sleep 0.1; done"
    stubborn = "trap '' TERM; touch /run/b; while :; do sleep 1; done"
    running = [asyncio.create_task(case.root(script)) for script in (trap, stubborn)]
    await case.root("until test -e /run/a -a -e /run/b; do sleep 0.1; done")
    began = time.monotonic()
    assert await machine.shut_down(2)
    assert 2 <= time.monotonic() - began < 10
    await machine.stop()
    await asyncio.gather(*running, return_exceptions=True)
    await real.boot(case)
    assert (await case.root("cat /root/asked")).strip() == "asked"


async def test_a_machine_boots_again_after_its_vmm_was_killed(real: Subject) -> None:
    """The disk is as after a power cut: what was written to it is there, and it is in order."""
    case = await real.case()
    machine = await real.boot(case)
    await case.root("echo kept > /root/file; sync")
    often = (
        "cd /proc/sys/vm; for f in dirty_expire dirty_writeback; do echo 5 > ${f}_centisecs; done"
    )
    churn = "cd /root; n=0; while n=$((n+1)); do mkdir d$n; cp file d$n; rm -rf d$((n-20)); done"
    running = asyncio.create_task(case.root(f"{often}; {churn}"))
    await case.root("until test -d /root/d300; do sleep 0.1; done")
    os.kill(machine.identity.pid, signal.SIGKILL)
    await machine.stop()
    await asyncio.gather(running, return_exceptions=True)
    again = await real.boot(case)
    assert (await case.root("cat /root/file")).strip() == "kept"
    assert not (await case.root("echo new > /root/new; rm -rf /root/d*; sync")).strip()
    assert await again.shut_down(5)
    await again.stop()
    tool = shutil.which("e2fsck", path="/usr/sbin:/sbin:/usr/bin:/bin") or "e2fsck"
    checked = await anyio.run_process([tool, "-fn", str(case.spec.disks.scratch)], check=False)
    assert checked.returncode == 0, checked.stdout.decode()


async def test_a_guest_that_does_not_end_is_not_waited_for(real: Subject) -> None:
    case = await real.case()
    machine = await real.boot(case)
    await case.root("umount -l /.waggle/cgroup; kill -STOP 1; echo still")
    assert await machine.shut_down(1)  # PID 1 cannot be stopped from inside
    await machine.stop()
    machine = await real.boot(case)
    os.kill(machine.identity.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            # libkrun's machines are paused by the same signal, so it is made to go on.
            assert await machine.shut_down(1) is (real.hypervisor.name == "krun")
    finally:
        if machine.is_alive:
            os.kill(machine.identity.pid, signal.SIGCONT)


@pytest.mark.both_kernels
async def test_root_inside_ends_the_machine_as_elsewhere(real: Subject) -> None:
    case = await real.case()
    machine = await real.boot(case)
    await case.root("echo kept > /root/file")
    asking = asyncio.create_task(case.root("kill -TERM 1; sleep 1000"))
    async with asyncio.timeout(60):
        assert await machine.wait() == "the guest shut down"
    await asyncio.gather(asking, return_exceptions=True)
    await machine.stop()
    await real.boot(case)
    assert (await case.root("cat /root/file")).strip() == "kept"
