# SPDX-License-Identifier: Apache-2.0
"""Renewal against guests that keep time well, badly or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import GuestLost
from waggle.infra.guest.channel import over
from waggle.infra.guest.renewal import DRIFT, Renewal

pytestmark = pytest.mark.anyio
MS = 1_000_000


class Host:
    """A clock that only the guest's delays move."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * 1000 * MS

    def __call__(self) -> int:
        return self.now


@dataclass
class FakeGuest:
    """A guest that answers as the kit's renew.c does; its clock is `ahead` of the host's.

    `delays` are the ns that each question and its answer take; the last stays. A guest that does
    not obey never sets its clock.
    """

    host: Host
    delays: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    ahead: int = -(10**18)
    obeys: bool = True
    good: int = 1
    records: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    rounds: int = 0

    def install(self, name: str, data: bytes) -> None:
        self.records.append((name, data))
        if not self.obeys:
            return
        if name == "clock":
            self.ahead = struct.unpack("<Q", data)[0] - self.host.now
        elif name == "step":
            self.ahead += struct.unpack("<q", data)[0] // 1000 * 1000

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received: list[tuple[str, bytes]] = []
        while True:
            sizes = struct.unpack("<II", await reader.readexactly(8))
            if sizes != (0, 0):
                name = (await reader.readexactly(sizes[0])).decode()
                received.append((name, await reader.readexactly(sizes[1])))
                continue
            there, back = self.delays[min(self.rounds, len(self.delays) - 1)]
            self.rounds += 1
            self.host.now += there
            while received:
                self.install(*received.pop(0))
            writer.write(struct.pack("<Bq", self.good, self.host.now + self.ahead))
            self.host.now += back


@asynccontextmanager
async def connected(guest: FakeGuest) -> AsyncGenerator[Renewal]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(guest.serve(reader, writer))
    mine = await asyncio.open_connection(sock=ours)
    try:
        yield Renewal(over(*mine), now=guest.host)
    finally:
        serving.cancel()
        for end in (writer, mine[1]):
            end.close()


async def test_records_arrive_once_and_the_clock_last() -> None:
    guest = FakeGuest(Host(), delays=[(30 * MS, 0)] * 3 + [(0, 30 * MS)])
    async with connected(guest) as renewal:
        await renewal.renew({"hostname": b"a", "seed": b"s" * 64})
    names = [name for name, _ in guest.records]
    assert names[:3] == ["hostname", "seed", "clock"]
    assert set(names[3:]) == {"step"}


async def test_a_slow_first_answer_is_repeated() -> None:
    """A guest that translates code answers late, so the time of its clock reading is unknown."""
    guest = FakeGuest(Host(), delays=[(400 * MS, 0), (0, 0)])
    async with connected(guest) as renewal:
        await renewal.renew({})
    assert guest.rounds > 1
    assert abs(guest.ahead) <= DRIFT


async def test_the_way_to_the_guest_is_compensated() -> None:
    guest = FakeGuest(Host(), delays=[(18 * MS, 18 * MS)])
    async with connected(guest) as renewal:
        await renewal.renew({})
    assert abs(guest.ahead) <= DRIFT


async def test_slow_answers_tell_the_time_if_they_are_slow_on_either_side() -> None:
    """On a busy host no answer comes within twice the limit."""
    guest = FakeGuest(Host(), delays=[(60 * MS, 20 * MS), (70 * MS, 5 * MS), (5 * MS, 70 * MS)])
    async with connected(guest) as renewal:
        await renewal.renew({})
    assert abs(guest.ahead) <= DRIFT
    assert guest.rounds <= 5


ways = st.integers(0, 200 * MS)


@given(delays=st.lists(st.tuples(ways, ways), min_size=1, max_size=30), obeys=st.booleans())
def test_a_guest_that_is_renewed_has_the_hosts_time(
    delays: list[tuple[int, int]], obeys: bool
) -> None:
    async def renew() -> None:
        guest = FakeGuest(Host(), delays=delays, obeys=obeys)
        async with connected(guest) as renewal:
            try:
                await renewal.renew({})
            except GuestLost:
                return
        assert abs(guest.ahead) <= DRIFT

    asyncio.run(renew())


@pytest.mark.parametrize(
    "guest, why",
    [
        (FakeGuest(Host(), ahead=60 * MS, obeys=False), "does not keep the time"),
        (FakeGuest(Host(), ahead=-60 * MS, obeys=False), "does not keep the time"),
        (FakeGuest(Host(), delays=[(200 * MS, 0)]), "does not keep the time"),
        (FakeGuest(Host(), good=0), "refused"),
    ],
)
async def test_a_guest_with_a_wrong_clock_is_not_handed_out(guest: FakeGuest, why: str) -> None:
    async with connected(guest) as renewal:
        with pytest.raises(GuestLost, match=why):
            await renewal.renew({})


@pytest.mark.parametrize("told", [2**63 - 1, -(2**63)])
async def test_times_out_of_the_world_are_refused(told: int) -> None:
    host = Host()
    guest = FakeGuest(host, ahead=told - host.now, obeys=False)
    async with connected(guest) as renewal:
        with pytest.raises(GuestLost, match="does not keep the time"):
            await renewal.renew({})


async def test_silence_ends_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs, pytest.raises(GuestLost, match=r"within 0\.05 s"):
        await Renewal(over(reader, writer)).renew({}, deadline=0.05)
    writer.close()


async def test_a_guest_that_hangs_up_is_lost() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.close()
    with pytest.raises(GuestLost, match="closed"):
        await Renewal(over(reader, writer)).renew({})
    writer.close()


async def test_a_guest_is_asked_to_end_with_the_time_of_its_programs() -> None:
    guest = FakeGuest(Host())
    async with connected(guest) as renewal:
        await renewal.end(1.5)
    assert guest.records == [("end", struct.pack("<I", 1500))]


async def test_a_guest_that_does_not_end_says_so() -> None:
    async with connected(FakeGuest(Host(), good=0)) as renewal:
        with pytest.raises(GuestLost, match="refused"):
            await renewal.end(0)
