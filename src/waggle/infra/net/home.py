# SPDX-License-Identifier: Apache-2.0
"""Requests of a guest for itself, which no NO_PROXY grammar keeps from the proxy in all programs.

Used by `dial`. Node.js knows no ranges and no `[::1]`, httpx breaks on `[::1]`, urllib needs it: so
what leads to the guest's own loopback is connected there, in the guest. The host's loopback is
never meant. Must not know SSH.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from waggle.infra.net.guest_request import Target
from waggle.infra.net.opening import Openings, Streams
from waggle.infra.net.streams import Stream

LOOPBACKS: Final = ("127.0.0.1", "::1")
_MOST_LATE: Final = 64

ConnectHome = Callable[[int, Sequence[str]], Awaitable[Streams]]
"""Connects to a port of the guest on the first of its own addresses that answers."""


class Home:
    """The way back into one guest, called `hostname` there. `aclose` it."""

    def __init__(self, connect: ConnectHome, hostname: str) -> None:
        self._connect = connect
        self._hostname = hostname.lower()
        self._openings = Openings(_MOST_LATE)

    def addresses(self, target: Target) -> Sequence[str]:
        """The guest's own addresses that a target means; none when it is somebody else."""
        return _own(target.address) if target.address else self._named(target.host)

    def _named(self, host: str) -> Sequence[str]:
        name = host.removesuffix(".")
        is_own = name in ("localhost", self._hostname) or name.endswith(".localhost")
        return LOOPBACKS if is_own else ()

    async def open(self, addresses: Sequence[str], port: int, seconds: float) -> Stream | None:
        """A stream to the guest's port, or None when nothing answers there in time."""
        return await self._openings.open(partial(self._connect, port, addresses), seconds)

    async def aclose(self) -> None:
        """Wait for nothing more. Idempotent."""
        await self._openings.aclose()


def _own(address: IPv4Address | IPv6Address) -> Sequence[str]:
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified:
        return LOOPBACKS
    return (str(address),) if address.is_loopback else ()
