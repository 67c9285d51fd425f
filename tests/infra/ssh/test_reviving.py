# SPDX-License-Identifier: Apache-2.0
"""A server that answers nobody is begun anew once, and connected to again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from tests.infra.ssh.peer import Peer, peer, raw_peer
from tests.support.waiting import cancelled, until

from waggle.domain.errors import GuestLost
from waggle.infra.ssh import ATTEMPTS, SshConnection, SshSilent

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]


@dataclass
class Front:
    """A port before a peer: connections end at once until `works`, which `revive` may set."""

    peer: Peer
    port: int = 0
    works: bool = False
    revivals: int = 0
    refused: int = 0
    heals: bool = True
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event | None = None

    async def revive(self) -> None:
        self.revivals += 1
        self.begun.set()
        if self.go is not None:
            await self.go.wait()
        self.works = self.heals

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.works:
            self.refused += 1
            writer.close()
            return
        inner = await asyncio.open_connection("127.0.0.1", self.peer.port)
        try:
            await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))
        finally:
            inner[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def fronted() -> AsyncGenerator[tuple[Front, SshConnection]]:
    async with peer() as made:
        front = Front(made)
        async with raw_peer(front.serve) as before:
            connection = SshConnection(before.port, made.keys, timeout=10.0)
            connection.revive = front.revive
            try:
                yield front, connection
            finally:
                await connection.aclose()


async def test_a_silent_server_is_begun_anew_and_then_serves() -> None:
    async with fronted() as (front, connection):
        first = await connection.get()
        assert (front.revivals, front.refused, front.peer.connections) == (1, ATTEMPTS, 1)
        assert await connection.get() is first
        assert front.revivals == 1
        assert front.peer.commands == []


async def test_it_is_begun_anew_once_a_call() -> None:
    async with fronted() as (front, connection):
        front.heals = False
        for calls in (1, 2):
            with pytest.raises(SshSilent, match="does not answer"):
                await connection.get()
            assert (front.revivals, front.refused) == (calls, calls * 2 * ATTEMPTS)


async def test_callers_at_once_share_one_beginning() -> None:
    async with fronted() as (front, connection):
        found = await asyncio.gather(*(connection.get() for _ in range(5)))
        assert len(set(map(id, found))) == 1
        assert front.revivals == 1


async def test_callers_at_once_share_one_failure() -> None:
    async with fronted() as (front, connection):
        front.heals = False
        calls = (connection.get() for _ in range(5))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [SshSilent] * 5
        assert (front.revivals, front.refused) == (1, 2 * ATTEMPTS)


async def test_it_is_begun_anew_although_its_callers_have_left() -> None:
    """Calls with less time than an attempt takes would never have it begun anew."""
    async with fronted() as (front, connection):
        front.go = asyncio.Event()
        callers = [asyncio.create_task(connection.get()) for _ in range(2)]
        await front.begun.wait()
        for caller in callers:
            await cancelled(caller)
        front.go.set()
        await connection.get()
        assert (front.revivals, front.refused, front.peer.connections) == (1, ATTEMPTS, 1)


async def test_a_failure_for_which_nobody_waits_is_not_reported_and_not_kept() -> None:
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: reports.append(what))
    async with fronted() as (front, connection):
        front.heals = False
        caller = asyncio.create_task(connection.get())
        await front.begun.wait()
        await cancelled(caller)
        attempt = connection._attempt
        assert attempt is not None
        await until(attempt.done)
        front.works = True
        await connection.get()
        gc.collect()
    assert (front.revivals, reports) == (1, [])


async def test_a_machine_that_is_to_stand_still_has_nobody_connect_to_it() -> None:
    async with fronted() as (front, connection):
        front.go = asyncio.Event()
        caller = asyncio.create_task(connection.get())
        await front.begun.wait()
        connection.abandon()
        assert not caller.done(), "somebody waits for it"
        await cancelled(caller)
        connection.abandon()
        front.go.set()
        await connection.get()
        assert front.revivals == 2, "the first attempt did not go on"
        assert (front.refused, front.peer.connections) == (2 * ATTEMPTS, 1)


async def test_a_caller_that_comes_as_an_attempt_is_ended_gets_another() -> None:
    async with fronted() as (front, connection):
        front.go = asyncio.Event()
        caller = asyncio.create_task(connection.get())
        await front.begun.wait()
        await cancelled(caller)
        front.works = True
        connection.abandon()
        assert await connection.get() is await connection.get()
        assert front.peer.connections == 1


async def test_without_a_way_to_begin_it_anew_the_first_failure_counts() -> None:
    async with fronted() as (front, connection):
        connection.revive = None
        with pytest.raises(SshSilent):
            await connection.get()
        assert front.refused == ATTEMPTS


async def test_a_connection_that_is_closed_meanwhile_is_not_made() -> None:
    async with fronted() as (front, connection):
        front.go = asyncio.Event()
        getting = asyncio.create_task(connection.get())
        await front.begun.wait()
        await connection.aclose()
        front.go.set()
        with pytest.raises(GuestLost, match="being destroyed"):
            await getting
        assert (front.refused, front.peer.connections) == (ATTEMPTS, 0)


async def test_a_server_that_works_is_left_alone() -> None:
    async with fronted() as (front, connection):
        front.works = True
        await connection.get()
        connection.hang_up()
        await connection.get()
        assert (front.revivals, front.peer.connections) == (0, 2)
