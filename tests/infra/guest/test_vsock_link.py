# SPDX-License-Identifier: Apache-2.0
"""The link to a machine with vsock: boot, resume, breaks, and its end, with a pretended guest."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.infra.guest.hybrid import GUEST, NAME, Vmm, answering, renewal
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.infra.guest.console import Console
from waggle.infra.guest.protocol.power import Manner
from waggle.infra.guest.vsock import AGENT_PORT, RENEWAL_PORT, ConsoleListener, VsockDoor
from waggle.infra.guest.vsock_link import VsockLink

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
DIAL_RENEWAL, DIAL_AGENT = b"CONNECT 23\n", b"CONNECT 24\n"


class Machine:
    """A link, and the pretended VMM."""

    def __init__(self, directory: Path, call_seconds: float = 0.05) -> None:
        self.vmm = Vmm(directory)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._listener = ConsoleListener(self._directory, NAME)
        console = Console(directory / "console.log")
        self.link = VsockLink(console, self._listener, patience=1.0, call_seconds=call_seconds)
        self.messages, self._messages = socket.socketpair()

    async def start(self) -> VsockLink:
        await self.vmm.start()
        door = VsockDoor(self._directory, NAME, os.getpid())
        await self.link.listen(self._messages, door)
        return self.link

    async def run(self) -> VsockLink:
        """Start, with a guest that has everything, and reach it."""
        self.vmm.guest = {**GUEST}
        link = await self.start()
        assert await link.reach(self.alive, 20) is None
        return link

    def alive(self) -> asyncio.Future[str]:
        """Return a future for the VMM's end, which does not come."""
        return asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self.messages.close()
        await self.vmm.close()
        async with asyncio.timeout(10):
            await self.link.close()
            await self._listener.close()
        self._messages.close()
        os.close(self._directory)


@pytest.fixture
async def machine(nothing_left: None, tmp_path: Path) -> AsyncGenerator[Machine]:
    made = Machine(tmp_path)
    yield made
    await made.close()


async def test_a_machine_boots(machine: Machine) -> None:
    machine.vmm.guest = {**GUEST}
    link = await machine.start()
    machine.vmm.call().send(b"waggle: ready\n")
    machine.messages.send(b"vmm: a word\n")
    assert await link.until_ready(machine.alive) is None
    assert machine.vmm.said == []
    assert await link.reach(machine.alive, 20) is None
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_AGENT]
    await link.agent.ping()
    await link.renewal.greet()
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_AGENT]
    await until(lambda: sorted(link.console.tail()) == ["vmm: a word", "waggle: ready"])


async def test_a_copy_that_does_not_listen_yet_is_called_until_it_does(machine: Machine) -> None:
    link = await machine.start()
    reaching = asyncio.create_task(link.reach(machine.alive, 20))
    await until(lambda: len(machine.vmm.said) >= 3)
    machine.vmm.guest = {**GUEST}
    assert await reaching is None


async def test_an_agent_that_does_not_listen_yet_is_called_alone_until_it_does(
    machine: Machine,
) -> None:
    machine.vmm.guest = {RENEWAL_PORT: renewal}
    link = await machine.start()
    reaching = asyncio.create_task(link.reach(machine.alive, 20))
    await until(lambda: len(machine.vmm.said) >= 4)
    machine.vmm.guest = {**GUEST}
    assert await reaching is None
    assert machine.vmm.said.count(DIAL_RENEWAL) == 1
    await link.agent.ping()


async def test_a_connection_that_was_lost_without_a_sign_is_made_again(machine: Machine) -> None:
    """The guest's kernel has forgotten it, and its VMM has not."""
    machine.vmm.guest = {**GUEST, RENEWAL_PORT: answering(b"OK 1\n")}
    link = await machine.start()
    reaching = asyncio.create_task(link.reach(machine.alive, 20))
    await until(lambda: machine.vmm.said == [DIAL_RENEWAL])
    machine.vmm.guest[RENEWAL_PORT] = renewal
    assert await reaching is None
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_RENEWAL, DIAL_AGENT]


async def test_a_vmm_that_ends_is_the_cause(machine: Machine) -> None:
    link = await machine.start()

    async def ended() -> str:
        return "it ended"

    assert await link.reach(ended, 20) == "it ended"


async def test_a_guest_that_never_answers_is_lost(machine: Machine) -> None:
    machine.vmm.guest = {RENEWAL_PORT: answering(b"OK 1\n")}
    link = await machine.start()
    with pytest.raises(GuestLost, match=r"within 0\.3 s"):
        await link.reach(machine.alive, 0.3)


async def test_after_a_snapshot_everything_is_dialled_anew(machine: Machine) -> None:
    link = await machine.run()
    console = machine.vmm.call()
    console.send(b"before\n")
    await until(lambda: "before" in link.console.tail())
    await link.hang_up()
    await link.hang_up()
    machine.vmm.call().send(b"after\n")
    assert await link.reach(machine.alive, 20) is None
    await link.agent.ping()
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_AGENT] * 2
    await until(lambda: link.console.tail() == ["before", "after"])


async def test_a_guest_is_called_once_it_has_called_itself(
    nothing_left: None, tmp_path: Path
) -> None:
    """Its kernel breaks connections until then, which looks like a guest that does not answer."""
    machine = Machine(tmp_path, call_seconds=60)
    machine.vmm.guest = {**GUEST}
    link = await machine.start()
    try:
        for _ in range(2):
            reaching = asyncio.create_task(link.reach(machine.alive, 20))
            done, _ = await asyncio.wait({reaching}, timeout=0.2)
            assert not done
            before = len(machine.vmm.said)
            machine.vmm.call()
            assert await reaching is None
            assert machine.vmm.said[before:] == [DIAL_RENEWAL, DIAL_AGENT]
            assert before in (0, 2)
            await link.hang_up()
    finally:
        await machine.close()


async def test_calls_end_when_connections_are_given_up(machine: Machine) -> None:
    link = await machine.run()
    calling = asyncio.create_task(link.agent.reboot(Manner.FORCED))
    await asyncio.sleep(0)
    await link.hang_up()
    with pytest.raises(GuestLost):
        await calling


async def test_a_broken_agent_ends_the_call_at_once_and_the_next_dials(machine: Machine) -> None:
    link = await machine.run()
    await link.agent.ping()
    calling = asyncio.create_task(link.agent.reboot(Manner.FORCED))
    await asyncio.sleep(0.05)
    machine.vmm.hang_up()
    with pytest.raises(GuestLost, match="its channel was closed"):
        await calling
    await link.agent.ping()
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_AGENT, DIAL_AGENT]


async def test_a_renewal_that_is_broken_is_dialled_again(machine: Machine) -> None:
    link = await machine.run()
    machine.vmm.hang_up()
    await link.renewal.greet()
    assert machine.vmm.said == [DIAL_RENEWAL, DIAL_AGENT, DIAL_RENEWAL]


async def test_a_guest_that_has_closed_its_door_is_lost(machine: Machine) -> None:
    link = await machine.run()
    del machine.vmm.guest[RENEWAL_PORT], machine.vmm.guest[AGENT_PORT]
    machine.vmm.hang_up()
    with pytest.raises(GuestLost, match="its channel is closed"):
        await link.renewal.greet()
    with pytest.raises(GuestLost, match="its channel"):
        await link.agent.ping()


async def test_before_it_listens_there_is_nothing(machine: Machine) -> None:
    with pytest.raises(GuestLost, match="not connected"):
        _ = machine.link.renewal
    with pytest.raises(GuestLost, match="not connected"):
        _ = machine.link.agent
    await machine.link.hang_up()


async def test_last_words_of_a_dead_vmm_are_kept(machine: Machine) -> None:
    link = await machine.start()
    caller = machine.vmm.call()
    caller.send(b"waggle: boot failed\n")
    machine.messages.send(b"vmm: stopping")
    caller.close()
    machine.messages.close()
    await link.drain()
    assert sorted(link.console.tail()) == ["vmm: stopping", "waggle: boot failed"]
    assert link.console.cause == "waggle: boot failed"


async def test_close_is_bounded_while_the_vmm_holds_everything(machine: Machine) -> None:
    link = await machine.run()
    machine.vmm.call().send(b"here\n")
    await until(lambda: "here" in link.console.tail())
    async with asyncio.timeout(10):
        await link.close()
