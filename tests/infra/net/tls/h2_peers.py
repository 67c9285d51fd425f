# SPDX-License-Identifier: Apache-2.0
"""A server and a client of HTTP/2 for tests, on the library h2 and asyncio's own TLS."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from tests.infra.net.tls.secret_lab import HOST, SecretLab

from waggle.infra.net.tls.frames import goaway

Headers = list[tuple[bytes, bytes]]


@dataclass
class Asked:
    """One request as the server got it."""

    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list[tuple[bytes, bytes]])
    reset: int | None = None

    def get(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


@dataclass
class Reply:
    """An answer: its headers, its body piece by piece, its trailers."""

    headers: Headers = field(default_factory=list[tuple[bytes, bytes]])
    body: Sequence[bytes] = ()
    trailers: Headers | None = None
    status: int = 200


Answering = Callable[[Asked], Awaitable[Reply]]


class Peer:
    """What both have: a connection, and the wait for windows."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool
    ) -> None:
        self.reader, self.writer = reader, writer
        self.http = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.windows = asyncio.Event()

    def flush(self) -> None:
        self.writer.write(self.http.data_to_send())

    async def events(self) -> AsyncGenerator[Event]:
        self.flush()
        while data := await self._next():
            for event in self.http.receive_data(data):
                if isinstance(event, WindowUpdated):
                    self.windows.set()
                yield event
            self.flush()

    async def _next(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read(65536)
        return b""

    def taken(self, event: DataReceived) -> bytes:
        self.http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        return event.data or b""

    async def send(self, stream: int, body: Iterable[bytes], *, end: bool) -> None:
        for whole in body:
            piece = whole
            while piece:
                room = min(self.http.local_flow_control_window(stream), 16384)
                if room:
                    self.http.send_data(stream, piece[:room])
                    piece = piece[room:]
                    self.flush()
                else:
                    self.windows.clear()
                    await self.windows.wait()
            await asyncio.sleep(0)
        if end:
            self.http.end_stream(stream)
        self.flush()


class H2Site:
    """A server: `answer` makes the answer once the request is complete."""

    def __init__(self, answer: Answering, *, streams: int = 100, leave_after: int = 0) -> None:
        """It takes `streams` at once, and leaves with GOAWAY after `leave_after` requests."""
        self._answer = answer
        self._streams = streams
        self._leave_after = leave_after
        self.got: list[Asked] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(reader, writer, client=False)
        values = {SettingCodes.MAX_CONCURRENT_STREAMS: self._streams}
        peer.http.local_settings = Settings(client=False, initial_values=values)
        peer.http.initiate_connection()
        open_now: dict[int, Asked] = {}
        async with asyncio.TaskGroup() as group:
            async for event in peer.events():
                stream = getattr(event, "stream_id", 0) or 0
                if isinstance(event, RequestReceived):
                    open_now[stream] = Asked(list(event.headers or ()))
                    self.got.append(open_now[stream])
                    if len(self.got) == self._leave_after:
                        peer.flush()
                        writer.write(goaway(stream))
                elif isinstance(event, DataReceived):
                    open_now[stream].body += peer.taken(event)
                elif isinstance(event, TrailersReceived):
                    open_now[stream].trailers = list(event.headers or ())
                elif isinstance(event, StreamReset) and stream in open_now:
                    open_now[stream].reset = int(event.error_code or 0)
                elif isinstance(event, StreamEnded):
                    group.create_task(self._reply(peer, stream, open_now[stream]))

    async def _reply(self, peer: Peer, stream: int, asked: Asked) -> None:
        reply = await self._answer(asked)
        with contextlib.suppress(ProtocolError):  # the stream was reset
            await self._send(peer, stream, reply)

    async def _send(self, peer: Peer, stream: int, reply: Reply) -> None:
        head = [(b":status", b"%d" % reply.status), *reply.headers]
        empty = not reply.body and reply.trailers is None
        peer.http.send_headers(stream, head, end_stream=empty)
        if not empty:
            await peer.send(stream, reply.body, end=reply.trailers is None)
        if reply.trailers is not None:
            peer.http.send_headers(stream, reply.trailers, end_stream=True)
        peer.flush()


class H2Client:
    """A client in the guest that may send anything."""

    def __init__(self, lab: SecretLab, port: int) -> None:
        self._lab = lab
        self._port = port
        self.peer: Peer
        self._events: AsyncGenerator[Event]

    async def __aenter__(self) -> Self:
        reader, writer = await self._lab.connect(self._port, "h2")
        self.peer = Peer(reader, writer, client=True)
        config = self.peer.http.config
        config.validate_outbound_headers = config.normalize_outbound_headers = False
        self.peer.http.initiate_connection()
        self._events = self.peer.events()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._events.aclose()
        self.peer.writer.close()

    def request(self, headers: Headers, *, method: bytes = b"GET", end: bool = False) -> int:
        """Begin a request; given pseudo-headers replace the usual ones."""
        usual = {
            b":method": method,
            b":scheme": b"https",
            b":authority": f"{HOST}:{self._port}".encode(),
            b":path": b"/",
        }
        usual |= {name: value for name, value in headers if name.startswith(b":")}
        rest = [header for header in headers if not header[0].startswith(b":")]
        stream = self.peer.http.get_next_available_stream_id()
        self.peer.http.send_headers(stream, [*usual.items(), *rest], end_stream=end)
        return stream

    async def answer(self, stream: int) -> Asked:
        """Return the answer of a stream once it is complete, or was reset."""
        self.peer.flush()
        got = Asked([])
        async for event in self._events:
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, ResponseReceived):
                got.headers = list(event.headers or ())
            elif isinstance(event, DataReceived):
                got.body += self.peer.taken(event)
            elif isinstance(event, TrailersReceived):
                got.trailers = list(event.headers or ())
            elif isinstance(event, StreamReset):
                got.reset = int(event.error_code or 0)
                return got
            elif isinstance(event, StreamEnded):
                return got
        raise ConnectionError
