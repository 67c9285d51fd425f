# SPDX-License-Identifier: Apache-2.0
"""From a name that a guest asks for to a connection: resolve, judge every address, connect.

`egress` calls its environment's `Dialer`. A socket connects to exactly the address object that was
judged, and the name is not looked up again: a name server that changes its answer (DNS rebinding)
gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from waggle.infra.net import Connection, Stream, connect_first, guest_request
from waggle.infra.net.guest_request import DialTimes, Home, Target
from waggle.infra.net.lookups import MAX_ADDRESSES
from waggle.infra.net.policy import ALLOWED, Address, AddressPolicy, Verdict, permits_port
from waggle.infra.net.resolver import (
    NAMES_AT_ONCE,
    NAMES_PER_SECOND,
    Resolver,
    TooManyNames,
)

OnDecision = Callable[[str, int, Verdict], None]


class Dialer:
    """The opener of connections that the policy permits; it is enforced here."""

    def __init__(
        self,
        policy: AddressPolicy,
        ports: frozenset[int] | None,
        resolver: Resolver,
        times: DialTimes,
        on_decision: OnDecision,
    ) -> None:
        """`on_decision` is called for every decision, with the host's name made printable."""
        self._policy = policy
        self._ports = ports
        self._resolver = resolver
        self._times = times
        self._on_decision = on_decision
        self.home: Home | None = None
        """Connects requests of the guest for itself; without it they are refused."""

    async def at_home(self, target: Target) -> Stream | None:
        """Connect to the guest itself if the target means that; else return None.

        A loopback address that the operator's list permits means the host's. Raises Refusal.
        """
        if self.home is None or not (addresses := self.home.addresses(target)):
            return None
        if target.address is not None and self._policy.permits(target.address).allowed:
            return None
        stream = await self.home.open(addresses, target.port, self._times.connect)
        if stream is None:
            raise guest_request.unreachable(target.host, target.port)
        return stream

    async def open(self, target: Target) -> Connection:
        """Open a connection, which the caller closes. Raises Refusal; cleans up when cancelled."""
        permitted = await self._permitted(target)
        try:
            async with asyncio.timeout(self._times.connect):
                found = await connect_first(permitted, target.port, self._times.stagger)
        except TimeoutError:
            raise guest_request.too_slow(target.host, "connecting") from None
        if found is None:
            raise guest_request.unreachable(target.host, target.port)
        return found

    async def _permitted(self, target: Target) -> Sequence[Address]:
        verdict = permits_port(target.port, self._ports)
        permitted: list[Address] = []
        if verdict.allowed:
            found = await self._resolve(target)
            verdicts = {address: self._policy.permits(address) for address in found}
            permitted = [address for address, judged in verdicts.items() if judged.allowed]
            verdict = ALLOWED if permitted else next(iter(verdicts.values()))
        self._on_decision(guest_request.printable(target.host), target.port, verdict)
        if not verdict.allowed:
            raise guest_request.denied(target.host, verdict)
        return permitted

    async def _resolve(self, target: Target) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        try:
            async with asyncio.timeout(self._times.dns):
                found = await self._resolver(target.host)
        except TooManyNames:
            raise guest_request.too_many_names(NAMES_AT_ONCE, NAMES_PER_SECOND) from None
        except TimeoutError:
            raise guest_request.too_slow(target.host, "resolving the name") from None
        except OSError as error:
            if error.errno == socket.EAI_AGAIN:
                raise guest_request.unanswered(target.host) from None
            raise guest_request.unresolvable(target.host) from None
        if not found:
            raise guest_request.unresolvable(target.host)
        return found[:MAX_ADDRESSES]
