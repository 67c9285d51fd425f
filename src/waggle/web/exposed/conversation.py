# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 with a guest's server: one request and its answer, over one connection.

Used by `waggle.web.exposed.passing`. The guest is hostile: h11 parses strictly, heads and chunk
headers are bounded, and a flood of tiny chunks leaves the loop to others. Knows no client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import h11

from waggle.domain.exposure import ByteStream, StreamLost
from waggle.infra.net import CHUNK

HEAD_BYTES = 32 << 10
"""The largest head of an answer, chunk header or trailers."""
_EVENTS_PER_TURN = 8  # of each of 128 requests: tiny chunks take 50 microseconds
_MOST_INTERIM = 16
_LARGEST_STATUS = 599


class BadAnswer(Exception):
    """The guest did not give a valid HTTP answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer. `early` came after it, if it agrees to a websocket (101)."""

    status: int
    headers: list[tuple[bytes, bytes]]
    early: bytes = b""


class GuestHttp:
    """One exchange with a guest, whose stream the caller ends. Its methods raise BadAnswer."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._events = 0
        self._is_deaf = False

    async def ask(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of the request. Raises ValueError if it is malformed."""
        try:
            head = self._http.send(h11.Request(method=method, target=target, headers=headers))
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from None
        await self._write(head)

    async def send(self, body: bytes) -> None:
        """Send a part of the body, unless the guest has hung up: its answer may still come."""
        if body:
            await self._write(self._http.send(h11.Data(data=body)))

    async def finish(self) -> None:
        """End the request."""
        await self._write(self._http.send(h11.EndOfMessage()))

    async def _write(self, data: bytes | None) -> None:
        if not data or self._is_deaf:
            return
        try:
            await self._stream.write(data)
        except StreamLost:
            self._is_deaf = True

    async def answer(self) -> Answer:
        """Return the head of the answer; interim answers are dropped."""
        for _ in range(_MOST_INTERIM):
            event = await self._next()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:  # only if it was asked for
                    early, _is_over = self._http.trailing_data
                    return Answer(101, [*event.headers], early)
                continue
            if not isinstance(event, h11.Response) or event.status_code > _LARGEST_STATUS:
                break
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                break  # two lengths
            return Answer(event.status_code, [*event.headers])
        raise BadAnswer

    async def body(self) -> bytes:
        """Return the next part of the answer's body; empty at its end. Trailers are dropped."""
        while True:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if not isinstance(event, h11.Data):
                raise BadAnswer
            if event.data:
                return bytes(event.data)

    async def _next(self) -> h11.Event:
        self._events += 1
        if self._events % _EVENTS_PER_TURN == 0:
            await asyncio.sleep(0)
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is not h11.NEED_DATA:
                    raise BadAnswer
                self._http.receive_data(await self._stream.read(CHUNK))
        except (h11.RemoteProtocolError, StreamLost) as error:
            raise BadAnswer from error
