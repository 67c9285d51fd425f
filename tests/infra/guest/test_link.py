# SPDX-License-Identifier: Apache-2.0
"""The link to one machine over real sockets and pipes: everything received, and its close."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.support.leaks import Leaks
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.infra.guest.console import Console
from waggle.infra.guest.link import GuestLink, explain

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


class Ends:
    """The other ends of a link's wires; the near ends belong to the link once it is connected."""

    def __init__(self, log: Path, *, pipe: bool = False) -> None:
        self.link = GuestLink(Console(log))
        self.messages, self._messages = socket.socketpair()
        self.agent, self._agent = socket.socketpair()
        self._console: socket.socket | io.FileIO
        if pipe:
            read, write = os.pipe()
            self._console, self.console = io.FileIO(read, "r"), io.FileIO(write, "w")
        else:
            self._console, end = socket.socketpair()
            self.console = io.FileIO(os.dup(end.fileno()), "w")
            end.close()

    async def connect(self) -> GuestLink:
        await self.link.connect(self._console, self._messages, self._agent)
        return self.link

    def end(self) -> None:
        """Close all ends, as when the VMM has died."""
        for end in (self.console, self.messages, self.agent):
            end.close()

    def close(self) -> None:
        self.end()
        for end in (self._console, self._messages, self._agent):
            end.close()

    def alive(self) -> asyncio.Future[str]:
        """Return a future for the VMM's end, which does not come."""
        return asyncio.get_running_loop().create_future()


@pytest.fixture(params=["socket", "pipe"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Ends]:
    """The ends of a link; the console is a socket with QEMU and a pipe with libkrun."""
    watch = Leaks()
    made = Ends(tmp_path / "console.log", pipe=request.param == "pipe")
    yield made
    made.end()
    await made.link.close()
    made.close()
    await watch.settle()


async def test_a_guest_gets_ready(ends: Ends) -> None:
    link = await ends.connect()
    ends.console.write(b"booting\nwaggle: ready\n")
    assert await link.until_ready(ends.alive) is None
    assert link.console.tail() == ["booting", "waggle: ready"]


async def test_vmm_messages_join_the_consoles_tail(ends: Ends) -> None:
    link = await ends.connect()
    ends.messages.send(b"vmm: out of luck\n")
    await until(lambda: link.console.tail() == ["vmm: out of luck"])


async def test_a_vmm_that_ends_first_is_the_cause(ends: Ends) -> None:
    link = await ends.connect()

    async def ended() -> str:
        return "it ended"

    assert await link.until_ready(ended) == "it ended"


async def test_a_guest_that_is_ready_and_dead_at_once_is_dead(ends: Ends) -> None:
    link = await ends.connect()
    link.console.feed(b"waggle: ready\n")
    ended = asyncio.get_running_loop().create_future()
    ended.set_result("it ended")
    assert await link.until_ready(lambda: ended) == "it ended"


async def test_a_panic_is_the_cause_and_the_lines_after_it_are_kept(ends: Ends) -> None:
    link = await ends.connect()
    ended = asyncio.Event()

    async def wait() -> str:
        await ended.wait()
        return "it ended"

    ends.console.write(b"Kernel panic - not syncing: x\n")
    waiting = asyncio.create_task(link.until_ready(wait))
    await until(link.console.failed.is_set)
    ends.console.write(b"Call trace\n")
    await until(lambda: link.console.tail()[-1] == "Call trace")
    ended.set()
    assert await waiting == "Kernel panic - not syncing: x"


async def test_a_panic_without_an_end_is_waited_for_briefly(ends: Ends) -> None:
    link = await ends.connect()
    ends.console.write(b"waggle: boot failed: y\n")
    assert await link.until_ready(ends.alive) == "waggle: boot failed: y"


async def test_a_cancelled_wait_can_be_repeated(ends: Ends) -> None:
    link = await ends.connect()
    waiting = asyncio.create_task(link.until_ready(ends.alive))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    ends.console.write(b"waggle: ready\n")
    assert await link.until_ready(ends.alive) is None


async def test_the_agent_is_called_over_its_own_wire(ends: Ends) -> None:
    link = await ends.connect()
    calling = asyncio.create_task(link.agent.ping())
    ends.agent.setblocking(False)
    request = b""
    while b'"ping"' not in request:
        request += await asyncio.get_running_loop().sock_recv(ends.agent, 1000)
    assert request.startswith(b"\n")
    ends.agent.close()
    with pytest.raises(GuestLost):
        await calling


async def test_before_connect_there_is_no_agent(ends: Ends) -> None:
    with pytest.raises(GuestLost, match="not connected"):
        await ends.link.agent.ping()


async def test_drain_reads_what_a_dead_vmm_had_written(ends: Ends) -> None:
    link = await ends.connect()
    ends.console.write(b"last words\n")
    ends.messages.send(b"last message")
    ends.end()
    await link.drain()
    await link.drain()
    assert sorted(link.console.tail()) == ["last message", "last words"]


async def test_close_is_bounded_although_the_other_ends_stay_open(ends: Ends) -> None:
    """A child of the VMM may hold them, and neither writes, reads nor closes."""
    link = await ends.connect()
    writer = link._writers[-1]
    writer.write(b"x" * 10_000_000)
    assert writer.transport.get_write_buffer_size() > 0
    async with asyncio.timeout(10):
        await link.close()


async def test_close_before_connect_does_nothing(ends: Ends) -> None:
    await ends.link.close()


@pytest.mark.parametrize("steps", range(6))
async def test_a_connect_that_is_cancelled_is_closed_like_any_other(ends: Ends, steps: int) -> None:
    connecting = asyncio.create_task(ends.connect())
    for _ in range(steps):
        await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    ends.end()
    await ends.link.close()


@pytest.mark.parametrize(
    "status,cause,words",
    [
        (0, None, "the guest shut down"),
        (7, None, "vmm ended with status 7"),
        (-signal.SIGKILL, None, "vmm was killed by SIGKILL"),
        (-1000, None, "vmm ended with status -1000"),
        (0, "Kernel panic", "Kernel panic"),
        (-signal.SIGTERM, "Kernel panic", "Kernel panic"),
        (1, "", "vmm ended with status 1"),
    ],
)
async def test_an_end_is_explained_by_status_and_cause(
    status: int, cause: str | None, words: str
) -> None:
    assert explain("vmm", status, cause) == words
