# SPDX-License-Identifier: Apache-2.0
"""The relay between two in-memory streams: backpressure, half-close and idleness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.support.waiting import cancelled

from waggle.infra.net import PeerGone, Stream, idle_limit, relay

if TYPE_CHECKING:
    from tests.infra.net.lab import Advance, Turns

pytestmark = pytest.mark.anyio
FOREVER = 1000.0


@dataclass
class Pipe:
    """One side, scripted by the test: the data it sends, and whether it takes data."""

    sends: asyncio.Queue[bytes | Exception] = field(
        default_factory=asyncio.Queue[bytes | Exception]
    )
    takes: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[bytes] = field(default_factory=list[bytes])
    reads: int = 0
    ended: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        self.takes.set()

    def stream(self) -> Stream:
        return Stream(self, self)

    async def read(self, n: int = -1, /) -> bytes:
        self.reads += 1
        item = await self.sends.get()
        if isinstance(item, Exception):
            raise item
        return item

    def write(self, data: bytes, /) -> None:
        if self.ended or self.closed:
            raise BrokenPipeError
        self.got.append(data)

    async def drain(self) -> None:
        await self.takes.wait()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    async def wait_closed(self) -> None:
        pass


async def test_the_directions_end_separately(turns: Turns) -> None:
    guest, server = Pipe(), Pipe()
    task = asyncio.ensure_future(relay(guest.stream(), server.stream(), b"early", FOREVER))
    guest.sends.put_nowait(b"question")
    guest.sends.put_nowait(b"")
    await turns()
    assert server.got == [b"early", b"question"]
    assert (server.ended, guest.ended, task.done()) == (True, False, False)
    server.sends.put_nowait(b"answer")
    server.sends.put_nowait(b"")
    await task
    assert guest.got == [b"answer"]
    assert guest.ended


async def test_a_side_is_not_read_while_the_other_takes_nothing(turns: Turns) -> None:
    guest, server = Pipe(), Pipe()
    guest.takes.clear()
    for _ in range(100):
        server.sends.put_nowait(b"x" * 1000)
    server.sends.put_nowait(b"")
    guest.sends.put_nowait(b"")
    task = asyncio.ensure_future(relay(guest.stream(), server.stream(), b"", FOREVER))
    await turns()
    assert (server.reads, len(guest.got)) == (1, 1)
    guest.takes.set()
    await task
    assert len(guest.got) == 100


@pytest.mark.parametrize("failure", [ConnectionResetError(), RuntimeError("an SSH error")])
async def test_a_side_that_breaks_off_ends_both_directions(failure: Exception) -> None:
    guest, server = Pipe(), Pipe()
    server.sends.put_nowait(failure)
    with pytest.raises(PeerGone):
        await relay(guest.stream(), server.stream(), b"", FOREVER)
    assert not guest.ended  # a break is not forwarded as a proper end


async def test_a_side_that_is_already_closed_is_gone() -> None:
    guest, server = Pipe(), Pipe(closed=True)
    guest.sends.put_nowait(b"x")
    with pytest.raises(PeerGone):
        await relay(guest.stream(), server.stream(), b"", FOREVER)


@pytest.mark.parametrize("stuck", [True, False])
async def test_an_idle_tunnel_ends(stuck: bool) -> None:
    guest, server = Pipe(), Pipe()
    if stuck:
        guest.takes.clear()
        server.sends.put_nowait(b"not taken")
    with pytest.raises(TimeoutError):
        await relay(guest.stream(), server.stream(), b"", 0.05)


async def test_a_busy_direction_keeps_an_idle_one_open(turns: Turns, advance: Advance) -> None:
    guest, server = Pipe(), Pipe()
    task = asyncio.ensure_future(relay(guest.stream(), server.stream(), b"", 100))
    for _ in range(5):
        await turns()
        advance(90)
        server.sends.put_nowait(b"x")
        await turns()
        assert not task.done()
    advance(101)
    with pytest.raises(TimeoutError):
        await task


async def test_a_byte_at_the_end_of_the_limit_is_not_an_error_of_its_own() -> None:
    """The guest chooses the time, so its byte may arrive in the turn in which the limit ends."""

    async def arrive(touch: Callable[[], None]) -> None:
        touch()

    async def serve() -> None:
        async with idle_limit(0) as touch, asyncio.TaskGroup() as group:
            group.create_task(arrive(touch))
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await serve()


async def test_cancelling_a_relay_stops_both_directions(turns: Turns) -> None:
    guest, server = Pipe(), Pipe()
    task = asyncio.ensure_future(relay(guest.stream(), server.stream(), b"", FOREVER))
    await turns()
    await cancelled(task)
    assert not guest.ended
    assert not server.ended


async def test_finish_flushes_and_waits_for_the_peer_to_end(turns: Turns) -> None:
    pipe = Pipe()
    pipe.takes.clear()
    task = asyncio.ensure_future(pipe.stream().finish(FOREVER, FOREVER))
    await turns()
    assert not pipe.ended
    pipe.takes.set()
    await turns()
    assert (pipe.ended, pipe.closed) == (True, False)
    pipe.sends.put_nowait(b"still talking")
    pipe.sends.put_nowait(b"")
    await task
    assert pipe.closed


class Buffered(Pipe):
    """A side with a write buffer, like a transport's: drained means below the high-water mark."""

    buffered = 10
    high = 64

    @property
    def transport(self) -> Buffered:
        return self

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def abort(self) -> None:
        self.closed = True

    async def drain(self) -> None:
        while self.buffered > self.high:
            self.takes.clear()
            await self.takes.wait()


async def test_finish_gives_the_last_bytes_the_flush_time_not_the_linger_time(turns: Turns) -> None:
    pipe = Buffered()
    task = asyncio.ensure_future(pipe.stream().finish(FOREVER, 0))
    await turns()
    assert (pipe.ended, pipe.closed) == (False, False)
    pipe.buffered = 0
    pipe.takes.set()
    await task
    assert (pipe.ended, pipe.closed) == (True, True)


@pytest.mark.parametrize("takes", [True, False])
async def test_finish_gives_up_in_time(takes: bool) -> None:
    pipe = Pipe()
    if not takes:
        pipe.takes.clear()
    await pipe.stream().finish(0.02, 0.02)
    assert pipe.closed


async def test_a_cancelled_finish_still_closes(turns: Turns) -> None:
    pipe = Pipe()
    task = asyncio.ensure_future(pipe.stream().finish(FOREVER, FOREVER))
    await turns()
    await cancelled(task)
    assert pipe.closed
