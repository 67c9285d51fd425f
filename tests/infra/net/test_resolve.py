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

from waggle.infra.net.resolve import SystemResolver, dns_pool

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
