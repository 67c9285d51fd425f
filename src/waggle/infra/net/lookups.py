# SPDX-License-Identifier: Apache-2.0
"""The host's resolver in threads, which environments share fairly.

The composition root makes one `Lookups` for all environments; `resolver` starts lookups in it.
Names mean the same as on the host, since the C library's getaddrinfo resolves them
(docs/decisions/0025-resolver.md). A lookup cannot be stopped, so names that are never answered hold
threads: each environment has its own, and of the shared ones at most as many as it leaves free.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from waggle.infra.net.policy import Address

Found = Sequence[Address] | OSError
"""The result of a lookup; an error is a value here, since no waiter may be left to raise it to."""
SHARED = 128
MAX_ADDRESSES = 8
"""Addresses of a name that are of use: its name server can send thousands, at 100 bytes each."""
RESOLVER_OPTIONS = "timeout:2 attempts:2"
"""For the C library (RES_OPTIONS): its defaults, 5 s and twice, outlast every waiter."""


def may_start(held: int, shared_taken: int, shared: int) -> bool:
    """Whether an environment that holds `held` threads may have another one. Pure."""
    return held == 0 or held - 1 < shared - shared_taken


def limit_resolver(environ: MutableMapping[str, str]) -> None:
    """Make the C library give up before its waiters do, unless the operator set RES_OPTIONS."""
    environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)


class Patience(NamedTuple):
    """How many seconds a caller waits: for the lookup's turn, and from then on for its result."""

    turn: float = 20.0
    lookup: float = 5.0


class Lookup:
    """One lookup, and the number of callers that wait for its result."""

    def __init__(self, asker: Hashable, name: str) -> None:
        self.asker = asker
        self.name = name
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.found: asyncio.Future[Found] = loop.create_future()
        self._waiting = 0

    async def answer(self, leave: Callable[[Lookup], None], patience: Patience) -> Found:
        """Wait for the result. Raises TimeoutError. The last caller to give up calls `leave`."""
        self._waiting += 1
        try:
            async with asyncio.timeout(patience.turn):
                await asyncio.shield(self.begun)
            async with asyncio.timeout(patience.lookup):
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
            lookup.begun.cancel()
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
        lookup.begun.set_result(None)
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
