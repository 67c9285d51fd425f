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

from waggle.domain.errors import GuestLost
from waggle.infra.guest.renewal import DRIFT, Renewal

pytestmark = pytest.mark.anyio
MS = 1_000_000


@dataclass
class Host:
    """A clock that only the guest's delays move."""

    now: int = 1_700_000_000 * 1000 * MS

    def __call__(self) -> int:
        return self.now


@dataclass
class FakeGuest:
    """A guest that answers as the kit's renew.c does.

    Requests take `there` ns, answers `back` ns, and its clock is wrong by `off` ns.
    """

    host: Host
    there: int = 0
    back: int = 0
    off: int = 0
    slow_first: int = 0
    good: int = 1
    records: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    rounds: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            sizes = struct.unpack("<II", await reader.readexactly(8))
            if sizes != (0, 0):
                name = (await reader.readexactly(sizes[0])).decode()
                self.records.append((name, await reader.readexactly(sizes[1])))
                continue
            (clock,) = struct.unpack("<Q", self.records[-1][1])
            self.rounds += 1
            self.host.now += self.there + (self.slow_first if self.rounds == 1 else 0)
            writer.write(struct.pack("<BQ", self.good, clock + self.off))
            self.host.now += self.back


@asynccontextmanager
async def connected(guest: FakeGuest) -> AsyncGenerator[Renewal]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(guest.serve(reader, writer))
    mine = await asyncio.open_connection(sock=ours)
    try:
        yield Renewal(*mine, now=guest.host)
    finally:
        serving.cancel()
        for end in (writer, mine[1]):
            end.close()


async def test_records_arrive_once_and_the_clock_last() -> None:
    guest = FakeGuest(Host())
    async with connected(guest) as renewal:
        await renewal.renew({"hostname": b"a", "seed": b"s" * 64})
    names = [name for name, _ in guest.records]
    assert names[:3] == ["hostname", "seed", "clock"]
    assert set(names[3:]) == {"clock"}


async def test_a_slow_first_answer_is_repeated() -> None:
    """A guest that translates code answers late, so the time of its clock reading is unknown."""
    guest = FakeGuest(Host(), slow_first=400 * MS)
    async with connected(guest) as renewal:
        await renewal.renew({})
    assert guest.rounds > 1


async def test_the_way_to_the_guest_is_compensated() -> None:
    guest = FakeGuest(Host(), there=15 * MS, back=15 * MS)
    async with connected(guest) as renewal:
        await renewal.renew({})
    (clock,) = struct.unpack("<Q", guest.records[-1][1])
    assert abs(clock - (guest.host.now - 15 * MS)) <= DRIFT * 1e9


@pytest.mark.parametrize(
    "trait, value, why",
    [
        ("off", 60 * MS, "does not keep the time"),
        ("off", -60 * MS, "does not keep the time"),
        ("there", 200 * MS, "does not keep the time"),
        ("good", 0, "refused"),
    ],
)
async def test_a_guest_with_a_wrong_clock_is_not_handed_out(
    trait: str, value: int, why: str
) -> None:
    guest = FakeGuest(Host())
    setattr(guest, trait, value)
    async with connected(guest) as renewal:
        with pytest.raises(GuestLost, match=why):
            await renewal.renew({})


async def test_silence_ends_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs, pytest.raises(GuestLost, match=r"within 0\.05 s"):
        await Renewal(reader, writer).renew({}, deadline=0.05)
    writer.close()


async def test_a_guest_that_hangs_up_is_lost() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.close()
    with pytest.raises(GuestLost, match="closed"):
        await Renewal(reader, writer).renew({})
    writer.close()
