# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 request to a VMM and its answer, over a socket of its own. Used by `client`.

A guest may have taken its VMM over: h11 parses strictly, heads, bodies and the number of pieces are
bounded, and a flood of them leaves the event loop to others. The caller bounds the time. Knows no
methods.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, NamedTuple

import h11

HEAD_BYTES: Final = 16 * 1024
"""The largest head of an answer, chunk header or trailers."""
BODY_BYTES: Final = 1024 * 1024
"""The largest body of an answer. That of an error is cut at `ERROR_BYTES`."""
ERROR_BYTES: Final = 16 * 1024
MOST_PIECES: Final = 4096
"""The most pieces in which a head and body may arrive: a VMM sends one or two."""
MOST_INTERIM: Final = 8
_CHUNK: Final = 64 * 1024
_PIECES_PER_TURN: Final = 8
_ERRORS_FROM: Final = 400


class BadAnswer(Exception):
    """There is no valid answer; the text says why, to follow "because"."""


class Reply(NamedTuple):
    """An answer: its status and its body, which is cut if the status is an error."""

    status: int
    body: bytes


async def exchange(connection: socket.socket, verb: str, path: str, body: bytes | None) -> Reply:
    """Send a request and return its answer. Raises BadAnswer. The caller closes the connection."""
    peer = _Peer(connection)
    await peer.send(verb, path, body)
    status, length = await peer.head()
    most = ERROR_BYTES if status >= _ERRORS_FROM else BODY_BYTES
    if status < _ERRORS_FROM and length > BODY_BYTES:
        raise BadAnswer(f"its answer has over {BODY_BYTES:,} bytes")
    received = bytearray()
    while piece := await peer.piece():
        received += piece
        if len(received) > most:
            if status >= _ERRORS_FROM:
                break
            raise BadAnswer(f"its answer has over {BODY_BYTES:,} bytes")
    return Reply(status, bytes(received[:most]))


class _Peer:
    """The state of one exchange."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._pieces = 0

    async def send(self, verb: str, path: str, body: bytes | None) -> None:
        """Send the request. A VMM that hangs up in the middle may have answered before."""
        headers = [("Host", "localhost"), ("Accept", "application/json")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        http = self._http
        data = http.send(h11.Request(method=verb, target=path, headers=headers)) or b""
        data += http.send(h11.Data(data=body or b"")) or b""
        data += http.send(h11.EndOfMessage()) or b""
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            raise BadAnswer(_hung_up(error)) from error

    async def head(self) -> tuple[int, int]:
        """Return the status and, where it is said, the length; interim answers are dropped."""
        for _ in range(MOST_INTERIM):
            event = await self._next()
            if isinstance(event, h11.Response):
                lengths = [value for name, value in event.headers if name == b"content-length"]
                return event.status_code, int(lengths[0]) if lengths else 0
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                break
        raise BadAnswer("its answer is not one of HTTP")

    async def piece(self) -> bytes:
        """Return the next piece of the body; empty at its end."""
        while True:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if not isinstance(event, h11.Data):
                raise BadAnswer("its answer is not one of HTTP")
            if event.data:
                return bytes(event.data)

    async def _next(self) -> h11.Event:
        try:
            while True:
                self._pieces += 1
                if self._pieces > MOST_PIECES:
                    raise BadAnswer(f"its answer comes in over {MOST_PIECES:,} pieces")
                if self._pieces % _PIECES_PER_TURN == 0:
                    await asyncio.sleep(0)
                event = self._http.next_event()
                if isinstance(event, h11.Event):
                    return event
                if event is not h11.NEED_DATA:
                    raise BadAnswer("its answer is not one of HTTP")
                self._http.receive_data(await self._receive())
        except h11.RemoteProtocolError as error:
            raise BadAnswer(f"its answer is not one of HTTP ({error})") from error

    async def _receive(self) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._connection, _CHUNK)
        except OSError as error:
            raise BadAnswer(_hung_up(error)) from error
        if not data and self._http.their_state in {h11.IDLE, h11.SEND_RESPONSE}:
            raise BadAnswer("it closed the connection without an answer")
        return data


def _hung_up(error: OSError) -> str:
    return f"the connection broke ({error.strerror or type(error).__name__})"
