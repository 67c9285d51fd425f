# SPDX-License-Identifier: Apache-2.0
"""The guest agent on every hypervisor: all methods of its protocol, over the machine's own channel.

The machines have no policy of a server, so the kit's holds, which allows everything.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.contract.subjects import Running, Subject

from waggle.domain.errors import GuestLost
from waggle.domain.machine import Machine
from waggle.infra.guest.agent import MachineAgent
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.guest.protocol import METHODS, files, power, programs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
BUSYBOX = "/.waggle/bin/busybox"
SECOND = 1_000_000_000
LARGE = bytes(range(256)) * (10 << 12)
"""10 MB."""


def client(machine: Machine) -> MachineAgent:
    agent = machine.agent
    assert isinstance(agent, MachineAgent)
    return agent


@pytest.fixture
async def agent(running: Running) -> MachineAgent:
    agent = client(running.machine)
    await agent.ping(60)
    return agent


async def test_it_says_what_it_is_and_what_machine_this_is(agent: MachineAgent) -> None:
    info = await agent.agent_info()
    assert set(info.methods) == set(METHODS)
    about = await agent.system_info()
    assert (about.hostname, about.architecture, about.cpus) == ("contract", "x86_64", 2)
    assert abs(about.time / SECOND - time.time()) < 60
    assert any(found.mount_point == "/" for found in (await agent.disk_usage()).filesystems)
    assert "lo" in {one.name for one in (await agent.network_info()).interfaces}
    assert (await agent.users()).users[0].name == "root"
    metrics = await agent.metrics()
    assert 0 < metrics.memory.available_bytes < metrics.memory.total_bytes
    report = await agent.report()
    assert report.load.memory_total == metrics.memory.total_bytes


async def test_it_runs_programs_in_the_images_root(agent: MachineAgent) -> None:
    done = await agent.run([BUSYBOX, "sh", "-c", "cat; echo $A; exit 7"], input=b"in ",
                           environment={"A": "b"})  # fmt: skip
    assert (done.status, done.exit_code, done.stdout) == (programs.Status.EXITED, 7, b"in b\n")
    late = await agent.run([BUSYBOX, "sleep", "100"], timeout=1)
    assert late.status is programs.Status.TIMED_OUT
    going = await agent.run([BUSYBOX, "sleep", "100"], wait=False)
    assert (await agent.process(going.process)).status is programs.Status.RUNNING
    assert (await agent.kill(going.process)).status is programs.Status.KILLED
    with pytest.raises(AgentRefused, match="No such file"):
        await agent.run(["/no/such/program"])


async def test_files_go_both_ways(agent: MachineAgent) -> None:
    await agent.write_file("/tmp/large", LARGE, mode=0o600)
    assert await agent.read_file("/tmp/large") == LARGE
    entries = {entry.name: entry for entry in await agent.list_directory("/tmp")}
    found = entries["large"]
    assert (found.kind, found.size, found.mode) == (files.Kind.FILE, len(LARGE), 0o600)
    for path in ("/proc/1/mem", "/sys/kernel/notes", "/dev/vdc", "/tmp/../etc/passwd"):
        with pytest.raises((AgentRefused, GuestLost)):
            await agent.read_file(path)


async def test_it_sets_the_clock_and_back(agent: MachineAgent) -> None:
    later = (int(time.time()) + 86_400) * SECOND
    assert abs(await agent.set_time(later) - later) < 60 * SECOND
    assert abs((await agent.system_info()).time - later) < 60 * SECOND
    await agent.set_time(time.time_ns())
    assert abs(await agent.clock() / SECOND - time.time()) < 60


async def test_it_freezes_the_disk_and_thaws_it(agent: MachineAgent) -> None:
    await agent.sync()
    count = await agent.freeze(30)
    try:
        assert count >= 1
        writing = asyncio.create_task(agent.write_file("/tmp/later", b"x"))
        await agent.ping()  # who writes waits, and nobody else
        assert not writing.done()
    finally:
        assert await agent.thaw() == count
    await writing
    assert await agent.read_file("/tmp/later") == b"x"


@pytest.mark.both_kernels
async def test_a_forced_reboot_ends_the_machine(real: Subject) -> None:
    machine = await real.boot(await real.case())
    await client(machine).reboot(power.Manner.FORCED)
    async with asyncio.timeout(60):
        assert await machine.wait() == real.reset


async def test_a_graceful_shutdown_ends_the_machine(real: Subject) -> None:
    machine = await real.boot(await real.case())
    await client(machine).shutdown()
    async with asyncio.timeout(60):
        assert await machine.wait() == "the guest shut down"
