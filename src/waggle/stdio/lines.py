# SPDX-License-Identifier: Apache-2.0
"""Cut what a stdio client writes into lines, each bounded. Pure.

Called by `waggle.stdio.server`. Of a line that is too long only its beginning and end are kept:
enough to find the id of the request, so that its client gets an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

ENDS = 4096
"""Bytes kept at each end of a line that is too long."""

_ID = rb'"id"\s*:\s*(-?\d{1,18}|"(?:[^"\\]|\\.){0,200}")'
_FIRST = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,200}"\s*,)*\s*' + _ID)
_LAST = re.compile(rb"[,{]\s*" + _ID + rb"\s*\}\s*\Z")


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line that was dropped: its size in bytes, its beginning and its end."""

    size: int
    head: bytes
    tail: bytes

    def request_id(self) -> int | str | None:
        """The id of the message, if it is one of the first or the last member, as it mostly is."""
        found = _FIRST.match(self.head) or _LAST.search(self.tail)
        try:
            return json.loads(found[1]) if found else None
        except ValueError:
            return None


class Lines:
    """Bytes in, lines out. Holds at most `longest` bytes, and the piece that it was fed."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._line = bytearray()
        self._tail = b""
        self._dropped = 0

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """The lines that `data` completes, without their ends."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._add(data[start:end])
            yield self._take()
            start = end + 1
        self._add(data[start:])

    def end(self) -> bytes | TooLong:
        """What came after the last line end; empty when there was nothing."""
        return self._take()

    def _add(self, piece: bytes) -> None:
        if not self._dropped and len(self._line) + len(piece) <= self._longest:
            self._line += piece
            return
        if not self._dropped:
            self._dropped = len(self._line)
            self._tail = bytes(self._line[-ENDS:])
            self._line += piece[:ENDS]
            del self._line[ENDS:]
        self._dropped += len(piece)
        self._tail = (self._tail + piece[-ENDS:])[-ENDS:]

    def _take(self) -> bytes | TooLong:
        line, dropped, tail = bytes(self._line), self._dropped, self._tail
        self._line, self._dropped, self._tail = bytearray(), 0, b""
        return TooLong(dropped, line, tail) if dropped else line
