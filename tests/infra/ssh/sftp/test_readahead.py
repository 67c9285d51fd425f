# SPDX-License-Identifier: Apache-2.0
"""Reading ahead: the same bytes as without it, and never data older than the client's last call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import FileRefused
from waggle.domain.files import FileSlice
from waggle.infra.ssh.sftp.reading import FRESH_SECONDS, ReadAhead

pytestmark = pytest.mark.anyio
LIMIT = 10_000


@dataclass
class Guest:
    """A guest with one file; `offsets` lists the requested offsets."""

    data: bytes
    offsets: list[int] = field(default_factory=list[int])
    now: float = 0.0
    refuses: bool = False

    async def read(self, path: str, *, offset: int, length: int, limit: int) -> FileSlice:
        self.offsets.append(offset)
        data = self.data
        await asyncio.sleep(0)
        if self.refuses:
            raise FileRefused(f"{path} is gone.")
        return FileSlice(data[offset : offset + length], len(data))

    def clock(self) -> float:
        return self.now


def reader(guest: Guest) -> ReadAhead:
    return ReadAhead(guest.read, guest.clock)


async def page(pages: ReadAhead, offset: int, length: int = 10, path: str = "/f") -> bytes:
    return (await pages.read(path, offset=offset, length=length, limit=LIMIT)).data


async def settled() -> None:
    """Let started reads finish."""
    for _ in range(5):
        await asyncio.sleep(0)


@given(st.binary(max_size=300), st.integers(1, 40), st.lists(st.integers(0, 5), max_size=20))
async def test_joined_pages_are_the_file_however_a_client_cuts_them(
    data: bytes, length: int, cuts: list[int]
) -> None:
    guest, joined, cut = Guest(data), b"", iter(cuts)
    pages = reader(guest)
    while len(joined) < len(data):
        part = await page(pages, len(joined), length)
        assert 0 < len(part) <= length
        joined += part[: max(1, len(part) - next(cut, 0))]
    assert joined == data


async def test_the_third_page_is_read_before_it_is_requested() -> None:
    guest = Guest(bytes(range(100)))
    pages = reader(guest)
    await page(pages, 0)
    await settled()
    assert guest.offsets == [0]  # the reader of a beginning may want no more
    await page(pages, 10)
    await settled()
    assert guest.offsets == [0, 10, 20]
    assert await page(pages, 20) == guest.data[20:30]


async def test_nothing_is_read_beyond_the_end() -> None:
    guest = Guest(b"x" * 25)
    pages = reader(guest)
    for offset in (0, 10, 20):
        await page(pages, offset)
    await settled()
    assert guest.offsets == [0, 10, 20]


async def test_pages_are_read_again_after_another_call() -> None:
    guest = Guest(b"a" * 100)
    pages = reader(guest)
    await page(pages, 10)
    await settled()
    guest.data = b"b" * 100
    pages.forget()
    assert await page(pages, 20) == b"b" * 10


async def test_old_pages_are_read_again() -> None:
    guest = Guest(b"a" * 100)
    pages = reader(guest)
    await page(pages, 10)
    await settled()
    guest.data, guest.now = b"b" * 100, FRESH_SECONDS + 0.1
    assert await page(pages, 20) == b"b" * 10


@pytest.mark.parametrize("offset,path", [(30, "/f"), (0, "/f"), (10, "/f"), (20, "/g")])
async def test_another_place_is_read_from_the_guest(offset: int, path: str) -> None:
    guest = Guest(bytes(range(100)))
    pages = reader(guest)
    await page(pages, 10)
    await settled()
    guest.offsets.clear()
    assert await page(pages, offset, path=path) == guest.data[offset : offset + 10]
    assert guest.offsets[0] == offset


async def test_a_failure_ahead_is_raised_to_the_reader_of_that_page() -> None:
    guest = Guest(bytes(100))
    pages = reader(guest)
    await page(pages, 10)
    guest.refuses = True
    await settled()
    with pytest.raises(FileRefused):
        await page(pages, 20)
    guest.refuses = False
    assert await page(pages, 20) == bytes(10)


async def test_a_cancelled_reader_disturbs_no_other() -> None:
    guest = Guest(bytes(100))
    pages = reader(guest)
    await page(pages, 10)
    waiting = asyncio.create_task(page(pages, 20))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await page(pages, 20) == bytes(10)
