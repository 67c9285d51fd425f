# SPDX-License-Identifier: Apache-2.0
"""Names to addresses by the host's own resolver, so that a guest needs no DNS.

Built by the composition root, one `SystemResolver` per environment over the server's `Lookups`;
called by `dial`. The addresses are not judged here.

It is the C library's getaddrinfo, so that names mean what they mean on the host: /etc/hosts,
nsswitch.conf, search domains (docs/decisions/0025-resolver.md).

Threads in which the host's resolver blocks, shared fairly by all environments.

Built once by the composition root and used by each environment's `resolve.SystemResolver`. Must not
know what is looked up: the blocking call is injected.

A lookup cannot be stopped. So a guest whose names are never answered holds its threads until the
host's resolver gives up, and what it can hold has to be its own: each environment has one thread
for itself, and of the shared ones at most as many as it leaves free. One alone so has half of them,
four have a fifth each, and the next one still finds as much as any of them has.
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
"""What a name has; an error is a value here, since nobody may be there any more to hear of it."""
SHARED = 48
RESOLVER_OPTIONS = "timeout:2 attempts:2"
"""For the C library (RES_OPTIONS): its own times, 5 s and twice, outlast everyone who waits."""


def may_start(held: int, shared_taken: int, shared: int) -> bool:
    """Whether an environment that holds so many threads may have another one. Pure."""
    return held == 0 or held - 1 < shared - shared_taken


def limit_resolver(environ: MutableMapping[str, str]) -> None:
    """Have the C library give up before those who wait do, unless the operator chose otherwise."""
    environ.setdefault("RES_OPTIONS", RESOLVER_OPTIONS)


class Lookup:
    """One question, and how many wait for the answer."""

    def __init__(self, asker: Hashable, name: str) -> None:
        self.asker = asker
        self.name = name
        self.found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting = 0

    async def answer(self, leave: Callable[[Lookup], None]) -> Found:
        """What is found. `leave` is called when nobody waits any more. May be cancelled."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.found)
        finally:
            self._waiting -= 1
            if not self._waiting and not self.found.done():
                leave(self)


class Lookups:
    """Runs `lookup`, which blocks and raises OSError, in daemon threads. Lives on one event loop.

    There are at most `shared` threads and one for each environment that asks. Nothing waits for
    them at the end of the server.
    """

    def __init__(self, lookup: Callable[[str], Sequence[Address]], *, shared: int = SHARED) -> None:
        self._lookup = lookup
        self._shared = shared
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[Lookup]] = {}
        """Who asks for more than it may have now; whose turn it is comes first."""

    @property
    def running(self) -> int:
        """Threads at work."""
        return self._held.total()

    def start(self, asker: Hashable, name: str) -> Lookup:
        """Begin to look up `name`, now or when it is the turn of `asker`."""
        lookup = Lookup(asker, name)
        self._waiting.setdefault(asker, deque()).append(lookup)
        self._go_on()
        return lookup

    def leave(self, lookup: Lookup) -> None:
        """Nobody waits for it any more: forget it, unless it runs; its answer is still good."""
        queue = self._waiting.get(lookup.asker, deque())
        with contextlib.suppress(ValueError):
            queue.remove(lookup)
            lookup.found.cancel()
        if not queue:
            self._waiting.pop(lookup.asker, None)

    def _go_on(self) -> None:
        """Start whatever may start now, in turn."""
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
            except Exception as error:  # whatever it is: the thread is to be given back
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
        self._go_on()


Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""An ASCII name -> its addresses, best first. Raises OSError when there is none. Cancellable."""

KEPT_SECONDS = 10.0
"""How long addresses serve; getaddrinfo tells no TTL. They are judged anew for each connection."""
NO_NAME_SECONDS = 5.0
"""How long it counts that a name has no address,"""
NO_ANSWER_SECONDS = 1.0
"""and that nobody could say so."""
MAX_KEPT = 256
MAX_ADDRESSES = 8
"""Of one name: whoever answers for it can send thousands, and each costs 100 bytes."""
_NO_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


class _Kept(NamedTuple):
    until: float
    addresses: Sequence[Address]
    failure: tuple[int, str] | None = None
    """Number and words, not the error: raising one again and again makes it grow."""


class SystemResolver:
    """The answers for one environment: it learns nothing of what others ask.

    Whoever asks for a name that is being looked up waits for that lookup, also when those who asked
    first have left; what it finds serves for a while. So many connections to one host at once need
    one lookup, and a name that is never answered holds one thread, however often it is tried.
    """

    def __init__(self, lookups: Lookups, *, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is seconds."""
        self._lookups = lookups
        self._now = now
        self._asked: dict[str, Lookup] = {}
        self._kept: dict[str, _Kept] = {}

    async def __call__(self, name: str) -> Sequence[Address]:
        """The addresses of `name`, at most MAX_ADDRESSES. Raises OSError when it has none.

        May be cancelled, and has no deadline of its own: see `limits.DialTimes`.
        """
        kept = self._kept.get(name)
        if kept is None or kept.until <= self._now():
            kept = self._judge(await self._ask(name).answer(self._lookups.leave))
        if kept.failure is not None:
            raise OSError(*kept.failure)
        return kept.addresses

    def _ask(self, name: str) -> Lookup:
        lookup = self._asked.get(name)
        if lookup is None or lookup.found.cancelled():
            lookup = self._asked[name] = self._lookups.start(self, name)
            lookup.found.add_done_callback(lambda _: self._answered(lookup))
        return lookup

    def _answered(self, lookup: Lookup) -> None:
        name = lookup.name
        if self._asked.get(name) is lookup:
            del self._asked[name]
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
    """What getaddrinfo finds, at most MAX_ADDRESSES. Blocks; raises OSError."""
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
        if len(found) == MAX_ADDRESSES:
            break
    return list(found)
