# SPDX-License-Identifier: Apache-2.0
"""Names to addresses by the host's own resolver, so that a guest needs no DNS.

Built by the composition root, one `SystemResolver` per environment over one shared `dns_pool`;
called by `dial`. The addresses are not judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address

from waggle.infra.net.ranges import Address

Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""An ASCII name -> its addresses, best first. Raises OSError when there is none. Cancellable."""

KEPT_SECONDS = 10.0
"""How long an answer serves. What it says is judged anew for each connection."""
MAX_KEPT = 256


def dns_pool(threads: int = 32) -> ThreadPoolExecutor:
    """Threads for lookups only: a name server that hangs must not stop other work.

    The caller shuts it down with `shutdown(wait=False, cancel_futures=True)`.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="waggle-dns")


class _Asked:
    """A lookup under way and how many wait for it. The last one that leaves ends it."""

    def __init__(self, lookup: asyncio.Future[Sequence[Address]]) -> None:
        self.lookup = lookup
        self.waiting = 0
        self.is_over = False

    async def answer(self) -> Sequence[Address]:
        self.waiting += 1
        try:
            return await asyncio.shield(self.lookup)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.is_over = True
                self.lookup.cancel()


class SystemResolver:
    """getaddrinfo in a pool of threads, with at most `limit` lookups under way.

    A lookup cannot be stopped, so a cancelled one counts until its thread comes back: a guest
    that asks for names which never resolve uses up its own share only. Whoever asks for a name
    meanwhile waits for the same lookup, and what it found serves for KEPT_SECONDS: many connections
    to one host at once need one.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        limit: int = 8,
        *,
        lookup: Callable[[str], Sequence[Address]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lookup` blocks, and raises OSError where a name has no address; `now` is seconds."""
        self._pool = pool
        self._slots = asyncio.Semaphore(limit)
        self._lookup = lookup or _lookup
        self._now = now
        self._asked: dict[str, _Asked] = {}
        self._kept: dict[str, tuple[float, Sequence[Address]]] = {}

    async def __call__(self, name: str) -> Sequence[Address]:
        """The addresses of `name`. Raises OSError when it has none. May be cancelled."""
        until, found = self._kept.get(name, (0.0, ()))
        if self._now() < until:
            return found
        asked = self._asked.get(name)
        if asked is None or asked.is_over:
            asked = self._asked[name] = _Asked(asyncio.ensure_future(self._ask(name)))
            asked.lookup.add_done_callback(lambda _: self._answered(name, asked))
        return await asked.answer()

    def _answered(self, name: str, asked: _Asked) -> None:
        if self._asked.get(name) is asked:
            del self._asked[name]
        if asked.lookup.cancelled() or asked.lookup.exception() is not None:
            return
        self._kept.pop(name, None)
        self._kept[name] = self._now() + KEPT_SECONDS, asked.lookup.result()
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    async def _ask(self, name: str) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        await self._slots.acquire()
        try:
            lookup = self._pool.submit(self._lookup, name)
        except BaseException:
            self._slots.release()
            raise

        def settle(_: Future[Sequence[Address]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(self._slots.release)

        lookup.add_done_callback(settle)
        return await asyncio.wrap_future(lookup)


def _lookup(name: str) -> list[Address]:
    # Bytes, because for text Python applies its own, older rules for international names.
    rows = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    found: dict[Address, None] = {}
    for family, _, _, _, place in rows:
        text = str(place[0])
        if family == socket.AF_INET:
            found[IPv4Address(text)] = None
        elif family == socket.AF_INET6:
            zone = place[3] if len(place) == 4 and "%" not in text else 0
            found[IPv6Address(f"{text}%{zone}" if zone else text)] = None
    return list(found)
