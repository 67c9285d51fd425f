# SPDX-License-Identifier: Apache-2.0
"""The resolver of one environment: remembers answers for a while, and bounds the rate of new names.

The composition root makes one `SystemResolver` for each environment. `dial` asks it for addresses,
whoever answers a guest's own questions asks whether a name exists. An environment learns nothing of
the names that others look up. A guest can send data in names, and load the host's name servers, so
names that are not remembered have a rate. Must not judge addresses.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from waggle.infra.net.lookups import Found, Lookup, Lookups, Patience
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import Address

Resolver = Callable[[str], Awaitable[Sequence[Address]]]
"""Maps an ASCII name to its addresses, best first. Raises OSError if none. Cancellable."""

# Lifetimes of addresses (getaddrinfo gives no TTL, and each connection judges them anew), of the
# result that a name has none, and of every other failure.
KEPT_SECONDS, NO_NAME_SECONDS, NO_ANSWER_SECONDS = 10.0, 5.0, 1.0
MAX_KEPT = 256
NAMES_AT_ONCE, NAMES_PER_SECOND, NAME_WAIT = 256, 20, 2.0
"""New names of one environment: a burst, then a rate; a name waits at most so many seconds."""


class Status(enum.StrEnum):
    """What is known of a name."""

    FOUND = "found"
    NO_ADDRESS = "no-address"
    """The name exists and has no address (NODATA)."""
    NO_NAME = "no-name"
    """The name does not exist (NXDOMAIN)."""
    NO_ANSWER = "no-answer"
    """No name server answers, or one fails."""


_STATUS = {
    socket.EAI_NONAME: Status.NO_NAME,
    socket.EAI_NODATA: Status.NO_ADDRESS,
    socket.EAI_ADDRFAMILY: Status.NO_ADDRESS,
}
_SECONDS = {
    Status.FOUND: KEPT_SECONDS,
    Status.NO_ADDRESS: NO_NAME_SECONDS,
    Status.NO_NAME: NO_NAME_SECONDS,
    Status.NO_ANSWER: NO_ANSWER_SECONDS,
}


class Existence(NamedTuple):
    """What is known of a name, and for how many seconds more it is held true (0 to 10)."""

    status: Status
    seconds: float


class TooManyNames(OSError):
    """The environment has asked for too many new names lately."""


class _Kept(NamedTuple):
    until: float
    status: Status
    addresses: Sequence[Address]
    failure: tuple[int, str]
    """Number and text, not the exception, which grows every time it is raised."""


class SystemResolver:
    """The resolver of one environment. Lives on the event loop of its `lookups`.

    Callers share a running lookup of the same name, even when the first callers have left, and its
    result is kept for a while: a name that is never answered holds one thread.
    """

    def __init__(
        self,
        lookups: Lookups,
        *,
        pace: Pace | None = None,
        patience: Patience = Patience(),  # noqa: B008 (immutable)
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pace` is the rate of new names."""
        self._lookups = lookups
        self._pace = Pace(NAMES_AT_ONCE, NAMES_PER_SECOND, now=now) if pace is None else pace
        self._patience = patience
        self._now = now
        self._under_way: dict[str, Lookup] = {}
        self._kept: dict[str, _Kept] = {}

    async def __call__(self, name: str) -> Sequence[Address]:
        """Return at most MAX_ADDRESSES of `name`.

        Raises OSError if it has none, TooManyNames over the rate, TimeoutError after `patience`.
        """
        known = await self._know(name)
        if known.status is not Status.FOUND:
            raise OSError(*known.failure)
        return known.addresses

    async def exists(self, name: str) -> Existence:
        """Return whether `name`, in ASCII, exists, and how long that may be remembered.

        A lookup that takes too long is NO_ANSWER. Raises TooManyNames. Cancellable.
        """
        try:
            known = await self._know(name)
        except TimeoutError:
            return Existence(Status.NO_ANSWER, NO_ANSWER_SECONDS)
        return Existence(known.status, max(0.0, known.until - self._now()))

    async def _know(self, name: str) -> _Kept:
        if (kept := self._remembered(name)) is not None:
            return kept
        if not self._runs(name):
            seconds = self._pace.take_within(NAME_WAIT)
            if seconds is None:
                raise TooManyNames("too many new names")
            if seconds > 0:
                await asyncio.sleep(seconds)
                if (kept := self._remembered(name)) is not None:
                    return kept
        found = await self._ask(name).answer(self._lookups.leave, self._patience)
        return self._judge(found)

    def _remembered(self, name: str) -> _Kept | None:
        kept = self._kept.get(name)
        return None if kept is None or kept.until <= self._now() else kept

    def _runs(self, name: str) -> bool:
        lookup = self._under_way.get(name)
        return lookup is not None and not lookup.found.cancelled()

    def _ask(self, name: str) -> Lookup:
        if self._runs(name):
            return self._under_way[name]
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
        now = self._now()
        if not isinstance(found, OSError):
            status = Status.FOUND if found else Status.NO_ADDRESS
            return _Kept(now + _SECONDS[status], status, found, (0, "no address"))
        status = _STATUS.get(found.errno or 0, Status.NO_ANSWER)
        failure = (found.errno or 0, found.strerror or str(found))
        return _Kept(now + _SECONDS[status], status, (), failure)
