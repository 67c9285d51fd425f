# SPDX-License-Identifier: Apache-2.0
"""The agent in a guest of the server: its policy holds whatever root does, and health heals it."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.vm import Lab, root, sh

from waggle.domain.errors import GuestLost
from waggle.domain.programs import GuestUser
from waggle.infra.guest.agent import MachineAgent
from waggle.infra.guest.answers import AgentEnded, AgentRefused
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
AGENT = "grep -l ^waggle-agent /proc/[0-9]*/cmdline | cut -d/ -f3"
"""Prints the agent's process ids, as root sees them."""
KILLS = 5
SILENT = (
    "mkdir /tmp/silent; exec 3<> /dev/fuse;"
    "mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 silent /tmp/silent;"
    "sleep 600 < /dev/null > /dev/null 2>&1 &"
)
"""Mounts a file system without a program that answers: asked for its size, an agent waits 2 s."""
KILL = (
    f"until set -- $({AGENT}); [ $# -ge 3 ]; do :; done; kill -9 $*;"
    "for pid; do while grep -q w /proc/$pid/cmdline; do :; done 2> /dev/null; done;"
)
"""Ends an agent, its child, and the child's that asks for the size, as soon as that is there."""


def agent_of(guest: LocalGuest) -> MachineAgent:
    agent = guest.started.machine.agent
    assert isinstance(agent, MachineAgent)
    return agent


async def pids(guest: LocalGuest) -> set[str]:
    return set((await root(guest, f"{AGENT}; true")).split())


async def restarted(guest: LocalGuest, before: set[str]) -> None:
    """Wait until another agent than those runs."""
    for _ in range(100):
        if await pids(guest) - before:
            return
    raise AssertionError("no other agent was started")


async def keeps_its_policy(guest: LocalGuest) -> None:
    """Check that it does what the server asks for, and nothing else."""
    agent = agent_of(guest)
    assert (await agent.report()).load.processes > 0
    for refused in (
        agent.read_part("/etc/hosts", 0),
        agent.write_file("/tmp/written", b"x"),
        agent.list_directory("/"),
        agent.run(["/.waggle/bin/busybox", "true"]),
        agent.set_time(1),
        agent.freeze(1),
    ):
        with pytest.raises(AgentRefused) as caught:
            await refused
        assert caught.value.reason == "denied", caught.value
    policy = (await agent.agent_info()).policy
    assert (policy.exec, policy.read.allow, policy.write.allow) == (None, [], [])


async def test_the_agent_does_what_the_server_asks_and_no_more(guest: LocalGuest) -> None:
    await keeps_its_policy(guest)


async def test_a_killed_agent_is_back_with_the_same_policy(guest: LocalGuest) -> None:
    for _ in range(KILLS):
        before = await pids(guest)
        assert before
        await root(guest, f"kill -9 {' '.join(before)}")
        await restarted(guest, before)
    await keeps_its_policy(guest)


async def test_a_call_that_an_agent_takes_with_it_ends_at_once(quick: Lab) -> None:
    guest = await quick.guest()
    agent = agent_of(guest)
    await agent.agent_info()
    await root(guest, SILENT)
    asking = asyncio.create_task(agent.disk_usage())
    await root(guest, KILL)
    began = time.monotonic()
    assert (await asking).truncated, "the next agent was asked"
    assert time.monotonic() - began < 15, "and not only when the first one's time was over"
    asking = asyncio.create_task(agent.disk_usage())
    await root(guest, KILL * 2)
    began = time.monotonic()
    with pytest.raises(AgentEnded, match="while it worked on get_disk_usage"):
        await asking
    assert time.monotonic() - began < 5
    await keeps_its_policy(guest)


async def test_a_call_that_a_killed_agent_had_not_read_is_the_nexts(quick: Lab) -> None:
    guest = await quick.guest()
    agent = agent_of(guest)
    await agent.agent_info()
    before = " ".join(await pids(guest))
    await root(guest, f"kill -STOP {before}")
    asking = asyncio.create_task(agent.sync())
    await root(guest, f"kill -9 {before}")
    await asking


async def test_root_replaces_neither_the_program_nor_its_policy(quick: Lab) -> None:
    guest = await quick.guest()
    loose = '{"methods": {"allow": ["*"]}, "read": {"allow": ["/"]}}'
    before = await pids(guest)
    await root(
        guest,
        f"cd /tmp; echo '{loose}' > policy; cp /.waggle/bin/busybox false; chmod 755 false;"
        "mount -o bind policy /.waggle/etc/agent.json;"
        "mount -o bind false /.waggle/bin/waggle-agent;"
        f"grep -q allow /.waggle/etc/agent.json; kill -9 {' '.join(before)}",
    )
    await restarted(guest, before)
    await keeps_its_policy(guest)


async def test_an_agent_that_hangs_is_told_and_the_next_answer_is_anothers(quick: Lab) -> None:
    guest = await quick.guest()
    before = await pids(guest)
    await root(guest, f"kill -STOP {' '.join(before)}")
    with pytest.raises(GuestLost, match="agent does not answer"):
        await guest.report()
    said = await guest.report()
    assert said is not None
    assert said.load.processes > 0
    assert not await pids(guest) & before
    await keeps_its_policy(guest)


async def test_a_full_memory_leaves_room_for_an_answer(quick: Lab) -> None:
    guest = await quick.guest()
    hog = asyncio.create_task(guest.run(sh("tail /dev/zero", user=GuestUser.ROOT)))
    answers = 0
    while not hog.done():
        assert (await agent_of(guest).load()).memory_total > 0
        answers += 1
    assert (await hog).signal == "SIGKILL"
    assert answers > 1
    await guest.load()
