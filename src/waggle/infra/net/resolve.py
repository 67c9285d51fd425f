# SPDX-License-Identifier: Apache-2.0
"""Names to addresses by the host's own resolver, so that a guest needs no DNS.

Built by the composition root, one `SystemResolver` per environment over one shared `dns_pool`;
called by `dial`. The addresses are not judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address

from waggle.infra.net.ranges import Address

Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""An ASCII name -> its addresses, best first. Raises OSError when there is none. Cancellable."""


def dns_pool(threads: int = 32) -> ThreadPoolExecutor:
    """Threads for lookups only: a name server that hangs must not stop other work.

    The caller shuts it down with `shutdown(wait=False, cancel_futures=True)`.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="waggle-dns")


class SystemResolver:
    """getaddrinfo in a pool of threads, with at most `limit` lookups under way.

    A lookup cannot be stopped, so a cancelled one counts until its thread comes back: a guest
    that asks for names which never resolve uses up its own share only.
    """

    def __init__(self, pool: ThreadPoolExecutor, limit: int = 8) -> None:
        self._pool = pool
        self._slots = asyncio.Semaphore(limit)

    async def __call__(self, name: str) -> Sequence[Address]:
        """The addresses of `name`. Raises OSError when it has none. May be cancelled."""
        loop = asyncio.get_running_loop()
        await self._slots.acquire()
        try:
            lookup = self._pool.submit(_lookup, name)
        except BaseException:
            self._slots.release()
            raise

        def settle(_: Future[list[Address]]) -> None:
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
