# SPDX-License-Identifier: Apache-2.0
"""The HTTP proxy that is a guest's only way out.

The composition root makes one `EgressProxy` for each environment that has a network; `serve`
handles every connection from the guest's reverse forward. A session reads heads with h11, has
`dial` connect to the server, and relays a CONNECT or passes on a plain request (`forward`).
Must not know SSH or environments. The guest is hostile: every wait has an end, every buffer has a
size, refusals are paced since one costs about 1 ms of the event loop, and only h11 interprets the
guest's bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import h11

from waggle.domain.network import Network
from waggle.domain.network.decisions import Decision
from waggle.domain.network.judging import Seen
from waggle.infra.net import (
    PeerGone,
    Stream,
    StreamReaderLike,
    StreamWriterLike,
    guest_request,
    relay,
)
from waggle.infra.net.allowance import Allowance, Metered, Traffic
from waggle.infra.net.dial import Dialer
from waggle.infra.net.forward import HTTP_1_1, Exchange, HttpPeer, request_for
from waggle.infra.net.gate import Gate, OnDecision, Passage, Reach
from waggle.infra.net.guest_request import (
    BadTarget,
    ConnectHome,
    EgressLimits,
    Home,
    Refusal,
    Target,
    parse_authority,
    parse_http_url,
)
from waggle.infra.net.pace import Pace
from waggle.infra.net.policy import AddressPolicy
from waggle.infra.net.resolver import Resolver

REQUEST_TIMEOUT = 408
HEAD_TOO_LARGE = 431
LENGTH_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class Session:
    """One connection of the guest. Owns `client` and ends it in every case."""

    def __init__(
        self,
        client: Stream,
        dialer: Dialer,
        limits: EgressLimits,
        allowance: Allowance,
        pace: Pace,
    ) -> None:
        self.passage: Passage | None = None
        """The connection to a server that it uses now; none while it has none."""
        self._client = client
        self._peer = HttpPeer(client, h11.SERVER, limits.header_bytes)
        self._dialer = dialer
        self._limits = limits
        self._allowance = allowance
        self._pace = pace

    async def run(self) -> None:
        """Serve requests until one of them ends the connection. Cancelling drops everything.

        A refusal is delayed when the guest has had many.
        """
        try:
            try:
                while await self._one_request():
                    self._peer.http.start_next_cycle()
            except Refusal as error:
                if (seconds := self._pace.take()) > 0:
                    await asyncio.sleep(seconds)
                await self._answer(error)
            await self._client.finish(self._limits.idle_seconds, self._limits.linger_seconds)
        except (PeerGone, TimeoutError, h11.ProtocolError):
            pass  # one side broke off in the middle: there is nobody to answer
        finally:
            self._client.abort()

    async def turn_away(self, error: Refusal) -> None:
        """Answer with `error` without looking at the request."""
        self._pace.take()
        try:
            await self._answer(error)
            await self._client.finish(self._limits.linger_seconds, self._limits.linger_seconds)
        except PeerGone:
            pass
        finally:
            self._client.abort()

    async def _one_request(self) -> bool:
        """Serve the next request; return whether another may follow on this connection."""
        request = await self._read_head()
        if request is None:
            return False
        try:
            if request.method == b"CONNECT":
                await self._connect(request)
                return False
            await self._forward(request)
        except BadTarget as error:
            raise guest_request.malformed(str(error)) from None
        http = self._peer.http
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    async def _read_head(self) -> h11.Request | None:
        try:
            async with asyncio.timeout(self._limits.header_seconds):
                event = await self._peer.next_event()
        except TimeoutError:
            if not self._peer.http.trailing_data[0]:
                return None
            raise guest_request.malformed("its head took too long", REQUEST_TIMEOUT) from None
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            problem = "too large a head" if status == HEAD_TOO_LARGE else "not valid HTTP/1.1"
            raise guest_request.malformed(problem, status) from None
        if not isinstance(event, h11.Request):
            return None
        names = {name for name, _ in event.headers}
        ambiguous = b"content-length" in names or event.http_version != HTTP_1_1
        if b"transfer-encoding" in names and ambiguous:
            raise guest_request.malformed("the length of its body is ambiguous")
        return event

    async def _connect(self, request: h11.Request) -> None:
        target = parse_authority(request.target.decode("ascii"))
        if any(name in LENGTH_HEADERS for name, _ in request.headers):
            raise guest_request.malformed("CONNECT has no body")
        upstream = await self._dial(target)
        try:
            await self._peer.next_event()  # the end of the request, as h11 sees it
            await self._peer.send(h11.Response(status_code=200, headers=[], reason="Connected"))
            early, _ = self._peer.http.trailing_data
            idle = self._limits.idle_seconds
            await relay(self._client, upstream, early, idle, self._dialer.name_check(target))
            await upstream.finish(self._limits.idle_seconds, self._limits.linger_seconds)
        finally:
            upstream.abort()

    async def _forward(self, request: h11.Request) -> None:
        target, path = parse_http_url(request.target.decode("ascii"))
        upstream = await self._dial(target, Seen(request.method.decode("ascii"), path))
        try:
            server = HttpPeer(upstream, h11.CLIENT, self._limits.header_bytes)
            exchange = Exchange(self._peer, server, target.host)
            await exchange.run(request_for(request, target, path), self._limits.idle_seconds)
        finally:
            upstream.abort()

    async def _dial(self, target: Target, seen: Seen | None = None) -> Stream:
        self.passage = None
        await self._allowance.turn()
        if (stream := await self._dialer.at_home(target)) is not None:
            return stream
        if (spent := self._allowance.spent()) is not None:
            self._dialer.refuse(target, spent)
        (reader, writer), self.passage = await self._dialer.open(target, seen)
        return Metered(reader, writer, self._allowance)

    async def _answer(self, error: Refusal) -> None:
        """Send the refusal, and announce that this connection ends."""
        self._allowance.count_refusal()
        body = f"{error.text}\n".encode("ascii", "replace")
        headers = [
            error.header,
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(body)).encode("ascii")),
            (b"Connection", b"close"),
        ]
        head = h11.Response(status_code=error.status, headers=headers, reason=error.code)
        await self._peer.send(head, *([] if self._peer.asked_head else [h11.Data(data=body)]))


TURNED_AWAY_AT_ONCE = 16
"""Connections over the limit that may be answered at once; further ones are dropped, and so are
all of them while refusals have to wait (`Pace`)."""
REMEMBERED = 64
"""Refusals that are kept; the oldest are dropped first."""


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
        on_decision: OnDecision = lambda _decision: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reach` None means the public internet. `on_decision` must not raise or wait."""
        self._on_decision = on_decision
        self._now = now
        self._refused: deque[tuple[float, Decision]] = deque(maxlen=REMEMBERED)
        self._limits = EgressLimits() if limits is None else limits
        self._gate = Gate(reach or Reach(), policy, self._decided)
        self._dialer = Dialer(self._gate, resolver, self._limits.dial)
        self._serving: dict[asyncio.Task[object], Session] = {}
        self._turning_away: set[asyncio.Task[object]] = set()
        self._pace = Pace(now=now)
        self._closed = False
        self._allowance = Allowance() if allowance is None else allowance

    def _decided(self, decision: Decision) -> None:
        if not decision.is_allowed:
            self._refused.append((self._now(), decision))
        self._on_decision(decision)

    def lead_home(self, connect: ConnectHome, hostname: str) -> None:
        """Connect requests of the guest for itself in the guest. Call it once, before `serve`."""
        self._dialer.home = Home(connect, hostname)

    @property
    def network(self) -> Network:
        """What the environment may reach now."""
        return self._gate.network

    def set_network(self, network: Network) -> int:
        """Judge by another network from now on; return how many open connections that ended."""
        self._gate.network = network
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

    def refused_since(self, since: float) -> tuple[Decision, ...]:
        """Return the gate's refusals, at most the last REMEMBERED; `since` is a time of `now`."""
        return tuple(refused for at, refused in self._refused if at >= since)

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
        session = Session(client, self._dialer, self._limits, self._allowance, self._pace)
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
