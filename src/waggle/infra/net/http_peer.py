# SPDX-License-Identifier: Apache-2.0
"""h11 on a stream, and the rules for headers that a proxy passes on.

Used by `egress` (towards the guest) and `forward` (towards the server). All parsing and framing
is h11's; this file adds reading, writing, fairness and the list of hop-by-hop headers.
"""

from __future__ import annotations

import asyncio

import h11

from waggle.infra.net.streams import Stream

HEAD_CHUNK = 16 * 1024
EVENTS_PER_TURN = 64

Headers = list[tuple[bytes, bytes]]
Message = h11.Request | h11.Response | h11.InformationalResponse

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class HttpPeer:
    """One side of the proxy: an h11 connection and the stream that carries it."""

    def __init__(self, stream: Stream, role: type[h11.CLIENT | h11.SERVER], max_head: int) -> None:
        """Play `role`.

        `max_head` bounds a head, a chunk header and trailers, in bytes; one read of 16 KiB may
        exceed it.
        """
        self.stream = stream
        self.http = h11.Connection(role, max_incomplete_event_size=max_head)
        self.asked_head = False
        """Whether the last request was a HEAD, whose answer has no body."""
        self._events = 0

    async def next_event(self) -> h11.Event | None:
        """The next event; None while h11 waits for the other side to finish this exchange.

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
            self.http.receive_data(await self.stream.read(HEAD_CHUNK))

    async def send(self, *events: h11.Event) -> None:
        """Send `events` in one piece. Raises PeerGone, h11.LocalProtocolError."""
        data = b"".join(self.http.send(event) or b"" for event in events)
        if data:
            await self.stream.write(data)


def end_to_end(message: Message, *also_drop: bytes) -> Headers:
    """The headers that may be passed on, without those about framing.

    Drops the hop-by-hop headers, what `Connection` names, Content-Length, and `also_drop`.
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
    """The one header that says how long the message is, made anew from what h11 understood."""
    found = dict(message.headers)
    if b"transfer-encoding" in found:
        return [(b"Transfer-Encoding", b"chunked")]
    length = found.get(b"content-length")
    return [] if length is None else [(b"Content-Length", length)]
