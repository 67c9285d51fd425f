# SPDX-License-Identifier: Apache-2.0
"""One plain HTTP request passed on to its server, and the answer passed back.

Called by `session` once the connection to the server is open; `HttpPeer` serves it too. h11
parses and frames both messages anew, so both sides agree where a message ends; this file adds
reading, writing, fairness and the list of hop-by-hop headers. Every request has its own connection
to the server. Upgrades and trailers are not passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import h11

from waggle.infra.net import PeerGone, Stream, guest_request, idle_limit
from waggle.infra.net.allowance import Spent
from waggle.infra.net.guest_request import Target
from waggle.tasks import errors_in

HEAD_CHUNK = 16 * 1024
EVENTS_PER_TURN = 8  # of each of 128 connections: tiny chunks take 50 microseconds
REQUEST_TIMEOUT = 408
HEAD_TOO_LARGE = 431
HTTP_1_1 = b"1.1"

Headers = list[tuple[bytes, bytes]]
Message = h11.Request | h11.Response | h11.InformationalResponse

_HOP_BY_HOP = frozenset(
    b"connection http2-settings keep-alive proxy-authenticate proxy-authentication-info "
    b"proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)


class HttpPeer:
    """One side of the proxy: an h11 connection and the stream that carries it."""

    def __init__(self, stream: Stream, role: type[h11.CLIENT | h11.SERVER], max_head: int) -> None:
        """Take the part `role`.

        `max_head` bounds a head, a chunk header and trailers, in bytes; one read of 16 KiB may
        exceed it.
        """
        self.stream = stream
        self.http = h11.Connection(role, max_incomplete_event_size=max_head)
        self.piece = HEAD_CHUNK
        """The most bytes of one read."""
        self.asked_head = False
        """Whether the last request was a HEAD, whose answer has no body."""
        self._events = 0

    async def next_event(self) -> h11.Event | None:
        """Return the next event; None while h11 waits for the other side to end this exchange.

        Raises PeerGone, h11.RemoteProtocolError.
        """
        self._events += 1
        if self._events % EVENTS_PER_TURN == 0:  # a flood of tiny chunks must not hog the loop
            await asyncio.sleep(0)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self.asked_head = event.method == b"HEAD"
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            self.http.receive_data(await self.stream.read(self.piece))

    async def send(self, *events: h11.Event) -> None:
        """Send `events` in one piece. Raises PeerGone, h11.LocalProtocolError."""
        data = b"".join(self.http.send(event) or b"" for event in events)
        if data:
            await self.stream.write(data)

    async def send_body(self, data: bytes | bytearray) -> None:
        """Send a piece of a body, if possible without a copy of it. Raises as `send` does."""
        pieces = self.http.send_with_data_passthrough(h11.Data(data=cast("bytes", data))) or []
        if pieces:  # three, if it is a chunk
            await self.stream.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))


async def read_head(peer: HttpPeer, seconds: float) -> h11.Request | None:
    """Return the next request of the guest; None if it sends none. Raises Refusal, PeerGone."""
    try:
        async with asyncio.timeout(seconds):
            event = await peer.next_event()
    except TimeoutError:
        if not peer.http.trailing_data[0]:
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


async def refuse(peer: HttpPeer, error: guest_request.Refusal) -> None:
    """Send the refusal, and announce that this connection ends. Raises PeerGone."""
    body = f"{error.text}\n".encode("ascii", "replace")
    headers = [
        error.header,
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode("ascii")),
        (b"Connection", b"close"),
    ]
    head = h11.Response(status_code=error.status, headers=headers, reason=error.code)
    await peer.send(head, *([] if peer.asked_head else [h11.Data(data=body)]))


def end_to_end(message: Message, *also_drop: bytes) -> Headers:
    """Return the headers that may be passed on, without those about framing.

    Drops the hop-by-hop headers, those that `Connection` names, Content-Length and `also_drop`.
    """
    named = {
        token.strip().lower()
        for name, value in message.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    drop = _HOP_BY_HOP | named | {b"content-length", *also_drop}
    return [(raw, value) for raw, value in message.headers.raw_items() if raw.lower() not in drop]


def framing(message: Message) -> Headers:
    """Return the one header for the message's length, made anew from h11's interpretation."""
    found = dict(message.headers)
    if b"transfer-encoding" in found:
        return [(b"Transfer-Encoding", b"chunked")]
    length = found.get(b"content-length")
    return [] if length is None else [(b"Content-Length", length)]


def request_for(request: h11.Request, target: Target, path: str) -> h11.Request:
    """Make the request for the server: Host from the URL, no headers meant for this proxy."""
    kept = end_to_end(request, b"host")
    own = [(b"Host", target.authority().encode("ascii")), (b"Connection", b"close")]
    return h11.Request(
        method=request.method,
        target=path.encode("ascii"),
        headers=own + kept + framing(request),
    )


def answer_from(answer: h11.Response) -> h11.Response:
    """Make the answer for the guest; h11 adds framing where the server gave none."""
    length = [(n, v) for n, v in framing(answer) if n == b"Content-Length"]
    return h11.Response(
        status_code=answer.status_code,
        headers=end_to_end(answer) + length,
        reason=answer.reason,
    )


def interim_from(answer: h11.InformationalResponse) -> h11.InformationalResponse:
    """Make the interim answer for the guest."""
    return h11.InformationalResponse(
        status_code=answer.status_code, headers=end_to_end(answer), reason=answer.reason
    )


class Exchange:
    """One request and its answer."""

    def __init__(self, client: HttpPeer, upstream: HttpPeer, host: str) -> None:
        self._client = client
        self._upstream = upstream
        self._host = host
        self.inspect: Callable[[bytes], None] = lambda _: None
        """Sees every piece of the request's body before it is passed on; may raise Refusal."""

    async def run(self, request: h11.Request, idle_seconds: float) -> None:
        """Pass on `request` and its body; return when the answer is complete.

        The body may be incomplete by then: see the state of the client's h11. Raises Refusal if
        the answer has not begun, else PeerGone; the caller ends both streams.
        """
        failure: Exception | None = None
        try:
            async with idle_limit(idle_seconds) as touch, asyncio.TaskGroup() as group:
                await self._upstream.send(request)
                body = group.create_task(self._pass_body(touch))
                await self._pass_answer(touch)
                body.cancel()  # answered early: the rest of the body is dropped
        except* TimeoutError:
            failure = guest_request.too_slow(self._host, "the answer")
        except* (PeerGone, h11.ProtocolError):
            failure = guest_request.upstream_broken(self._host)
        except* guest_request.Refusal as group:
            failure = cast("guest_request.Refusal", errors_in(group)[0])
        if failure is not None:
            begun = self._client.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
            raise PeerGone if begun else failure

    async def _pass_body(self, touch: Callable[[], None]) -> None:
        while True:
            try:
                event = await self._client.next_event()
            except h11.RemoteProtocolError:
                raise guest_request.malformed("its body is not valid") from None
            touch()
            if isinstance(event, h11.Data):
                self.inspect(event.data)
            try:
                if isinstance(event, h11.Data):
                    await self._upstream.send_body(event.data)
                else:
                    await self._upstream.send(h11.EndOfMessage())
                    return
            except Spent:
                raise
            except PeerGone:
                return  # the server hung up early, but its answer may still be under way

    async def _pass_answer(self, touch: Callable[[], None]) -> None:
        while True:
            event = await self._upstream.next_event()
            touch()
            if isinstance(event, h11.InformationalResponse):
                if self._client.http.their_http_version == HTTP_1_1:
                    await self._client.send(interim_from(event))
            elif isinstance(event, h11.Response):
                await self._client.send(answer_from(event))
            elif isinstance(event, h11.Data):
                await self._client.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._client.send(h11.EndOfMessage())
                return
            else:
                raise PeerGone
