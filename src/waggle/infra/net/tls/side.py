# SPDX-License-Identifier: Apache-2.0
"""One side of ended HTTP/2: an `h2` connection, its stream, and what waits to be sent.

`http2` makes two: to the guest as a server, to the server as a client. Received bytes are metered
(`frames`) and parsed 64 frames at a time, so that a flood of tiny frames leaves the loop to others.
What is sent waits in a buffer that a task writes; whoever fills it waits for `room`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from waggle.infra.net import CHUNK, PeerGone, Stream
from waggle.infra.net.tls.frames import MAX_FRAME, Flood, Meter, goaway

FRAMES_PER_TURN: Final = 16
READ: Final = 128 * 1024
HIGH: Final = 256 * 1024
"""Bytes that may wait to be sent."""
STREAM_WINDOW, WINDOW = 256 * 1024, 1024 * 1024
"""Bytes that a peer may send ahead, on one stream and on all."""
MAX_STREAMS: Final = 64
MAX_HEADERS: Final = 64 * 1024
MAX_TABLE: Final = 4096
"""Bytes of headers that are remembered to compress others, though the peer may allow 4 GiB: each
header that is sent is looked for among them, one by one."""
ENHANCE_YOUR_CALM, PROTOCOL_ERROR = 11, 1


class Side:
    """One HTTP/2 connection. The caller ends the stream, and runs `write_out` in a task."""

    def __init__(self, stream: Stream, *, is_server: bool) -> None:
        self.stream = stream
        self.http = H2Connection(H2Configuration(client_side=not is_server, header_encoding=None))
        self._is_server = is_server
        self._meter = Meter(preface=is_server)
        self._unparsed = b""
        self._out = bytearray()
        self._wake = asyncio.Event()
        self._low = asyncio.Event()
        self._low.set()

    def start(self, max_streams: int = MAX_STREAMS) -> None:
        """Send the settings; `max_streams` is how many the peer may open."""
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
        }
        if not self._is_server:
            values |= {SettingCodes.ENABLE_PUSH: 0}
            del values[SettingCodes.MAX_CONCURRENT_STREAMS]
        self.http.local_settings = Settings(client=not self._is_server, initial_values=values)
        self.http.decoder.max_header_list_size = MAX_HEADERS
        self.http.initiate_connection()
        self.http.increment_flow_control_window(WINDOW - 65535)
        self.flush()

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that nothing should be added."""
        return len(self._out) >= HIGH

    @property
    def is_leaving(self) -> bool:
        """Whether the peer takes no new streams."""
        return self._meter.last_stream is not None

    def still_serves(self, stream: int) -> bool:
        """Whether the peer has not given up a stream by leaving."""
        last = self._meter.last_stream
        return last is None or stream <= last

    async def receive(self) -> list[Event] | None:
        """Return the next events; None at the end. Raises PeerGone, also for what is not HTTP/2."""
        data = self._unparsed or await self.stream.read(READ)
        if not data:
            return None
        try:
            passed, self._unparsed = self._meter.feed(data, FRAMES_PER_TURN)
            events = self.http.receive_data(passed)
        except Flood:
            self._out += goaway(0, ENHANCE_YOUR_CALM)
            self._wake.set()
            raise PeerGone("flood") from None
        except (ProtocolError, ValueError, IndexError, KeyError, UnicodeError):
            self.flush()  # h2 has made a GOAWAY that says why
            raise PeerGone("not valid HTTP/2") from None
        encoder = self.http.encoder
        is_large = encoder.header_table_size > MAX_TABLE
        if is_large:  # setting the size that it has would hide an earlier change from the peer
            encoder.header_table_size = MAX_TABLE
        return events

    def flush(self) -> None:
        """Queue what h2 has made; never blocks."""
        self._out += self.http.data_to_send()
        if self._out:
            self._wake.set()
            if self.is_full:
                self._low.clear()

    def leave(self, last_stream: int) -> None:
        """Announce that no stream after `last_stream` is served; those up to it go on."""
        self.flush()
        self._out += goaway(last_stream)
        self._wake.set()

    async def room(self) -> None:
        """Wait until the peer has taken enough of what waits."""
        await self._low.wait()

    async def write_out(self, on_room: Callable[[], None], touch: Callable[[], None]) -> None:
        """Write what is queued, for ever. Raises PeerGone. `on_room` may queue more."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                piece = bytes(self._out[:CHUNK])
                del self._out[:CHUNK]
                await self.stream.write(piece)
                self._meter.earn(len(piece))
                touch()
                if not self._low.is_set() and len(self._out) < HIGH // 2:
                    self._low.set()
                    on_room()

    async def write_rest(self) -> None:
        """Write what is queued, once. Raises PeerGone."""
        self.flush()
        rest, self._out = bytes(self._out), bytearray()
        await self.stream.write(rest)
