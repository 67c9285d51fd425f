# SPDX-License-Identifier: Apache-2.0
"""The HTTP proxy that is a guest's only way out.

The composition root makes one `EgressProxy` for each environment that has a network; `serve`
handles every connection from the guest's reverse forward, in a `session`. Must not know SSH or
environments. The guest is hostile: what it may have open, and what is remembered of it, is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from waggle.domain.network import Network
from waggle.domain.network.rules import Rule
from waggle.domain.network.traffic import Traffic
from waggle.domain.network.use import NetworkUse
from waggle.infra.net import (
    Stream,
    StreamReaderLike,
    StreamWriterLike,
    guest_request,
)
from waggle.infra.net.allowance import Allowance
from waggle.infra.net.dial import Dialer
from waggle.infra.net.gate import Gate, Reach
from waggle.infra.net.guest_request import (
    ConnectHome,
    EgressLimits,
    Home,
    Refusal,
)
from waggle.infra.net.names import Exists, Names
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.record import Heard, Record
from waggle.infra.net.resolver import Resolver
from waggle.infra.net.session import Session
from waggle.infra.net.tls.ended import EndedTls

TURNED_AWAY_AT_ONCE = 16
"""Connections over the limit that may be answered at once; further ones are dropped, and so are
all of them while refusals have to wait (`Pace`)."""


class EgressProxy:
    """The proxy of one environment. Lives on one event loop; the owner calls `aclose`."""

    def __init__(
        self,
        policy: AddressPolicy,
        resolver: Resolver,
        *,
        reach: Reach | None = None,
        limits: EgressLimits | None = None,
        allowance: Allowance | None = None,
        exists: Exists | None = None,
        heard: Heard | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reach` None means the public internet.

        `exists` is for the guest's name server; without it, that knows no names.
        """
        self.secrets: EndedTls | None = None
        """Ends TLS for the hosts of the environment's secrets, if any; set before `serve`."""
        self._record = Record(heard, now)
        self._limits = EgressLimits() if limits is None else limits
        record = self._record
        self._gate = Gate(reach or Reach(), policy, record.decided, record.ended)
        self._dialer = Dialer(self._gate, resolver, self._limits.dial)
        self._names = exists and Names(exists, may_look_up=self._gate.may_look_up)
        self._serving: dict[asyncio.Task[object], Session] = {}
        self._turning_away: set[asyncio.Task[object]] = set()
        self._pace = Pace(now=now)
        self._closed = False
        self._allowance = Allowance() if allowance is None else allowance

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Connect requests of the guest for itself in the guest. Call it once, before `serve`."""
        self._dialer.home = Home(connect, hostname)

    @property
    def network(self) -> Network:
        """What the environment may reach now."""
        return self._gate.network

    def set_network(self, network: Network, registries: Sequence[Rule] | None = None) -> int:
        """Judge by another network from now on; return how many open connections that ended.

        `registries`, if given, are what @packages stands for from now on.
        """
        self._gate.change(network, registries)
        return self.end_refused()

    def end_refused(self) -> int:
        """End the open connections that the rules of now do not allow; return how many."""
        refused = [
            task
            for task, session in self._serving.items()
            if session.passage is not None and not self._gate.still_admits(session.passage)
        ]
        for task in refused:
            task.cancel()
        return len(refused)

    def network_use(self) -> NetworkUse:
        """Return what it allowed and refused, and the totals of bytes of the environment."""
        traffic = self.traffic
        return self._record.use(self.network, sent=traffic.to_internet, received=traffic.to_guest)

    def remember(self, use: NetworkUse) -> None:
        """Begin with what the proxy before it remembered. Call it once, before `serve`."""
        self._record.remember(use)

    @property
    def traffic(self) -> Traffic:
        """The totals of the environment, over all its proxies."""
        return self._allowance.traffic

    @property
    def active(self) -> int:
        """The number of connections being served now."""
        return len(self._serving)

    async def serve(self, reader: StreamReaderLike, writer: StreamWriterLike) -> None:
        """Serve one connection of the guest to its end; owns and closes both streams.

        Nothing that the guest or a server does makes it raise. Cancelling it drops the connections
        to the guest and to servers at once.
        """
        client = Stream(reader, writer)
        task = asyncio.current_task()
        overflow = len(self._turning_away) >= TURNED_AWAY_AT_ONCE or self._pace.is_over
        full = self._full()
        if task is None or self._closed or (full is not None and overflow):
            client.abort()
            return
        self._allowance.count_connection()
        session = Session(
            *(client, self._dialer, self._names, self._limits, self._allowance, self._pace),
            secrets=self.secrets,
        )
        if full is not None:
            self._turning_away.add(task)
            try:
                await session.turn_away(full)
            finally:
                self._turning_away.discard(task)
            return
        self._serving[task] = session
        try:
            with self._allowance.connected():
                await session.run()
        finally:
            del self._serving[task]

    def _full(self) -> Refusal | None:
        if len(self._serving) >= self._limits.connections:
            return guest_request.too_many(self._limits.connections)
        return self._allowance.no_connection()

    async def aclose(self) -> None:
        """Drop every connection and take no more. Idempotent; returns when all are gone.

        Must not be called from within `serve`.
        """
        self._closed = True
        open_now = {*self._serving, *self._turning_away}
        for task in open_now:
            task.cancel()
        if open_now:
            await asyncio.wait(open_now)
        if self._dialer.home is not None:
            await self._dialer.home.aclose()
