# SPDX-License-Identifier: Apache-2.0
"""A connection over which nothing can be begun is given up, and what becomes of its callers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import asyncssh
import pytest
from tests.infra.ssh.peer import Peer, peer, raw_peer
from tests.infra.ssh.run.frames import END, frame
from tests.support.jobs import job
from tests.support.vm import command
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.domain.programs.guest_job import GuestJob
from waggle.infra.ssh import SshConnection, SshSilent
from waggle.infra.ssh.run import KILL_PATIENCE
from waggle.infra.ssh.run.jobs import GuestJobs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
LIMIT = KILL_PATIENCE[0]
LITTLE = 0.2
"""Seconds of a command that ends because the server is silent, not because of the test's clock."""
NOTICED = 30.0
"""Seconds of a test: less than until asyncssh itself notices that a server is silent."""
SILENT = "did not answer within the command's time"


@dataclass
class Clock:
    """Every reading is `step` seconds after the one before."""

    step: float = 0.0
    now: float = 1_000.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@dataclass
class Way:
    """A port before a peer. `stop` silences the connections that there are, until `go_on`."""

    peer: Peer
    is_silent: bool = False
    """Whether those to come are silent, too."""
    held: int = 0
    """Pieces that wait to be passed on."""
    _flows: list[asyncio.Event] = field(default_factory=list[asyncio.Event])

    def stop(self) -> None:
        for flow in self._flows:
            flow.clear()

    def go_on(self) -> None:
        for flow in self._flows:
            flow.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = asyncio.Event()
        if not self.is_silent:
            flow.set()
        self._flows.append(flow)
        inner = await asyncio.open_connection("127.0.0.1", self.peer.port)
        try:
            await asyncio.gather(
                self._pump(reader, inner[1], flow), self._pump(inner[0], writer, flow)
            )
        finally:
            inner[1].close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.held += not flow.is_set()
                await flow.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass
class Rig:
    """Jobs over a connection that can be silenced; `released` jobs end, all others go on."""

    way: Way
    connection: SshConnection
    clock: Clock
    jobs: GuestJobs
    released: asyncio.Event

    async def silent(self, wanted: GuestJob) -> None:
        """Attend it with little time, while the server is silent."""
        with pytest.raises(SshSilent, match=SILENT) as caught:
            await self.jobs.attend(wanted)
        assert "call again" in caught.value.hint

    def connections(self) -> int:
        return self.way.peer.connections


@contextlib.asynccontextmanager
async def rigged() -> AsyncGenerator[Rig]:
    released = asyncio.Event()

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(frame(b"s"))
        await released.wait()
        process.stdout.write(frame(b"x", END))
        process.exit(0)

    async with peer(run) as made:
        way, clock = Way(made), Clock()
        async with raw_peer(way.serve) as before:
            connection = SshConnection(before.port, made.keys)
            jobs = GuestJobs(connection, now=clock)
            try:
                async with asyncio.timeout(NOTICED):
                    yield Rig(way, connection, clock, jobs, released)
            finally:
                released.set()
                await connection.aclose()


def wanted(timeout: float = LITTLE) -> GuestJob:
    return job(command("x", timeout=timeout))


async def test_a_server_that_goes_on_in_time_begins_what_has_waited() -> None:
    async with rigged() as rig:
        await rig.connection.get()
        rig.way.stop()
        rig.clock.step = LIMIT  # the command has more time than that
        attending = asyncio.create_task(rig.jobs.attend(wanted(60.0)))
        await until(lambda: rig.way.held > 0)
        assert not attending.done()
        rig.released.set()
        rig.way.go_on()
        assert (await attending).exit_code == 3
        assert rig.connections() == 1


async def test_within_the_limit_the_connection_is_kept() -> None:
    async with rigged() as rig:
        first = await rig.connection.get()
        rig.way.stop()
        rig.clock.step = LIMIT - 0.1
        await rig.silent(wanted())
        rig.released.set()
        rig.way.go_on()
        assert (await rig.jobs.attend(wanted(60.0))).exit_code == 3
        assert await rig.connection.get() is first
        assert rig.connections() == 1


async def test_past_the_limit_it_is_given_up_and_the_next_call_gets_another() -> None:
    async with rigged() as rig:
        first = await rig.connection.get()
        rig.way.stop()
        rig.clock.step = LIMIT
        await rig.silent(late := wanted())
        await first.wait_closed()
        rig.released.set()
        assert (await rig.jobs.attend(wanted(60.0))).exit_code == 3
        assert rig.connections() == 2
        assert not [asked for asked in rig.way.peer.commands if late.id in asked], "it never began"


async def test_the_other_callers_of_that_connection_are_told_and_go_on_over_another() -> None:
    async with rigged() as rig:
        running, waiting = wanted(60.0), wanted(60.0)
        others = [asyncio.create_task(rig.jobs.attend(running))]
        await until(lambda: running.is_started)
        rig.way.stop()
        others.append(asyncio.create_task(rig.jobs.attend(waiting)))
        asking = asyncio.create_task(rig.jobs.signal(running.id, 2))
        await until(lambda: rig.way.held > 0)
        rig.clock.step = LIMIT
        await rig.silent(wanted())
        with pytest.raises(GuestLost, match="broke before it answered about a job"):
            await asking
        await until(lambda: waiting.is_started)
        rig.released.set()
        assert [(await other).exit_code for other in others] == [3, 3]
        assert rig.connections() == 2
        assert sorted(rig.way.peer.commands[1:]) == [
            f"follow {running.id} 0 0 0",
            f"start {waiting.id}",
        ]


async def test_a_connection_that_is_being_made_is_not_given_up_with_a_call() -> None:
    async with rigged() as rig:
        rig.clock.step = LIMIT
        rig.way.is_silent = True
        await rig.silent(wanted())
        assert rig.way.held > 0
        rig.way.go_on()
        rig.released.set()
        assert (await rig.jobs.attend(wanted(60.0))).exit_code == 3
        assert rig.connections() == 1
