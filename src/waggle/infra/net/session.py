# SPDX-License-Identifier: Apache-2.0
"""One connection of a guest to its proxy, from its first request to its end.

`egress` makes a session for each connection that it takes. A session reads heads with h11, has
`dial` connect to the server, and relays a CONNECT or passes on a plain request (`forward`); the
guest's name server is answered by `names`. Must not know environments. The guest is hostile: every
wait has an end, every buffer has a size, refusals are paced since one costs about 1 ms of the event
loop, and only h11 interprets the guest's bytes.
"""

from __future__ import annotations

import asyncio
from functools import partial

import h11

from waggle.domain.network.judging import Seen
from waggle.infra.net import (
    PeerGone,
    Stream,
    guest_request,
    relay,
)
from waggle.infra.net.allowance import Allowance, Metered
from waggle.infra.net.dial import Dialer
from waggle.infra.net.forward import Exchange, HttpPeer, read_head, refuse, request_for
from waggle.infra.net.gate import Passage
from waggle.infra.net.guest_request import (
    BadTarget,
    EgressLimits,
    Refusal,
    Target,
    parse_authority,
    parse_http_url,
)
from waggle.infra.net.names import Names, is_for_names
from waggle.infra.net.pace import Pace
from waggle.infra.net.tls.admission import Terms
from waggle.infra.net.tls.ended import EndedTls

LENGTH_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class Session:
    """One connection of the guest. Owns `client` and ends it in every case."""

    def __init__(
        self,
        client: Stream,
        dialer: Dialer,
        names: Names | None,
        limits: EgressLimits,
        allowance: Allowance,
        pace: Pace,
        *,
        secrets: EndedTls | None = None,
    ) -> None:
        self.passage: Passage | None = None
        """The connection to a server that it uses now; none while it has none."""
        self._upstream: Stream
        self._client = client
        self._peer = HttpPeer(client, h11.SERVER, limits.header_bytes)
        self._dialer = dialer
        self._names = names
        self._limits = limits
        self._allowance = allowance
        self._pace = pace
        self._secrets = secrets

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
        request = await read_head(self._peer, self._limits.header_seconds)
        if request is None:
            return False
        try:
            if request.method == b"CONNECT":
                await self._connect(request)
                return False
            await self._forward(request)
        except BadTarget as error:
            raise guest_request.malformed(str(error)) from None
        except (PeerGone, Refusal):
            self._check_allowance()
            raise
        finally:
            self._settle()
        http = self._peer.http
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    def _settle(self) -> None:
        """Report the end of the connection to a server, if there was one."""
        if self.passage is not None:
            self._dialer.closed(self.passage, self._upstream)
            self.passage = None

    def _check_allowance(self) -> None:
        """Give the reason if a connection broke off because the allowance is used up."""
        if self.passage is not None and (spent := self._allowance.spent()) is not None:
            self._dialer.refuse(self.passage.target, spent)

    async def _connect(self, request: h11.Request) -> None:
        target = parse_authority(request.target.decode("ascii"))
        if any(name in LENGTH_HEADERS for name, _ in request.headers):
            raise guest_request.malformed("CONNECT has no body")
        if self._names is not None and is_for_names(target):
            await self._names.serve(self._client, await self._connected())
            return
        if self._secrets is not None and (refusal := self._secrets.refusal(target)) is not None:
            self._dialer.refuse(target, refusal)
        sees = self._secrets is not None and self._secrets.covers(target)
        upstream = await self._dial(target, Seen() if sees else None)
        try:
            early = await self._connected()
            if self._secrets is not None and self.passage is not None:
                terms = self._terms(self.passage)
                await self._secrets.serve(self._client, upstream, target, early, terms)
            else:
                idle = self._limits.idle_seconds
                await relay(self._client, upstream, early, idle, self._dialer.name_check(target))
            await upstream.finish(self._limits.idle_seconds, self._limits.linger_seconds)
        finally:
            upstream.abort()

    async def _connected(self) -> bytes:
        """Grant a CONNECT; return what came behind it."""
        await self._peer.next_event()  # the end of the request, as h11 sees it
        await self._peer.send(h11.Response(status_code=200, headers=[], reason="Connected"))
        early, _ = self._peer.http.trailing_data
        return early

    async def _forward(self, request: h11.Request) -> None:
        target, path = parse_http_url(request.target.decode("ascii"))
        unclear = guest_request.is_unclear(request.headers)
        upstream = await self._dial(target, Seen(request.method.decode("ascii"), path, unclear))
        try:
            server = HttpPeer(upstream, h11.CLIENT, self._limits.header_bytes)
            exchange = Exchange(self._peer, server, target.host)
            if self._secrets is not None and self.passage is not None:
                plain, terms = self._secrets.plain, self._terms(self.passage)
                plain.judge_head(target, path, list(request.headers), terms)
                exchange.inspect = plain.inspector(target, terms)
            await exchange.run(request_for(request, target, path), self._limits.idle_seconds)
        finally:
            upstream.abort()

    def _terms(self, passage: Passage) -> Terms:
        dialer = self._dialer
        return Terms(
            self._limits,
            dialer.report,
            self._pace.take,
            dialer.name_check(passage.target),
            partial(dialer.judge, passage),
            partial(dialer.may_be_unseen, passage),
        )

    async def _dial(self, target: Target, seen: Seen | None = None) -> Stream:
        await self._allowance.turn()
        if (stream := await self._dialer.at_home(target)) is not None:
            return stream
        if (spent := self._allowance.spent()) is not None:
            self._dialer.refuse(target, spent)
        (reader, writer), passage = await self._dialer.open(target, seen)
        self._upstream = Metered(reader, writer, self._allowance)
        self.passage = passage
        return self._upstream

    async def _answer(self, error: Refusal) -> None:
        """Send the refusal, and announce that this connection ends."""
        self._allowance.count_refusal()
        await refuse(self._peer, error)
