# SPDX-License-Identifier: Apache-2.0
"""The body of one stream of ended HTTP/2 on its way from one side to the other.

`http2` makes two for each stream. A `Flow` holds no more than the sender's window: what the other
side has not taken is not acknowledged to the sender, who then stops. Decoding and masking happen
when there is room for the result, so that a bomb expands to one piece at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from waggle.domain.secrets.masking import Piece
from waggle.domain.secrets.substitution import Header
from waggle.infra.net.tls.frames import MAX_FRAME
from waggle.infra.net.tls.side import Side

Change = Callable[[bytes], Iterator[Piece]]


def unchanged(piece: bytes) -> Iterator[Piece]:
    """Yield the piece as it is."""
    yield piece


class Flow:
    """One direction of one stream; it begins to move when `open` says where to."""

    def __init__(self, source: Side, source_id: int, sink: Side) -> None:
        self._source = source
        self.source_id = source_id
        self.sink = sink
        self._sink_id: int | None = None
        self._change: Change = unchanged
        self._rest: Callable[[], bytes] = bytes
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Pieces that were received, and what each counts in the sender's window."""
        self._pieces: Iterator[Piece] | None = None
        self._due = 0
        self._piece = memoryview(b"")
        self.trailers: Sequence[Header] | None = None
        self.ended = False
        """Whether the sender has sent everything."""
        self.is_done = False
        """Whether everything was passed on."""

    def open(
        self, sink_id: int, change: Change = unchanged, rest: Callable[[], bytes] = bytes
    ) -> None:
        """Begin to move. `change` makes what is sent, and `rest` the last of it."""
        self._sink_id, self._change, self._rest = sink_id, change, rest

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received that was not passed on."""
        return not self._waiting and self._pieces is None and not self._piece

    def add(self, data: bytes, size: int) -> None:
        """Take a piece that counts `size` in the sender's window."""
        self._waiting.append((data, size))

    def end(self, trailers: Sequence[Header] | None = None) -> None:
        """Note that the sender has sent everything. Idempotent."""
        self.ended = True
        self.trailers = trailers if trailers is not None else self.trailers

    def pump(self) -> None:
        """Pass on what the other side takes now. Raises ValueError and h2's ProtocolError."""
        stream = self._sink_id
        if stream is None or self.is_done:
            return
        http = self.sink.http
        while self._piece or self._fill():
            room = min(http.local_flow_control_window(stream), MAX_FRAME)
            if room <= 0 or self.sink.is_full:
                return
            http.send_data(stream, bytes(self._piece[:room]))
            self._piece = self._piece[room:]
            self.sink.flush()
        if self.ended:
            self.is_done = True
            if self.trailers is None:
                http.end_stream(stream)
            else:
                http.send_headers(stream, self.trailers, end_stream=True)

    def _fill(self) -> bool:
        """Make the next piece; False if there is none."""
        while True:
            if self._pieces is not None:
                piece = next(self._pieces, None)
                if piece is not None:
                    self._piece = memoryview(piece)
                    return True
                self._pieces = None
                self._acknowledge(self._due)
            if self._waiting:
                data, self._due = self._waiting.popleft()
                self._pieces = self._change(data)
            elif self.ended and (rest := self._rest()):
                self._piece = memoryview(rest)
                return True
            else:
                return False

    def discard(self) -> None:
        """Drop what waits, and give the sender back its share of the connection's window."""
        self.is_done = True
        due = sum(size for _, size in self._waiting)
        due += self._due if self._pieces is not None else 0
        self._waiting.clear()
        self._pieces, self._piece = None, memoryview(b"")
        self._acknowledge(due)

    def _acknowledge(self, size: int) -> None:
        if size:
            self._source.http.acknowledge_received_data(size, self.source_id)
            self._source.flush()
