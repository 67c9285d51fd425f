# SPDX-License-Identifier: Apache-2.0
"""The promises of `domain.machine`, tested against every hypervisor; see `subjects`.

The `leaks` fixture checks that each test leaves no process, descriptor or port.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.contract.subjects import RESOURCES, Case, Running, Subject, with_kit
from tests.support.leaks import Leaks
from tests.support.waiting import cancelled, until

from waggle.domain.errors import BootFailed, GuestLost, PortTaken
from waggle.domain.machine import Machine
from waggle.infra.guest.agent import MachineAgent
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.shared.confined import identify

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SOON = 2.0
STILL = 1.0
"""Seconds in which a machine that is not paused would have greeted many times."""


async def fails(subject: Subject, case: Case) -> str:
    """Boot a case that cannot boot and return the error message."""
    with pytest.raises(BootFailed) as caught:
        await subject.boot(case)
    return str(caught.value)


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.both_kernels
async def test_a_booted_machine_is_alive_and_its_ssh_server_answers(subject: Subject) -> None:
    case = await subject.case()
    machine = await subject.boot(case)
    assert machine.is_alive
    assert identify(machine.identity.pid) == machine.identity
    assert (await case.banner()).startswith(b"SSH-2.0-")
    assert any("waggle: ready" in line for line in machine.console_tail())
    assert b"waggle: ready" in case.spec.console_log.read_bytes()


async def test_stop_ends_a_machine_frees_its_port_and_may_be_repeated(subject: Subject) -> None:
    case = await subject.case()
    machine = await subject.boot(case)
    await machine.stop()
    assert not machine.is_alive
    assert identify(machine.identity.pid) is None
    assert free(case.spec.ssh_port)
    await asyncio.gather(machine.stop(), machine.stop())
    assert await machine.wait()
    with pytest.raises(GuestLost):
        await machine.agent.ping()


@pytest.mark.both_kernels
async def test_a_paused_machine_does_not_run_until_it_is_resumed(subject: Subject) -> None:
    case = await subject.case()
    machine = await subject.boot(case)
    for _ in range(2):
        await machine.pause()
    assert machine.is_alive
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(STILL):
            await case.banner()
    for _ in range(2):
        await machine.unpause()
    assert (await case.banner()).startswith(b"SSH-2.0-")


@pytest.mark.both_kernels
async def test_renewing_a_running_machine_gives_it_a_new_identity(real: Subject) -> None:
    """A warm machine does the same: it runs on with a new identity."""
    case = await real.case()
    machine = await real.boot(case)
    await case.root("echo 10.0.0.9 own >> /etc/hosts")
    ask = "hostname; cat /etc/machine-id /.waggle/run/identity/environment | tr '\\0' '\\n'"
    await machine.renew({"hostname": b"other", "environment": b"A=1\0", "machine-id": b"a\n"})
    assert (await case.root(ask)).split() == ["other", "a", "A=1"]
    ours = ["127.0.0.1 localhost other", "::1 localhost ip6-localhost ip6-loopback"]
    assert (await case.root("cat /etc/hosts")).splitlines() == [*ours, "10.0.0.9 own"]
    await case.root("date -s 2001-01-01")
    before = time.time()
    await machine.renew({"seed": bytes(64)})
    after = await case.root("date +%s")
    assert int(before) <= int(after) <= time.time() + STILL


async def test_a_paused_machine_can_be_stopped(subject: Subject) -> None:
    machine = await subject.boot(await subject.case())
    await machine.pause()
    async with asyncio.timeout(SOON):
        await machine.stop()
    for obey in (machine.pause, machine.unpause):
        with pytest.raises(GuestLost):
            await obey()


async def test_stop_finishes_although_its_caller_is_cancelled(subject: Subject) -> None:
    machine = await subject.boot(await subject.case())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await machine.stop()
    assert identify(machine.identity.pid) is None


@pytest.mark.both_kernels
async def test_a_killed_vmm_is_reported_with_its_cause(subject: Subject) -> None:
    machine = await subject.boot(await subject.case())
    waiting = asyncio.create_task(machine.wait())
    cancelled = asyncio.create_task(machine.wait())
    await asyncio.sleep(0)
    cancelled.cancel()
    os.kill(machine.identity.pid, signal.SIGKILL)
    async with asyncio.timeout(SOON):
        assert "killed" in await waiting
    assert not machine.is_alive


@pytest.mark.parametrize("kernel", ["empty", "text", "cut", "missing"])
async def test_a_bad_kernel_fails_the_boot(subject: Subject, kernel: str) -> None:
    case = await subject.case()
    path = subject.tmp / "broken-kernel"
    content = {"empty": b"", "text": b"not a kernel" * 1000}
    if kernel == "cut":
        whole = subject.parts.kernel.read_bytes()
        content["cut"] = whole[: len(whole) // 2]
    if kernel in content:
        path.write_bytes(content[kernel])
        path.chmod(0o444)
    case.spec = replace(case.spec, kernel=path, boot_timeout=20.0)
    assert await fails(subject, case)
    assert free(case.spec.ssh_port)


@pytest.mark.parametrize("disk", ["kit", "image", "scratch", "identity"])
async def test_a_missing_disk_is_named(subject: Subject, disk: str) -> None:
    case = await subject.case()
    disks = case.spec.disks
    gone = {disk: subject.tmp / "gone"}
    case.spec = replace(case.spec, disks=replace(disks, **gone))
    assert "gone cannot be opened: No such file or directory" in await fails(subject, case)


@pytest.mark.parametrize("disk", ["image", "scratch", "identity"])
async def test_a_corrupt_disk_is_reported_by_the_guest(real: Subject, disk: str) -> None:
    case = await real.case()
    corrupt = {disk: real.kits["garbage"]}
    case.spec = replace(case.spec, disks=replace(case.spec.disks, **corrupt))
    real.kits["garbage"].chmod(0o666)
    message = await fails(real, case)
    assert "waggle: boot failed" in message


@pytest.mark.both_kernels
async def test_a_corrupt_kit_shows_the_kernel_panic(subject: Subject) -> None:
    case = await subject.case()
    case.spec = with_kit(subject.kits["garbage"])(case.spec)
    assert subject.panic("Kernel panic - not syncing") in await fails(subject, case)


@pytest.mark.both_kernels
async def test_an_init_that_ends_shows_its_last_output(subject: Subject) -> None:
    case = await subject.case()
    case.spec = with_kit(subject.kits["exits"])(case.spec)
    assert subject.panic("contract: giving up") in await fails(subject, case)


async def test_a_fault_of_an_emulated_kernel_is_retried_once(real: Subject) -> None:
    case = await real.case()
    case.spec = with_kit(real.kits["faults"])(case.spec)
    assert real.panic("Fatal exception in interrupt") in await fails(real, case)
    tries = {"qemu": 2, "krun": 1, "firecracker": 0, "cloud-hypervisor": 1}[real.hypervisor.name]
    assert case.spec.console_log.read_text().count("Fatal exception in interrupt") == tries


async def test_a_guest_that_is_never_ready_fails_at_the_deadline(
    subject: Subject,
) -> None:
    case, deadline = await subject.case(), 3.0 if subject.is_real else 0.2
    case.spec = replace(with_kit(subject.kits["silent"])(case.spec), boot_timeout=deadline)
    started = time.monotonic()
    assert f"not ready after {deadline:g} s" in await fails(subject, case)
    assert deadline <= time.monotonic() - started < deadline + SOON + SOON


async def test_too_little_memory_fails_the_boot(subject: Subject) -> None:
    case = await subject.case(replace(RESOURCES, memory_mib=16))
    case.spec = replace(case.spec, boot_timeout=8.0)
    assert await fails(subject, case)


async def test_a_taken_port_is_reported_as_such(subject: Subject) -> None:
    case = await subject.case()
    with socket.create_server(("127.0.0.1", case.spec.ssh_port)), pytest.raises(PortTaken):
        await subject.hypervisor.boot(case.spec)
    await subject.boot(case)


@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.05, 0.3, 1.0])
async def test_a_cancelled_boot_leaves_nothing(subject: Subject, seconds: float) -> None:
    case = await subject.case()
    case.spec = with_kit(subject.kits["silent"])(case.spec)
    with anyio.move_on_after(seconds) as scope:
        await subject.hypervisor.boot(case.spec)
    assert scope.cancelled_caught
    assert free(case.spec.ssh_port)


async def test_a_boot_cancelled_at_any_of_its_first_steps_leaves_nothing(
    subject: Subject,
) -> None:
    watch = Leaks()
    case = await subject.case()
    case.spec = with_kit(subject.kits["silent"])(case.spec)
    for steps in range(30):
        boot = asyncio.create_task(subject.hypervisor.boot(case.spec))
        for _ in range(steps):
            await asyncio.sleep(0)
        await cancelled(boot)
        assert free(case.spec.ssh_port)
    await watch.settle()


async def test_a_boot_cancelled_by_its_task_leaves_nothing(subject: Subject) -> None:
    case = await subject.case()
    case.spec = with_kit(subject.kits["silent"])(case.spec)
    boot = asyncio.create_task(subject.hypervisor.boot(case.spec))
    await asyncio.wait({boot}, timeout=0.5)
    boot.cancel()
    await asyncio.sleep(0)
    boot.cancel()  # again, during the clean-up
    with pytest.raises(asyncio.CancelledError):
        await boot
    assert free(case.spec.ssh_port)


async def test_four_machines_boot_at_once(subject: Subject) -> None:
    cases = [await subject.case() for _ in range(4)]
    machines = await asyncio.gather(*(subject.boot(case) for case in cases))
    assert len({machine.identity.pid for machine in machines}) == 4
    banners = await asyncio.gather(*(case.banner() for case in cases))
    assert all(banner.startswith(b"SSH-2.0-") for banner in banners)
    await asyncio.gather(*(machine.stop() for machine in machines))


async def test_machines_use_the_same_port_in_turn(
    subject: Subject, pytestconfig: pytest.Config
) -> None:
    case = await subject.case()
    for _ in range(int(str(pytestconfig.getoption("turns")))):
        machine = await subject.boot(case)
        assert (await case.banner()).startswith(b"SSH-2.0-")
        await machine.stop()


@pytest.mark.both_kernels
async def test_cpus_memory_and_disk_match_the_request(running: Running) -> None:
    cpus, memory, disk = (
        await running.case.root(
            "grep -c ^processor /proc/cpuinfo; awk '/MemTotal/{print $2}' /proc/meminfo;"
            " cat /sys/block/vdc/size"
        )
    ).split()
    wanted = running.case.spec.resources
    assert int(cpus) == wanted.cpus
    assert wanted.memory_mib * 1024 * 0.8 < int(memory) < wanted.memory_mib * 1024
    assert int(disk) * 512 == wanted.disk_mib << 20


@pytest.mark.both_kernels
async def test_processors_offer_no_machines_within_machines(running: Running) -> None:
    """The host's KVM would have to emulate them, with holes of its own."""
    said = await running.case.root(
        "grep -owE 'svm|vmx' /proc/cpuinfo; test ! -e /dev/kvm && echo no"
    )
    assert said == "no\n"


@pytest.mark.both_kernels
async def test_only_the_scratch_disk_can_be_written(running: Running) -> None:
    case = running.case
    before = {path: _digest(path) for path in _read_only(case)}
    for name in ("vda", "vdb", "vdd"):
        answer = await case.root(
            f"cat /sys/block/{name}/ro; blockdev --setrw /dev/{name};"
            f"dd if=/dev/zero of=/dev/{name} bs=4096 count=1 conv=fsync 2>&1"
        )
        assert answer.startswith("1\n"), answer
        assert "1+0 records out" not in answer or "error" in answer, answer
    assert (await case.root("cat /sys/block/vdc/ro; touch /etc/x && echo written")) == (
        "0\nwritten\n"
    )
    assert {path: _digest(path) for path in _read_only(case)} == before


def _read_only(case: Case) -> tuple[Path, ...]:
    disks = case.spec.disks
    return (case.spec.kernel, disks.kit, disks.image, disks.identity)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.both_kernels
async def test_the_agent_answers_and_is_restarted_when_killed(running: Running) -> None:
    await _answer(running.machine)
    first = await _agent_pid(running.case)
    await running.case.root(f"kill -9 {first}")
    await _answer(running.machine)
    assert await _agent_pid(running.case) != first


async def _answer(machine: Machine) -> None:
    """Return with the first answer within the time in which the guest restarts its agent."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await machine.agent.ping()
            except GuestLost:
                await asyncio.sleep(0.05)  # the agent may refuse at once


async def _agent_pid(case: Case) -> str:
    return (await case.root("grep -l waggle-agent /proc/[0-9]*/comm | cut -d/ -f3")).strip()


async def test_a_failing_agent_command_says_why(running: Running) -> None:
    await _answer(running.machine)
    agent = running.machine.agent
    assert isinstance(agent, MachineAgent)
    with pytest.raises(AgentRefused, match=r"refused file_read: .*No such file"):
        await agent.read_file("/no/such/file")


async def test_a_panic_is_reported_with_its_cause(real: Subject) -> None:
    case = await real.case()
    machine = await real.boot(case)
    small = (
        "cd /sys/fs/cgroup; mkdir small; echo 8M > small/memory.max; echo $$ > small/cgroup.procs"
    )
    panic = f"echo 2 > /proc/sys/vm/panic_on_oom; {small}; tail /dev/zero"  # quick to fill
    asking = asyncio.create_task(case.root(panic))
    async with asyncio.timeout(60):
        assert real.panic("Kernel panic - not syncing: Out of memory") in await machine.wait()
    heard = b"Kernel panic" in case.spec.console_log.read_bytes()  # the tail may be later lines
    assert heard is real.hears_kernel
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.both_kernels
async def test_console_output_of_the_guest_is_kept_and_sanitised(
    running: Running,
) -> None:
    console = "$(test -e /dev/hvc0 && echo /dev/hvc0 || echo /proc/1/fd/1)"
    await running.case.root(f"printf 'a\\033[2Jb\\001c\\n' > {console}")
    seen = "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c"
    await until(lambda: seen in running.machine.console_tail())
