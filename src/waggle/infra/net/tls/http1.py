# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 inside ended TLS: one connection of the guest, one to the server, request by request.

`ended` runs it when both sides agreed on HTTP/1.1. h11 parses and frames both messages anew, so the
two sides cannot differ about where one ends. Only a websocket's upgrade is passed on; then bytes
go both ways, masked on their way to the guest, and extensions are not agreed on, since compressed
text cannot be masked. What the guest writes into a websocket is not looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import h11

from waggle.domain.secrets.masking import Masker
from waggle.domain.secrets.substitution import Header
from waggle.infra.net import CHUNK, PeerGone, Stream, idle_limit
from waggle.infra.net.forward import (
    HEAD_CHUNK,
    HTTP_1_1,
    Exchange,
    HttpPeer,
    Message,
    end_to_end,
    framing,
    read_head,
    refuse,
)
from waggle.infra.net.guest_request import EgressLimits, Refusal
from waggle.infra.net.tls import TlsStream
from waggle.infra.net.tls.admission import Admission, Admitted
from waggle.tasks import end

_SWITCHING = 101
_UPGRADE: Sequence[Header] = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


class Http1:
    """The requests of one connection. The caller ends both streams in every case."""

    def __init__(
        self, client: Stream, upstream: TlsStream, admission: Admission, limits: EgressLimits
    ) -> None:
        self._client = HttpPeer(client, h11.SERVER, limits.header_bytes)
        self._upstream = HttpPeer(upstream, h11.CLIENT, limits.header_bytes)
        self._server = upstream.patient
        self._admission = admission
        self._limits = limits
        self._served = 0

    async def run(self) -> None:
        """Serve requests until one of them ends the connection. Raises Refusal, PeerGone."""
        while (request := await self._next_head()) is not None:
            if not await self._one_request(request):
                return
            self._client.http.start_next_cycle()
            self._upstream.http.start_next_cycle()
            self._served += 1

    async def refuse(self, refusal: Refusal) -> None:
        """Answer the request that is under way with a refusal. Raises PeerGone."""
        await refuse(self._client, refusal)

    async def refuse_next(self, refusal: Refusal) -> None:
        """Answer the next request with a refusal. Raises PeerGone, and another Refusal."""
        if await read_head(self._client, self._limits.header_seconds) is not None:
            await refuse(self._client, refusal)

    async def _next_head(self) -> h11.Request | None:
        """Return the next request; None also when the server ends the connection meanwhile."""
        # Small pieces, so that little more than its limit is read of a head.
        self._client.piece = self._upstream.piece = HEAD_CHUNK
        head = asyncio.ensure_future(read_head(self._client, self._limits.header_seconds))
        self._server.keeps = True
        unasked = asyncio.ensure_future(self._upstream.stream.read(1))
        try:
            await asyncio.wait({head, unasked}, return_when=asyncio.FIRST_COMPLETED)
            return None if unasked.done() else head.result()
        finally:
            await end(head, unasked)
            self._server.keeps = False

    async def _one_request(self, request: h11.Request) -> bool:
        """Serve it; return whether another may follow."""
        self._client.piece = CHUNK
        admission = self._admission
        named = dict(request.headers).get(b"host")
        if named is not None and not admission.is_here(named):
            raise admission.elsewhere()
        path = admission.path_of(request.target)
        upgrade = _asks_for_websocket(request)
        headers = end_to_end(request, b"host", *([b"sec-websocket-extensions"] if upgrade else []))
        sent = await admission.admit(request.method, path, headers)
        own = [(b"Host", admission.authority), *(_UPGRADE if upgrade else ())]
        exchange = _Exchange(self._client, self._upstream, admission, sent, request.method)
        forwarded = h11.Request(
            method=request.method,
            target=sent.target,
            headers=own + sent.headers + framing(request),
        )
        try:
            await exchange.run(forwarded, self._limits.idle_seconds)
        except Refusal as error:
            # A server may close a connection that was kept; clients know that and try again.
            if self._served and error.code == "bad-answer" and self._upstream_is_silent:
                raise PeerGone from None
            raise
        if exchange.switched:
            await self._pass_websocket(exchange.switched)
            return False
        if self._upstream.http.trailing_data[0]:
            return False  # what nobody asked for must not become the next answer
        peers = (self._client.http, self._upstream.http)
        return all(http.our_state is http.their_state is h11.DONE for http in peers)

    @property
    def _upstream_is_silent(self) -> bool:
        return self._upstream.http.their_state is h11.SEND_RESPONSE

    async def _pass_websocket(self, masker: Masker) -> None:
        """Pass bytes both ways until one side ends. Raises PeerGone, TimeoutError."""
        client, upstream = self._client, self._upstream
        async with idle_limit(self._limits.idle_seconds) as touch:

            async def to_server() -> None:
                data = client.http.trailing_data[0] or await client.stream.read()
                while data:
                    await upstream.stream.write(data)
                    touch()
                    data = await client.stream.read()

            async def to_guest() -> None:
                data = upstream.http.trailing_data[0] or await upstream.stream.read()
                while data:
                    await client.stream.write(bytes(masker.feed(data)))
                    touch()
                    data = await upstream.stream.read()
                await client.stream.write(masker.finish())

            both = [asyncio.ensure_future(to_server()), asyncio.ensure_future(to_guest())]
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await end(*both)


def _asks_for_websocket(request: h11.Request) -> bool:
    upgrades = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    lengths = {b"content-length", b"transfer-encoding"}
    has_body = any(name in lengths for name, _ in request.headers)
    return (
        upgrades == [b"websocket"]
        and request.method == b"GET"
        and request.http_version == HTTP_1_1
        and not has_body
    )


class _Exchange(Exchange):
    """A request with values in it, and its answer without them."""

    def __init__(
        self,
        client: HttpPeer,
        upstream: HttpPeer,
        admission: Admission,
        sent: Admitted,
        method: bytes,
    ) -> None:
        super().__init__(client, upstream, admission.host)
        finder = admission.finder()

        def inspect(data: bytes) -> None:
            if (placeholder := finder.feed(data)) is not None:
                raise admission.in_body(placeholder)

        self.inspect = inspect
        self._admission = admission
        self._sent = sent
        self._method = method
        self.switched: Masker | None = None
        """Set once the server has switched to a websocket."""

    async def _pass_body(self, touch: Callable[[], None]) -> None:
        """Pass the body on, and then notice if the guest hangs up before the answer."""
        await super()._pass_body(touch)
        client = self._client
        while len(client.http.trailing_data[0]) < HEAD_CHUNK:
            data = await client.stream.read(HEAD_CHUNK)
            if not data:
                raise PeerGone
            client.http.receive_data(data)

    async def _pass_answer(self, touch: Callable[[], None]) -> None:
        while not isinstance(event := await self._upstream.next_event(), h11.Response):
            touch()
            if not isinstance(event, h11.InformationalResponse):
                raise PeerGone
            if self._client.http.their_http_version == HTTP_1_1:
                await self._client.send(self._interim(event))
            if event.status_code == _SWITCHING:
                self.switched = Masker(self._admission.masks(self._sent))
                return
        touch()
        self._upstream.piece = 4 * CHUNK
        answer = self._admission.answer(
            event.status_code, end_to_end(event) + _length(event), self._sent, self._method
        )
        head = h11.Response(
            status_code=event.status_code,
            headers=answer.headers,
            reason=self._admission.masks(self._sent).masked(event.reason),
        )
        await self._client.send(head)
        while isinstance(data := await self._upstream.next_event(), h11.Data):
            touch()
            try:
                for piece in answer.body(data.data):
                    await self._client.send_body(piece)
                    touch()
            except ValueError:
                raise PeerGone from None
        if not isinstance(data, h11.EndOfMessage):
            raise PeerGone
        rest = answer.masker.finish()
        await self._client.send(*([h11.Data(data=rest)] if rest else []), h11.EndOfMessage())

    def _interim(self, event: h11.InformationalResponse) -> h11.InformationalResponse:
        masks = self._admission.masks(self._sent)
        switching = _UPGRADE if event.status_code == _SWITCHING else ()
        return h11.InformationalResponse(
            status_code=event.status_code,
            headers=[*self._admission.masked(end_to_end(event), masks), *switching],
            reason=masks.masked(event.reason),
        )


def _length(message: Message) -> list[Header]:
    return [header for header in framing(message) if header[0] == b"Content-Length"]
