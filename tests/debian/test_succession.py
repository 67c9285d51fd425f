# SPDX-License-Identifier: Apache-2.0
"""Agents and hosts that follow one another, where systemd starts agents and the port is closed."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from tests.support.debian_agent import EVERYTHING, client, use, use_default
from tests.support.debian_machine import Machine

from waggle.infra.guest.answers import EffectUnknown

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]
BEGINS = b'\n{"jsonrpc":"2.0","method":"agent_started","params":{"version":'


async def test_calls_of_a_killed_agent_end_when_systemd_has_started_the_next(
    machine: Machine,
) -> None:
    """The kernel drops what is unread in a port that is closed."""
    use(machine, EVERYTHING, "RestartSec=0")
    async with client(machine) as agent:
        slow = [asyncio.create_task(agent.run(["/bin/sleep", "50"], timeout=50)) for _ in range(3)]
        while len((await agent.agent_info()).pending) < len(slow):
            pass
        began = time.monotonic()
        machine.sh("kill -9 $(systemctl show -P MainPID waggle-agent)")
        for one in slow:
            with pytest.raises(EffectUnknown):
                await one
        assert time.monotonic() - began < 20
        assert (await agent.agent_info()).pending == []


async def test_every_host_hears_that_there_is_an_agent(machine: Machine) -> None:
    use_default(machine)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(machine.agent_socket))
            wire.sendall(b"\n")
            heard = b""
            while BEGINS not in heard:
                heard += wire.recv(4096)
        machine.sh("sleep 1")  # a shorter time without a host is none
