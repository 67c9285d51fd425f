# SPDX-License-Identifier: Apache-2.0
"""The HTTP proxy that is a guest's only way out.

The environment host makes one `EgressProxy` per environment whose network policy is `public` and
lets `serve` handle every connection that comes out of the guest's reverse forward. Admits
connections and hands them to `session`. Must not know SSH or environments.

The guest is hostile: every wait has an end, every buffer has a size, and nothing it sends is
interpreted except by h11.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from waggle.domain.diagnosis.evidence import Refused
from waggle.infra.net import refusal
from waggle.infra.net.dial import Dialer, OnDecision
from waggle.infra.net.home import ConnectHome, Home
from waggle.infra.net.limits import EgressLimits, Traffic
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import DEFAULT_PORTS, AddressPolicy, Verdict
from waggle.infra.net.resolve import Resolver
from waggle.infra.net.session import Session
from waggle.infra.net.streams import Stream, StreamReaderLike, StreamWriterLike

TOLD_AT_ONCE = 16
"""So many connections too many may be told so at the same time; the rest are just dropped,
and so are all while refusals have to wait (`pace`)."""
REMEMBERED = 64
"""Refusals that are remembered; the oldest are forgotten first."""


def _ignore(host: str, port: int, verdict: Verdict) -> None:
    pass


class EgressProxy:
    """One environment's proxy. Lives on one event loop; end it with `aclose`."""

    def __init__(
        self,
        policy: AddressPolicy,
        resolver: Resolver,
        *,
        ports: frozenset[int] | None = DEFAULT_PORTS,
        limits: EgressLimits | None = None,
        on_decision: OnDecision = _ignore,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ports` None means all but 25. `on_decision` hears of each host, port and verdict."""
        self._on_decision = on_decision
        self._now = now
        self._refused: deque[tuple[float, Refused]] = deque(maxlen=REMEMBERED)
        self._limits = EgressLimits() if limits is None else limits
        self._dialer = Dialer(policy, ports, resolver, self._limits.dial, self._decided)
        self._serving: set[asyncio.Task[object]] = set()
        self._turning_away: set[asyncio.Task[object]] = set()
        self._pace = Pace(now=now)
        self._closed = False
        self.traffic = Traffic()

    def _decided(self, host: str, port: int, verdict: Verdict) -> None:
        if not verdict.allowed:
            refused = Refused(host, port, verdict.code, verdict.reason)
            self._refused.append((self._now(), refused))
        self._on_decision(host, port, verdict)

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Have requests of the guest for itself connected in the guest. Call it once, at first."""
        self._dialer.home = Home(connect, hostname)

    def refused_since(self, moment: float) -> tuple[Refused, ...]:
        """What the policy refused from that moment of `now` on, as far as it is remembered."""
        return tuple(refused for at, refused in self._refused if at >= moment)

    @property
    def active(self) -> int:
        """Connections being served now."""
        return len(self._serving)

    async def serve(self, reader: StreamReaderLike, writer: StreamWriterLike) -> None:
        """Serve one connection of the guest to its end; owns and closes both streams.

        Raises nothing because of what the guest or a server does. Cancelling it drops the
        connection to the guest and those to servers at once.
        """
        client = Stream(reader, writer, self.traffic.count_to_guest)
        task = asyncio.current_task()
        overflow = len(self._turning_away) >= TOLD_AT_ONCE or self._pace.is_over
        full = len(self._serving) >= self._limits.connections
        if task is None or self._closed or (full and overflow):
            client.abort()
            return
        self.traffic.connections += 1
        session = Session(client, self._dialer, self._limits, self.traffic, self._pace)
        group = self._turning_away if full else self._serving
        group.add(task)
        try:
            if full:
                await session.turn_away(refusal.too_many(self._limits.connections))
            else:
                await session.run()
        finally:
            group.discard(task)

    async def aclose(self) -> None:
        """Drop every connection and take no more. Idempotent; returns when all are gone.

        Not to be called from within `serve`.
        """
        self._closed = True
        open_now = self._serving | self._turning_away
        for task in open_now:
            task.cancel()
        if open_now:
            await asyncio.wait(open_now)
        if self._dialer.home is not None:
            await self._dialer.home.aclose()
