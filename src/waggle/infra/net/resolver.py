# SPDX-License-Identifier: Apache-2.0
"""The host's resolver, shared fairly by environments, with a memory of answers for each of them.

The composition root makes one `Lookups` and one `SystemResolver` for each environment; `dial` asks
it. Names mean the same as on the host, since the C library's getaddrinfo resolves them
(docs/decisions/0025-resolver.md). A lookup cannot be stopped, so names that are never answered hold
threads: each environment has its own, and of the shared ones at most as many as it leaves free.
Must not judge addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from waggle.infra.net.policy import Address

Found = Sequence[Address] | OSError
"""The result of a lookup; an error is a value here, since no waiter may be left to raise it to."""
SHARED = 48
RESOLVER_OPTIONS = "timeout:2 attempts:2"
"""For the C library (RES_OPTIONS): its defaults, 5 s and twice, outlast every waiter."""


def may_start(held: int, shared_taken: int, shared: int) -> bool:
    """Whether an environment that holds `held` threads may have another one. Pure."""
    return held == 0 or held - 1 < shared - shared_taken


def limit_resolver(environ: MutableMapping[str, str]) -> None:
    """Make the C library give up before its waiters do, unless the operator set RES_OPTIONS."""
    environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)


class Lookup:
    """One lookup, and the number of callers that wait for its result."""

    def __init__(self, asker: Hashable, name: str) -> None:
        self.asker = asker
        self.name = name
        self.found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting = 0

    async def answer(self, leave: Callable[[Lookup], None]) -> Found:
        """Wait for the result. The last caller to be cancelled calls `leave`."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.found)
        finally:
            self._waiting -= 1
            if not self._waiting and not self.found.done():
                leave(self)


class Lookups:
    """Lookups in daemon threads, at most `shared` and one per environment. Lives on one event loop.

    `lookup` blocks and raises OSError. The server ends without waiting for the threads.
    """

    def __init__(self, lookup: Callable[[str], Sequence[Address]], *, shared: int = SHARED) -> None:
        self._lookup = lookup
        self._shared = shared
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[Lookup]] = {}
        """The lookups that may not start yet, by environment; the next in turn comes first."""

    @property
    def running(self) -> int:
        """The number of threads at work."""
        return self._held.total()

    def start(self, asker: Hashable, name: str) -> Lookup:
        """Look up `name`, now or when `asker` has its turn."""
        lookup = Lookup(asker, name)
        self._waiting.setdefault(asker, deque()).append(lookup)
        self._start_waiting()
        return lookup

    def leave(self, lookup: Lookup) -> None:
        """Drop a lookup without callers, unless it runs: its result is still of use."""
        queue = self._waiting.get(lookup.asker, deque())
        with contextlib.suppress(ValueError):
            queue.remove(lookup)
            lookup.found.cancel()
        if not queue:
            self._waiting.pop(lookup.asker, None)

    def _start_waiting(self) -> None:
        """Start every lookup that may start now, in turn."""
        passed_over = 0
        while passed_over < len(self._waiting):
            asker = next(iter(self._waiting))
            queue = self._waiting.pop(asker)
            if may_start(self._held[asker], self.running - len(self._held), self._shared):
                self._run(queue.popleft())
                passed_over = 0
            else:
                passed_over += 1
            if queue:
                self._waiting[asker] = queue

    def _run(self, lookup: Lookup) -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                found: Found = self._lookup(lookup.name)
            except OSError as error:
                found = error
            except Exception as error:  # any error must give the thread back
                found = OSError(f"the resolver failed: {type(error).__name__}")
            with contextlib.suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(self._ended, lookup, found)

        self._held[lookup.asker] += 1
        try:
            threading.Thread(target=work, name="waggle-dns", daemon=True).start()
        except RuntimeError as error:
            loop.call_soon(self._ended, lookup, OSError(str(error)))

    def _ended(self, lookup: Lookup, found: Found) -> None:
        self._held[lookup.asker] -= 1
        if not self._held[lookup.asker]:
            del self._held[lookup.asker]
        if not lookup.found.done():
            lookup.found.set_result(found)
        self._start_waiting()


Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""Maps an ASCII name to its addresses, best first. Raises OSError if none. Cancellable."""

# Lifetimes of addresses (getaddrinfo gives no TTL, and each connection judges them anew), of the
# result that a name has none, and of every other failure.
KEPT_SECONDS, NO_NAME_SECONDS, NO_ANSWER_SECONDS = 10.0, 5.0, 1.0
MAX_KEPT = 256
MAX_ADDRESSES = 8
"""Addresses kept per name: its name server can send thousands, at 100 bytes an address."""
_NO_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


class _Kept(NamedTuple):
    until: float
    addresses: Sequence[Address]
    failure: tuple[int, str] | None = None
    """Number and text, not the exception, which grows every time it is raised."""


class SystemResolver:
    """The resolver of one environment, which learns nothing of the names that others look up.

    Callers share a running lookup of the same name, even when the first callers have left, and its
    result is kept for a while: a name that is never answered holds one thread.
    """

    def __init__(self, lookups: Lookups, *, now: Callable[[], float] = time.monotonic) -> None:
        self._lookups = lookups
        self._now = now
        self._under_way: dict[str, Lookup] = {}
        self._kept: dict[str, _Kept] = {}

    async def __call__(self, name: str) -> Sequence[Address]:
        """Return at most MAX_ADDRESSES of `name`. Raises OSError if none; has no deadline."""
        kept = self._kept.get(name)
        if kept is None or kept.until <= self._now():
            kept = self._judge(await self._ask(name).answer(self._lookups.leave))
        if kept.failure is not None:
            raise OSError(*kept.failure)
        return kept.addresses

    def _ask(self, name: str) -> Lookup:
        lookup = self._under_way.get(name)
        if lookup is None or lookup.found.cancelled():
            lookup = self._under_way[name] = self._lookups.start(self, name)
            lookup.found.add_done_callback(lambda _: self._answered(lookup))
        return lookup

    def _answered(self, lookup: Lookup) -> None:
        name = lookup.name
        if self._under_way.get(name) is lookup:
            del self._under_way[name]
        if lookup.found.cancelled():
            return
        self._kept.pop(name, None)
        self._kept[name] = self._judge(lookup.found.result())
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def _judge(self, found: Found) -> _Kept:
        if not isinstance(found, OSError):
            return _Kept(self._now() + KEPT_SECONDS, found)
        seconds = NO_NAME_SECONDS if found.errno in _NO_NAME else NO_ANSWER_SECONDS
        return _Kept(self._now() + seconds, (), (found.errno or 0, found.strerror or str(found)))


def system_lookup(name: str) -> list[Address]:
    """Return getaddrinfo's addresses, at most MAX_ADDRESSES. Blocks; raises OSError."""
    # Bytes, because Python applies its own, older rules for international names to text.
    rows = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    found: dict[Address, None] = {}
    for family, _, _, _, place in rows:
        text = str(place[0])
        if family == socket.AF_INET:
            found[IPv4Address(text)] = None
        elif family == socket.AF_INET6:
            zone = place[3] if len(place) == 4 and "%" not in text else 0
            found[IPv6Address(f"{text}%{zone}" if zone else text)] = None
        if len(found) == MAX_ADDRESSES:
            break
    return list(found)
