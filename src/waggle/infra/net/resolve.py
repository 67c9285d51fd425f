# SPDX-License-Identifier: Apache-2.0
"""Names to addresses by the host's own resolver, so that a guest needs no DNS.

Built by the composition root, one `SystemResolver` per environment over the server's `Lookups`;
called by `dial`. The addresses are not judged here.

It is the C library's getaddrinfo, so that names mean what they mean on the host: /etc/hosts,
nsswitch.conf, search domains (docs/decisions/0025-resolver.md).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from waggle.infra.net.lookups import Found, Lookup, Lookups
from waggle.infra.net.ranges import Address

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
