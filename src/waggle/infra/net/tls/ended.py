# SPDX-License-Identifier: Apache-2.0
"""The proxy's end of TLS for the hosts of an environment's secrets: the way into this package.

`egress` calls `EndedTls.serve` in place of `relay` for a granted CONNECT of an environment with
secrets. To a host of one of them, a TLS handshake is ended with a leaf of the environment's
authority and continued to the server, which must prove who it is. Anything else (another host, SSH)
is relayed, and watched for placeholders, since values go only over verified TLS (`plain`). Both
sides speak the protocol that the server chose of those that the guest offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from waggle.domain.secrets import Granted
from waggle.infra.net import PeerGone, Stream
from waggle.infra.net.guest_request import Refusal, Target, too_slow
from waggle.infra.net.pace import Pace
from waggle.infra.net.tls import Patient, TlsFailed, TlsStream
from waggle.infra.net.tls.admission import Admission, Terms, refused
from waggle.infra.net.tls.authority import EnvironmentAuthority
from waggle.infra.net.tls.hello import HANDSHAKE, BadHello, Hello, judge, message_in, parse_hello
from waggle.infra.net.tls.http1 import Http1
from waggle.infra.net.tls.http2 import Http2
from waggle.infra.net.tls.plain import PlainWatch
from waggle.infra.net.tls.side import Side
from waggle.infra.net.tls.streams import refuse_all
from waggle.infra.net.tls.upstream import UpstreamTls
from waggle.tasks import end

H1, H2 = "http/1.1", "h2"
HANDSHAKES_AT_ONCE: Final = 200
HANDSHAKES_PER_SECOND: Final = 50
"""Of one environment, with guest and server; both together take 2 ms of the event loop."""
OnUse = Callable[[str, str], None]
"""Gets the name of a secret and the host to which its value is about to be sent."""


class EndedTls:
    """Ends TLS for one environment. Knows no limits but those of the proxy it belongs to."""

    def __init__(
        self,
        granted: Granted,
        authority: EnvironmentAuthority,
        upstream: UpstreamTls,
        *,
        on_use: OnUse = lambda _name, _host: None,
        pace: Pace | None = None,
    ) -> None:
        """All environments share `upstream`; `pace` is the rate of handshakes of this one."""
        self._pace = Pace(HANDSHAKES_AT_ONCE, HANDSHAKES_PER_SECOND) if pace is None else pace
        self.plain = PlainWatch(granted)
        self._granted = granted
        self._authority = authority
        self._upstream = upstream
        self._on_use = on_use

    def covers(self, target: Target) -> bool:
        """Whether a secret of this environment may go to the host, or might until it was lost.

        Where a secret was removed or lost its host, requests pass, but a placeholder in one is
        refused: sent on, it would tell the agent nothing. A host that the operator added after the
        environment was made is not covered: the guest would not accept a certificate for it.
        """
        host = target.host.removesuffix(".")
        if target.address is not None or not self._authority.permits(host):
            return False
        is_lost = self._authority.permits(host, apart_from=self._granted.domains)
        return is_lost or bool(self._granted.covering(host))

    def refusal(self, target: Target) -> Refusal | None:
        """Return why no connection to a host of a secret can be made at all."""
        if not (self._authority.has_expired and self.covers(target)):
            return None
        text = (
            "the certificates of this environment for the hosts of its secrets have expired; "
            "create another environment."
        )
        return refused(403, "tls-expired", target.host, text)

    async def serve(
        self, client: Stream, upstream: Stream, target: Target, early: bytes, terms: Terms
    ) -> None:
        """Serve one connection to its end. Raises PeerGone, TimeoutError.

        `early` was already read from `client`. The caller ends both streams in every case.
        Cancelling drops everything.
        """
        sides = Patient(client), Patient(upstream)
        try:
            await self._serve(*sides, target, early, terms)
        finally:
            for side in sides:
                await side.settle()

    async def _serve(
        self, client: Patient, upstream: Patient, target: Target, early: bytes, terms: Terms
    ) -> None:
        first, spoke = early, b""
        is_covered = self.covers(target)
        if is_covered:
            first, spoke = await _first_bytes(client, upstream, early, terms.limits.idle_seconds)
        client.keeps = upstream.keeps = False
        if not is_covered or spoke or first[:1] != bytes((HANDSHAKE,)):
            if not terms.may_be_unseen():
                raise PeerGone
            await self.plain.relay(client, upstream, target, (first, spoke), terms)
            return
        admission = Admission(
            target,
            self._granted,
            terms.judge,
            lambda code, reason: terms.denied(target, code, reason),
            lambda name: self._on_use(name, target.host),
        )
        if (seconds := self._pace.take()) > 0:
            await asyncio.sleep(seconds)
        connection = _Connection(client, admission, self._authority, terms)
        await connection.run(first, upstream, self._upstream)


class _Connection:
    """One connection of a guest whose TLS is ended."""

    def __init__(
        self, client: Patient, admission: Admission, authority: EnvironmentAuthority, terms: Terms
    ) -> None:
        self._client = client
        self._admission = admission
        self._host = admission.host
        self._authority = authority
        self._limits = terms.limits
        self._pace = terms.pace

    async def run(self, first: bytes, below: Patient, servers: UpstreamTls) -> None:
        try:
            hello, first = await self._hello(first)
            offered = judge(hello, self._host)
        except BadHello as error:
            self._admission.on_denial(error.code, error.text)
            await self._client.write(error.record())
            return
        refusal: Refusal | None = None
        upstream: TlsStream | None = None
        try:
            async with asyncio.timeout(self._limits.dial.connect):
                upstream = await servers.open(below, self._host, offered)
        except TimeoutError:
            refusal = too_slow(self._host, "the TLS handshake")
        except Refusal as error:
            refusal = self._admission.note(error)
        chosen = self._chosen(offered, upstream)
        if upstream is not None and chosen != (upstream.alpn or H1):
            text = f"waggle: {self._host} does not speak HTTP/2; use HTTP/1.1."
            refusal = Refusal(502, "no-protocol", text)
        client = await self._shake_hands(first, chosen if hello.protocols else None)
        if client is None:
            return
        if upstream is None or refusal is not None:
            refusal = refusal or too_slow(self._host, "the TLS handshake")
            await self._refuse(client, chosen, refusal)
        else:
            await self._speak(client, upstream, chosen)
            await upstream.goodbye()
        await client.finish(self._limits.idle_seconds, self._limits.linger_seconds)

    @staticmethod
    def _chosen(offered: tuple[str, ...], upstream: TlsStream | None) -> str:
        if upstream is not None and (upstream.alpn in offered or not offered):
            return upstream.alpn or H1
        return H1 if H1 in offered or not offered else H2

    async def _hello(self, data: bytes) -> tuple[Hello, bytes]:
        """Return what the guest offers, and all bytes read. Raises BadHello, PeerGone."""
        async with asyncio.timeout(self._limits.header_seconds):
            while (message := message_in(data)) is None:
                piece = await self._client.read()
                if not piece:
                    raise PeerGone("hung up in the handshake")
                data += piece
        return parse_hello(message), data

    async def _shake_hands(self, first: bytes, protocol: str | None) -> TlsStream | None:
        """Return the guest's stream; None if its program does not accept the certificate."""
        context = self._authority.context(self._host, protocol)
        stream = TlsStream(self._client, context, early=first)
        try:
            async with asyncio.timeout(self._limits.header_seconds):
                await stream.handshake(server=True)
        except (TlsFailed, PeerGone) as error:
            text = (
                f"a program of the guest broke off TLS ({error}): it may not use the guest's "
                "certificates; point it to the file in SSL_CERT_FILE"
            )
            self._admission.on_denial("tls-not-accepted", text)
            return None
        return stream

    async def _speak(self, client: TlsStream, upstream: TlsStream, protocol: str) -> None:
        if protocol == H2:
            sides = Side(client, is_server=True), Side(upstream, is_server=False)
            http2 = Http2(*sides, self._admission, self._limits, self._pace)
            try:
                await http2.run()
            except Refusal as error:
                await self._refuse(client, H2, error)
            return
        http1 = Http1(client, upstream, self._admission, self._limits)
        try:
            await http1.run()
        except Refusal as error:
            if (seconds := self._pace()) > 0:
                await asyncio.sleep(seconds)
            await http1.refuse(error)

    async def _refuse(self, client: TlsStream, protocol: str, refusal: Refusal) -> None:
        """Answer with the refusal what the guest asks. Raises PeerGone."""
        if protocol == H2:
            side = Side(client, is_server=True)
            await refuse_all(side, refusal, self._limits.header_seconds)
        else:
            http1 = Http1(client, client, self._admission, self._limits)
            try:
                await http1.refuse_next(refusal)
            except Refusal as error:
                await http1.refuse(error)


async def _first_bytes(
    client: Stream, upstream: Stream, early: bytes, seconds: float
) -> tuple[bytes, bytes]:
    """Return what the guest sends first, and what the server sends if it is the first to speak.

    Raises PeerGone, TimeoutError.
    """
    if early:
        return early, b""
    asks, speaks = (asyncio.ensure_future(side.read()) for side in (client, upstream))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({asks, speaks}, return_when=asyncio.FIRST_COMPLETED)
        if not asks.done() and not speaks.result():
            raise PeerGone  # the server hung up before anybody spoke
        return (
            asks.result() if asks.done() else b"",
            speaks.result() if speaks.done() else b"",
        )
    finally:
        await end(asks, speaks)
