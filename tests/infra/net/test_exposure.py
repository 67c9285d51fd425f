# SPDX-License-Identifier: Apache-2.0
"""The way to ports of a guest that serves, refuses, hangs and answers too late, over sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.infra.net.behind import GUEST_PORT, Guest, echo_at_the_end, guest
from tests.support.waiting import until

from waggle.domain.exposure import MAX_VISITS
from waggle.infra.net.exposure import Reach

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def reach(guest: Guest, answer_seconds: float = 5.0) -> AsyncGenerator[Reach]:
    """Yield the way to a guest; nothing of it is left afterwards."""
    made = Reach(guest.connect, answer_seconds)
    try:
        yield made
    finally:
        await made.aclose()
        assert made.late == 0


async def test_a_stream_carries_bytes_and_ends() -> None:
    async with guest(echo_at_the_end) as peer, reach(peer) as made:
        stream = await made.connect(GUEST_PORT)
        assert stream is not None
        await stream.write(b"hello")
        stream.write_eof()
        assert await stream.read() == b"hello"
        assert await stream.read() == b""
        stream.abort()
        assert peer.ports == [GUEST_PORT]


async def test_a_refusing_guest_is_none() -> None:
    async with reach(Guest(refuses=True)) as made:
        assert await made.connect(GUEST_PORT) is None
        assert not await made.answers(GUEST_PORT, 0)


async def test_unanswered_connections_are_bounded_until_they_are_given_up() -> None:
    peer = Guest(hangs=asyncio.Event())
    async with reach(peer, 0.01) as made:
        for _ in range(MAX_VISITS):
            assert await made.connect(GUEST_PORT) is None
        assert made.late == MAX_VISITS
        assert not await made.answers(GUEST_PORT, 0)
        assert len(peer.ports) == MAX_VISITS
        await made.clear()
        assert made.late == 0
        assert await made.connect(GUEST_PORT) is None
        assert len(peer.ports) == MAX_VISITS + 1


async def test_an_answer_that_comes_too_late_is_closed() -> None:
    closed = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionResetError):
            await reader.read(-1)
        closed.set()

    async with guest(watch) as peer:
        peer.hangs = asyncio.Event()
        async with reach(peer, 0.01) as made:
            assert not await made.answers(GUEST_PORT, 0)
            peer.hangs.set()
            await asyncio.wait_for(closed.wait(), 5)
            await until(lambda: made.late == 0)


async def test_answers_waits_until_something_listens() -> None:
    async with guest(echo_at_the_end) as peer, reach(peer) as made:
        peer.refuses = True
        waiting = asyncio.create_task(made.answers(GUEST_PORT, 20))
        await until(lambda: len(peer.ports) > 0)
        peer.refuses = False
        assert await waiting
        assert made.late == 0


async def test_nothing_is_connected_after_the_end() -> None:
    async with guest(echo_at_the_end) as peer, reach(peer) as made:
        await made.aclose()
        assert await made.connect(GUEST_PORT) is None
        assert not await made.answers(GUEST_PORT, 5)
        assert peer.ports == []
