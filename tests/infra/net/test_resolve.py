# SPDX-License-Identifier: Apache-2.0
"""The system's resolver: its answers as addresses, and its limit on stuck lookups."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest

from waggle.infra.net.ranges import Address
from waggle.infra.net.resolve import KEPT_SECONDS, MAX_KEPT, SystemResolver, dns_pool

if TYPE_CHECKING:
    from tests.infra.net.conftest import Turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Generator[ThreadPoolExecutor]:
    with dns_pool(4) as threads:
        yield threads


async def test_localhost_and_odd_spellings_are_found(pool: ThreadPoolExecutor) -> None:
    resolve = SystemResolver(pool)
    assert ip_address("127.0.0.1") in await resolve("localhost")
    for spelling in ("127.1", "2130706433", "0x7f.0.0.1", "017700000001"):
        assert await resolve(spelling) == [ip_address("127.0.0.1")]


async def test_a_name_that_cannot_exist_is_an_os_error(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(OSError, match=r".+"):
        await SystemResolver(pool)("1.2.3.4.5")


async def test_a_zone_is_kept_so_that_the_policy_sees_it(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> list[object]:
        stream = (socket.AF_INET6, socket.SOCK_STREAM, 6, "")
        return [(*stream, ("fe80::1", 0, 0, 2)), (*stream, ("fe80::2%lo", 0, 0, 1))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    found = await SystemResolver(pool)("zone.test")
    assert found == [IPv6Address("fe80::1%2"), IPv6Address("fe80::2%lo")]


async def test_lookups_that_hang_count_until_they_end(
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    turns: Turns,
) -> None:
    release = threading.Event()
    started: list[bytes] = []

    def hang(name: bytes, *_: object, **__: object) -> list[object]:
        started.append(name)
        release.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    greedy, other = SystemResolver(pool, limit=2), SystemResolver(pool, limit=2)
    stuck = [asyncio.ensure_future(greedy(f"{n}.test")) for n in range(5)]
    await turns()
    for task in stuck:
        task.cancel()
    ends = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert len(started) == 2

    waiting = asyncio.ensure_future(greedy("more.test"))  # its share is used up still
    mine = asyncio.ensure_future(other("mine.test"))  # while others have theirs
    await turns()
    release.set()
    assert await mine == await waiting == [ip_address("192.0.2.1")]
    assert set(started[2:]) == {b"mine.test", b"more.test"}


class Names:
    """Answers when `go` is set; `asked` has each question."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        self.error: OSError | None = None

    def __call__(self, name: str) -> list[Address]:
        self.asked.append(name)
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return [ip_address("192.0.2.1")]


async def test_fifty_who_ask_for_a_name_at_once_need_one_lookup(
    pool: ThreadPoolExecutor, turns: Turns
) -> None:
    names, now = Names(), [0.0]
    resolve = SystemResolver(pool, limit=1, lookup=names, now=lambda: now[0])
    calls = [asyncio.ensure_future(resolve("one.test")) for _ in range(50)]
    await turns()
    calls[0].cancel()  # takes it from none of the others
    names.go.set()
    found = await asyncio.gather(*calls[1:])
    assert found == [[ip_address("192.0.2.1")]] * 49
    assert names.asked == ["one.test"]
    now[0] = KEPT_SECONDS - 0.1
    assert await resolve("one.test") == found[0]
    assert names.asked == ["one.test"]
    now[0] = KEPT_SECONDS
    assert await resolve("one.test") == found[0]
    assert names.asked == ["one.test"] * 2


async def test_failures_are_not_kept_and_answers_only_so_many(pool: ThreadPoolExecutor) -> None:
    names = Names()
    names.go.set()
    names.error = OSError("no such name")
    resolve = SystemResolver(pool, lookup=names, now=lambda: 0.0)
    for _ in range(2):
        with pytest.raises(OSError, match="no such name"):
            await resolve("x.test")
    assert len(names.asked) == 2
    names.error = None
    for number in range(MAX_KEPT + 1):
        await resolve(f"{number}.test")
    asked = len(names.asked)
    await resolve(f"{MAX_KEPT}.test")
    assert len(names.asked) == asked
    await resolve("0.test")
    assert len(names.asked) == asked + 1


async def test_who_asks_after_all_others_have_left_is_answered(
    pool: ThreadPoolExecutor, turns: Turns
) -> None:
    names = Names()
    resolve = SystemResolver(pool, lookup=names)
    first = asyncio.ensure_future(resolve("a.test"))
    await turns()
    first.cancel()
    await asyncio.sleep(0)
    second = asyncio.ensure_future(resolve("a.test"))
    await turns()
    names.go.set()
    assert await second == [ip_address("192.0.2.1")]
