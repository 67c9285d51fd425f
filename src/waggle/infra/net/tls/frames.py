# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames counted and bounded before the library `h2` sees them. Pure.

`side` gives every received piece to a `Meter`. It pays for frames that move no data from a budget,
which data that does move and time fill up: floods of resets, pings, settings or empty frames end
the connection. It keeps GOAWAY to itself, since h2 ends a connection at once on it, whereas the
streams under way should finish.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

DATA, HEADERS, RESET, GOAWAY, CONTINUATION = 0, 1, 3, 7, 9
HEAD: Final = 9
MAX_FRAME: Final = 16384
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BURST: Final = 2000.0
PER_SECOND: Final = 200.0
PER_KIB: Final = 2.0
"""What a KiB of data earns, in either direction: its receiver updates two windows."""
COSTS: Final = {HEADERS: 0.1, RESET: 10.0, CONTINUATION: 20.0}
"""All others without data cost 1; a reset is the end of work that was done for nothing."""
PARSED_AS: Final = {HEADERS: 8, CONTINUATION: 8}
"""How many frames one of these counts in a turn: 16 KiB can be 2,000 headers, which take 5 ms."""


class Flood(Exception):
    """The peer sends too many frames, or one too large."""


class Meter:
    """The frames of one direction."""

    def __init__(self, *, preface: bool, now: Callable[[], float] = time.monotonic) -> None:
        """`preface` says whether the client's preface comes first."""
        self._now = now
        self._filled = now()
        self._budget = BURST
        self._skip = len(PREFACE) if preface else 0
        """Bytes of the present frame that are still to come, and are passed on."""
        self._head = b""
        self._goaway: bytearray | None = None
        self._left = 0
        self.last_stream: int | None = None
        """From GOAWAY: the last stream that the peer still serves."""

    def feed(self, data: bytes, most: int = 1 << 30) -> tuple[bytes, bytes]:
        """Return the bytes for h2 of about so many frames, and the rest. Raises Flood."""
        passed: list[bytes] = []
        at = 0
        while at < len(data) and most > 0:
            if self._skip:
                piece = data[at : at + self._skip]
                self._skip -= len(piece)
                at += len(piece)
                passed.append(piece)
                continue
            if self._goaway is not None:
                at = self._take_goaway(data, at)
                continue
            needed = HEAD - len(self._head)
            self._head += data[at : at + needed]
            at += min(needed, len(data) - at)
            if len(self._head) == HEAD:
                head, self._head = self._head, b""
                most -= PARSED_AS.get(head[3], 1)
                passed.append(self._begin(head))
        return b"".join(passed), data[at:]

    def earn(self, size: int) -> None:
        """Fill the budget for bytes of use that were received or sent."""
        self._budget = min(BURST, self._budget + PER_KIB * size / 1024)

    def _begin(self, head: bytes) -> bytes:
        size = int.from_bytes(head[:3], "big")
        kind = head[3]
        if size > MAX_FRAME:
            raise Flood("a frame is too large")
        if kind == GOAWAY:
            self._pay(1.0)
            self._goaway, self._left = bytearray(), size
            if size == 0:
                raise Flood("GOAWAY is malformed")
            return b""
        if kind == DATA and size:
            self.earn(size)
            self._pay(0.1)
        else:
            self._pay(COSTS.get(kind, 1.0))
        self._skip = size
        return head

    def _take_goaway(self, data: bytes, at: int) -> int:
        kept = self._goaway if self._goaway is not None else bytearray()
        piece = data[at : at + self._left]
        kept += piece[: max(0, 8 - len(kept))]
        self._left -= len(piece)
        if not self._left:
            if len(kept) < 8:
                raise Flood("GOAWAY is malformed")
            self.last_stream = int.from_bytes(kept[:4], "big") & 0x7FFF_FFFF
            self._goaway = None
        return at + len(piece)

    def _pay(self, cost: float) -> None:
        self._budget -= cost
        if self._budget < 0:
            now = self._now()
            self._budget = min(BURST, self._budget + (now - self._filled) * PER_SECOND)
            self._filled = now
            if self._budget < 0:
                raise Flood("too many frames that carry nothing")


def goaway(last_stream: int, code: int = 0) -> bytes:
    """Return a GOAWAY frame, after which streams up to `last_stream` still finish."""
    head = (8).to_bytes(3, "big") + bytes((GOAWAY, 0, 0, 0, 0, 0))
    return head + last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
